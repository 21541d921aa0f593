// AVX-VNNI: vpdpbusd adds four products of an unsigned weight and a signed activation, without saturation.
#define LANES 8
#include <immintrin.h>

#include "dequantize.h"
#include "linear.h"
#include "rotate.h"

namespace {

struct AvxVnni : Panels {
    using A = int8_t;
    using W = uint8_t;
    static constexpr int ROWS = 6, COLS = 16, OFFSET8 = 128, OFFSET4 = 8;

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        __m256i acc[R][2];
        for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
        for (int64_t s = 0; s < steps; s++, a += R, w += COLS) {
            const __m256i w0 = _mm256_load_si256((const __m256i *)w);
            const __m256i w1 = _mm256_load_si256((const __m256i *)w + 1);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                const __m256i x = _mm256_set1_epi32(a[r]);
                acc[r][0] = _mm256_dpbusd_avx_epi32(acc[r][0], w0, x);
                acc[r][1] = _mm256_dpbusd_avx_epi32(acc[r][1], w1, x);
            }
        }
        std::memcpy(out, acc, sizeof acc);
    }
};

}  // namespace

EXPORT int avxvnni_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<AvxVnni>(args); });
}
EXPORT int avxvnni_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<AvxVnni>(args); });
}
EXPORT int avxvnni_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
