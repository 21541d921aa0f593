// AVX2: numbers widened to 16 bits. vpmaddubsw would do 8 bits at once, but saturates.
#define LANES 8
#include <immintrin.h>

#include "dequantize.h"
#include "linear.h"
#include "rotate.h"

namespace {

struct Avx2 : Panels {
    using A = int16_t;
    using W = int16_t;
    // With 6 rows gcc runs out of its 16 registers and is slower by a third.
    static constexpr int ROWS = 4, COLS = 16, OFFSET8 = 0, OFFSET4 = 0;

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        __m256i acc[R][2];
        for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
        for (int64_t s = 0; s < steps; s++, a += R, w += COLS) {
            const __m256i w0 = _mm256_load_si256((const __m256i *)w);
            const __m256i w1 = _mm256_load_si256((const __m256i *)w + 1);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m256i x = _mm256_set1_epi32(a[r]);
                acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(x, w0));
                acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(x, w1));
            }
        }
        std::memcpy(out, acc, sizeof acc);
    }
};

}  // namespace

EXPORT int avx2_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Avx2>(args); });
}
EXPORT int avx2_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Avx2>(args); });
}
EXPORT int avx2_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
