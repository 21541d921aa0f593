// ARM's bfloat16 matrix product (ARMv8.6): one instruction multiplies 4 numbers of 2 rows with those of 2 columns.
#define LANES 4
#include <arm_neon.h>

#include "numbers.h"
#include "vectors.h"

namespace {

// What attention.h asks.
inline Floats all(float x) { return vdupq_n_f32(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats larger(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats fraction(Floats x) {
    x = larger(x, all(-200));  // 2^-200 is 0 as well
    return x - vrndnq_f32(x);
}
inline float sum_of(Floats x) { return vaddvq_f32(x); }
inline float largest_of(Floats x) { return vmaxvq_f32(x); }
inline Floats widen(const bfloat16 *x) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t *>(x)), 16));
}
inline void narrow(Floats a, Floats b, uint16_t *out) {
    vst1q_u16(out, vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(a), b)));
}
inline Floats scaled(Floats x, Floats power) {
    // A float's exponent: at -127 it is 0, at 128 infinity.
    const int32x4_t n = vminq_s32(vmaxq_s32(vcvtq_s32_f32(power), vdupq_n_s32(-127)), vdupq_n_s32(128));
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23)));
}

}  // namespace

#include "attention.h"

namespace {

// Sums of 8 rows and 8 columns, those of 2 rows and 2 columns in a vector.
struct Tile {
    static constexpr int SIDE = 8;
    Floats sums[SIDE / 2][SIDE / 2];

    // Adds products of `words` pairs of numbers of each row and column. left: rows, a stride of numbers apart.
    // right: [2 pairs][column], a stride of words from the first two pairs to the next.
    void multiply(const uint16_t *left, int64_t left_stride, const uint32_t *right, int64_t right_stride,
                  int64_t words) {
        for (int64_t w = 0; w < words; w += 2, left += 4, right += right_stride) {
            bfloat16x8_t y[SIDE / 2];
            for (int c = 0; c < SIDE / 2; c++) y[c] = vreinterpretq_bf16_u32(vld1q_u32(right + 4 * c));
#pragma GCC unroll 4
            for (int r = 0; r < SIDE / 2; r++) {
                const uint16_t *row = left + 2 * r * left_stride;
                const bfloat16x8_t x =
                    vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(row), vld1_u16(row + left_stride)));
#pragma GCC unroll 4
                for (int c = 0; c < SIDE / 2; c++) sums[r][c] = vbfmmlaq_f32(sums[r][c], x, y[c]);
            }
        }
    }

    // Of a row, columns 4 quarter to 4 quarter + 3.
    Floats part(int row, int quarter) const {
        const float32x4_t a = sums[row / 2][2 * quarter], b = sums[row / 2][2 * quarter + 1];
        return row % 2 ? vcombine_f32(vget_high_f32(a), vget_high_f32(b))
                       : vcombine_f32(vget_low_f32(a), vget_low_f32(b));
    }

    void load(const float *from, int64_t stride) {
        for (int r = 0; r < SIDE; r += 2)
            for (int c = 0; c < SIDE; c += 2)
                sums[r / 2][c / 2] =
                    vcombine_f32(vld1_f32(from + r * stride + c), vld1_f32(from + (r + 1) * stride + c));
    }
    void store(float *to, int64_t stride) const {
        for (int r = 0; r < SIDE; r++) ::store(to + r * stride, part(r, 0)), ::store(to + r * stride + 4, part(r, 1));
    }
};

template <int D>
struct Matrix {
    static constexpr int64_t BLOCK = 2, KEYS = 256, ROWS = Tile::SIDE, BUFFERS = 1, WORDS = D / 2;
    struct Task {};

    static void lay_out(const uint16_t *keys, uint32_t *panel) {
        for (int64_t w = 0; w < WORDS; w += BLOCK)
            for (int64_t key = 0; key < PANEL; key++, panel += BLOCK)
                std::memcpy(panel, keys + key * D + 2 * w, 4 * BLOCK);
    }

    // take(r, i, a, b) gets query r's products with keys i to i + 3 and i + 4 to i + 7.
    template <class Take>
    static void multiply(const uint16_t *queries, const uint32_t *k, int64_t width, Take take) {
        for (int64_t i = 0; i < width; i += Tile::SIDE) {
            Tile tile = {};
            tile.multiply(queries, D, k + i / PANEL * PANEL * WORDS + i % PANEL * BLOCK, PANEL * BLOCK, WORDS);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) take(r, i, tile.part(r, 0), tile.part(r, 1));
        }
    }

    static void score(const uint16_t *queries, const uint32_t *k, int64_t width, float *scores) {
        multiply(queries, k, width, [=](int r, int64_t i, Floats a, Floats b) {
            store(scores + r * KEYS + i, a);
            store(scores + r * KEYS + i + LANES, b);
        });
    }

    static bool weigh(const uint16_t *queries, const uint32_t *k, int64_t width, float scale, const float *shift,
                      uint16_t *weights, float *sums) {
        Floats parts[ROWS] = {};
        multiply(queries, k, width, [&](int r, int64_t i, Floats a, Floats b) {
            parts[r] += exponentials(a, b, scale, shift[r], weights + r * KEYS + i);
        });
        float added[ROWS];
        bool near = true;
        for (int r = 0; r < ROWS; r++) added[r] = sum_of(parts[r]), near = near && added[r] < FAR;
        for (int r = 0; r < ROWS && near; r++) sums[r] += added[r];
        return near;
    }

    static void add_values(const uint16_t *weights, const uint32_t *v, int64_t width, float *out) {
        for (int64_t c = 0; c < D; c += Tile::SIDE) {
            Tile tile;
            tile.load(out + c, D);
            tile.multiply(weights, KEYS, v + c * BLOCK, D * BLOCK, width / 2);
            tile.store(out + c, D);
        }
    }
};

}  // namespace

EXPORT int neonbf16_attention(const AttentionArgs *args) {
    return status_of([=] { attention<Matrix>(args); });
}
