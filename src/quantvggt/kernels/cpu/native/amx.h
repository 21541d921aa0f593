// The instructions on AMX's tiles that amx.cpp and amxbf16.cpp use. With EMULATE_AMX they are plain C++, so that a CPU
// without them can test everything else.
#pragma once
#include <immintrin.h>

#include <cstdint>

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
#define tile_multiply_bf16(sum, a, b) _tile_dpbf16ps(sum, a, b)
#define tile_store(tile, to, stride)                        \
    do {                                                    \
        _tile_stored(tile, to, stride);                     \
        __asm__ volatile("" ::: "memory");                  \
    } while (0)

#else

#include <cstdlib>
#include <cstring>

namespace {

// Intel's manual, volume 2, LDTILECFG, TILELOADD, TDPBSSD, TDPBF16PS and TILESTORED.
struct Emulation {
    uint8_t config[64] = {};
    int8_t bytes[8][16][64];

    int rows(int tile) const { return config[48 + tile]; }
    int width(int tile) const { return config[16 + 2 * tile] + 256 * config[17 + 2 * tile]; }
    void require(bool legal) const {
        if (config[0] != 1 || !legal) std::abort();  // the instruction would trap
    }
};
thread_local Emulation tiles;

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
// sum += a . b, where a row of `a` and a column of `b` hold the same 32-bit words of Numbers along k.
template <class Number, class Sum>
void multiply_tiles(int sum, int a, int b, Sum (*value)(Number)) {
    constexpr int STEP = 4 / sizeof(Number);
    tiles.require(tiles.width(a) / 4 == tiles.rows(b) && tiles.rows(sum) == tiles.rows(a));
    tiles.require(tiles.width(sum) == tiles.width(b) && sum != a && sum != b && a != b);
    for (int r = 0; r < tiles.rows(sum); r++)
        for (int c = 0; c < tiles.width(sum) / 4; c++) {
            Sum total;
            std::memcpy(&total, tiles.bytes[sum][r] + 4 * c, 4);
            for (int k = 0; k < tiles.rows(b); k++) {
                Number left[STEP], right[STEP];
                std::memcpy(left, tiles.bytes[a][r] + 4 * k, 4);
                std::memcpy(right, tiles.bytes[b][k] + 4 * c, 4);
                for (int i = 0; i < STEP; i++) total += value(left[i]) * value(right[i]);
            }
            std::memcpy(tiles.bytes[sum][r] + 4 * c, &total, 4);
        }
}
inline void tile_multiply(int sum, int a, int b) {
    multiply_tiles<int8_t, int32_t>(sum, a, b, [](int8_t x) { return int32_t(x); });
}
inline void tile_multiply_bf16(int sum, int a, int b) {
    multiply_tiles<uint16_t, float>(sum, a, b, [](uint16_t x) {
        const uint32_t bits = uint32_t(x) << 16;
        float y;
        std::memcpy(&y, &bits, 4);
        return y;
    });
}

}  // namespace

#endif

namespace {

// All tiles 16 rows of 64 bytes. Their shapes hold for one thread, and giving them back spares the system from saving
// them.
struct FullTiles {
    FullTiles() {
        alignas(64) uint8_t config[64] = {1};  // the palette
        for (int tile = 0; tile < 8; tile++) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
        tile_configure(config);
    }
    ~FullTiles() { tile_release(); }
};

}  // namespace
