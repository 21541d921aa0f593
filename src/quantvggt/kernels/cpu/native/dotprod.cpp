// ARM's dot product (ARMv8.2): one instruction sums 4 products in each of 4 columns.
#define LANES 4
#include <arm_neon.h>

#include "dequantize.h"
#include "linear.h"
#include "rotate.h"

namespace {

struct Dot : Panels {
    using A = int8_t;
    using W = int8_t;
    static constexpr int ROWS = 8, COLS = 8, OFFSET8 = 0, OFFSET4 = 0;

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        int32x4_t acc[R][2];
        for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = vdupq_n_s32(0);
        for (int64_t s = 0; s < steps; s++, a += R, w += COLS) {
            const int8x16_t w0 = vreinterpretq_s8_s32(vld1q_s32(w)), w1 = vreinterpretq_s8_s32(vld1q_s32(w + 4));
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(a[r]));
                acc[r][0] = vdotq_s32(acc[r][0], w0, x);
                acc[r][1] = vdotq_s32(acc[r][1], w1, x);
            }
        }
        std::memcpy(out, acc, sizeof acc);
    }
};

}  // namespace

EXPORT int dotprod_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Dot>(args); });
}
EXPORT int dotprod_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Dot>(args); });
}
EXPORT int dotprod_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
