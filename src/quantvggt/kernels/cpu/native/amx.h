// The instructions on AMX's tiles that amx.cpp uses. With EMULATE_AMX they are plain C++, so that a CPU without
// them can test everything else.
#pragma once
#include <immintrin.h>

#ifndef EMULATE_AMX

// Macros, because the compiler takes a tile's number as written only. It is also told that memory is read, which some
// versions of its header forget: without that it may write panels or shapes after they were loaded.
#define tile_configure(config)                              \
    do {                                                    \
        __asm__ volatile("" ::"r"(config) : "memory");      \
        _tile_loadconfig(config);                           \
    } while (0)
#define tile_load(tile, from, stride)                       \
    do {                                                    \
        __asm__ volatile("" ::: "memory");                  \
        _tile_loadd(tile, from, stride);                    \
    } while (0)
#define tile_release() _tile_release()
#define tile_zero(tile) _tile_zero(tile)
#define tile_multiply(sum, a, b) _tile_dpbssd(sum, a, b)
#define tile_store(tile, to, stride)                        \
    do {                                                    \
        _tile_stored(tile, to, stride);                     \
        __asm__ volatile("" ::: "memory");                  \
    } while (0)

#else

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

// Intel's manual, volume 2, LDTILECFG, TILELOADD, TDPBSSD and TILESTORED.
struct Tiles {
    uint8_t config[64] = {};
    int8_t bytes[8][16][64];

    int rows(int tile) const { return config[48 + tile]; }
    int width(int tile) const { return config[16 + 2 * tile] + 256 * config[17 + 2 * tile]; }
    void require(bool legal) const {
        if (config[0] != 1 || !legal) std::abort();  // the instruction would trap
    }
};
thread_local Tiles tiles;

inline void tile_configure(const void *config) {
    std::memcpy(tiles.config, config, 64);
    std::memset(tiles.bytes, 0, sizeof tiles.bytes);
}
inline void tile_release() { std::memset(tiles.config, 0, 64); }
inline void tile_zero(int tile) {
    tiles.require(tiles.rows(tile) > 0);
    std::memset(tiles.bytes[tile], 0, sizeof tiles.bytes[tile]);
}
inline void tile_load(int tile, const void *from, int64_t stride) {
    tiles.require(tiles.rows(tile) > 0);
    std::memset(tiles.bytes[tile], 0, sizeof tiles.bytes[tile]);
    for (int r = 0; r < tiles.rows(tile); r++)
        std::memcpy(tiles.bytes[tile][r], static_cast<const char *>(from) + r * stride, tiles.width(tile));
}
inline void tile_store(int tile, void *to, int64_t stride) {
    tiles.require(tiles.rows(tile) > 0);
    for (int r = 0; r < tiles.rows(tile); r++)
        std::memcpy(static_cast<char *>(to) + r * stride, tiles.bytes[tile][r], tiles.width(tile));
}
inline void tile_multiply(int sum, int a, int b) {
    tiles.require(tiles.width(a) / 4 == tiles.rows(b) && tiles.rows(sum) == tiles.rows(a));
    tiles.require(tiles.width(sum) == tiles.width(b) && sum != a && sum != b && a != b);
    for (int r = 0; r < tiles.rows(sum); r++)
        for (int c = 0; c < tiles.width(sum) / 4; c++) {
            int32_t total;
            std::memcpy(&total, tiles.bytes[sum][r] + 4 * c, 4);
            for (int k = 0; k < tiles.width(a); k++)
                total += int32_t(tiles.bytes[a][r][k]) * tiles.bytes[b][k / 4][4 * c + k % 4];
            std::memcpy(tiles.bytes[sum][r] + 4 * c, &total, 4);
        }
}

}  // namespace

#endif
