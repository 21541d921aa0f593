// AMX: 16 x 16 sums of 32 bfloat16 products each in one instruction.
#include "amx.h"
#include "bfloat512.h"

#include "attention.h"

namespace {

template <int D>
struct Tiles {
    static constexpr int64_t BLOCK = 1, KEYS = 256, ROWS = 32, WORDS = D / 2;
    using Task = FullTiles;

    static void lay_out(const uint16_t *keys, uint32_t *panel) { lay_out_by_pairs(keys, WORDS, panel); }

    // Tiles 0 to 3 sum, 4 and 5 are queries or weights, 6 and 7 keys or values.
    static void multiply() {
        tile_multiply_bf16(0, 4, 6);
        tile_multiply_bf16(1, 4, 7);
        tile_multiply_bf16(2, 5, 6);
        tile_multiply_bf16(3, 5, 7);
    }

    static void score(const uint16_t *queries, const uint32_t *k, int64_t width, float *scores) {
        constexpr int64_t LEFT = 2 * D, RIGHT = 64, OUT = 4 * KEYS;  // bytes from row to row
        for (int64_t i = 0; i < width; i += 32, k += 32 * WORDS, scores += 32) {
            tile_zero(0);
            tile_zero(1);
            tile_zero(2);
            tile_zero(3);
            for (int64_t w = 0; w < WORDS; w += 16) {
                tile_load(4, queries + 2 * w, LEFT);
                tile_load(5, queries + 16 * D + 2 * w, LEFT);
                tile_load(6, k + w * 16, RIGHT);
                tile_load(7, k + (WORDS + w) * 16, RIGHT);
                multiply();
            }
            tile_store(0, scores, OUT);
            tile_store(1, scores + 16, OUT);
            tile_store(2, scores + 16 * KEYS, OUT);
            tile_store(3, scores + 16 * KEYS + 16, OUT);
        }
    }

    static bool weigh(const uint16_t *, const uint32_t *, int64_t, float, const float *, uint16_t *, float *) {
        return false;  // sums in tiles reach vectors through memory anyway
    }

    static void add_values(const uint16_t *weights, const uint32_t *v, int64_t width, float *out) {
        constexpr int64_t LEFT = 2 * KEYS, RIGHT = 4 * D;
        for (int64_t c = 0; c < D; c += 32, v += 32, out += 32) {
            tile_load(0, out, RIGHT);
            tile_load(1, out + 16, RIGHT);
            tile_load(2, out + 16 * D, RIGHT);
            tile_load(3, out + 16 * D + 16, RIGHT);
            for (int64_t key = 0; key < width; key += 32) {
                tile_load(4, weights + key, LEFT);
                tile_load(5, weights + 16 * KEYS + key, LEFT);
                tile_load(6, v + key / 2 * D, RIGHT);
                tile_load(7, v + key / 2 * D + 16, RIGHT);
                multiply();
            }
            tile_store(0, out, RIGHT);
            tile_store(1, out + 16, RIGHT);
            tile_store(2, out + 16 * D, RIGHT);
            tile_store(3, out + 16 * D + 16, RIGHT);
        }
    }
};

}  // namespace

EXPORT int amxbf16_attention(const AttentionArgs *args) {
    return status_of([=] { attention<Tiles>(args); });
}
