// ARM's 8-bit matrix product (ARMv8.6, I8MM): one instruction multiplies 8 numbers of 2 rows with those of 2 columns.
#define LANES 4
#include <arm_neon.h>

#include "dequantize.h"
#include "linear.h"
#include "rotate.h"

namespace {

struct Matrix : Panels {
    using A = int8_t;
    using W = int8_t;
    static constexpr int ROWS = 8, COLS = 8, OFFSET8 = 0, OFFSET4 = 0;
    static constexpr int BLOCK = 2;  // words of one row or column side by side
    static constexpr int SMALLEST = 2, ABREAST = 2;

    // out[s / 2][c][s % 2] = in[c][s], of activations and weights alike.
    static void transpose(int64_t count, int columns, const int32_t *in, int64_t stride, int32_t *out) {
        for (int64_t s = 0; s < count; s += BLOCK, out += BLOCK * columns)
            for (int c = 0; c < columns; c++) std::memcpy(out + BLOCK * c, in + c * stride + s, BLOCK * sizeof *in);
    }
    static void lay_out(int64_t count, int rows, const int32_t *in, int64_t stride, int32_t *out) {
        transpose(count, rows, in, stride, out);
    }

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        int32x4_t acc[R / 2][COLS / 2];  // 2 rows of 2 columns each
        for (auto &row : acc)
            for (auto &pair : row) pair = vdupq_n_s32(0);
        for (int64_t s = 0; s < steps; s += BLOCK, a += BLOCK * R, w += BLOCK * COLS) {
            int8x16_t x[R / 2], y[COLS / 2];
            for (int r = 0; r < R / 2; r++) x[r] = vreinterpretq_s8_s32(vld1q_s32(a + 4 * r));
            for (int c = 0; c < COLS / 2; c++) y[c] = vreinterpretq_s8_s32(vld1q_s32(w + 4 * c));
#pragma GCC unroll 4
            for (int r = 0; r < R / 2; r++)
#pragma GCC unroll 4
                for (int c = 0; c < COLS / 2; c++) acc[r][c] = vmmlaq_s32(acc[r][c], x[r], y[c]);
        }
        for (int r = 0; r < R; r++)
            for (int c = 0; c < COLS / 2; c++) {
                const int32x4_t pair = acc[r / 2][c];
                vst1_s32(out + r * COLS + 2 * c, r % 2 ? vget_high_s32(pair) : vget_low_s32(pair));
            }
    }
};

}  // namespace

EXPORT int i8mm_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Matrix>(args); });
}
EXPORT int i8mm_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Matrix>(args); });
}
EXPORT int i8mm_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
