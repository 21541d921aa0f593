// AVX512-VNNI: as AVX-VNNI, twice as wide.
#define LANES 16
#include <immintrin.h>

#include "dequantize.h"
#include "linear.h"
#include "rotate.h"
#include "transpose512.h"

namespace {

struct Avx512Vnni : Transpose512 {
    using A = int8_t;
    using W = uint8_t;
    static constexpr int ROWS = 12, COLS = 32, OFFSET8 = 128, OFFSET4 = 8;

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        __m512i acc[R][2];
        for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
        for (int64_t s = 0; s < steps; s++, a += R, w += COLS) {
            const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 16);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                const __m512i x = _mm512_set1_epi32(a[r]);
                acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w0, x);
                acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w1, x);
            }
        }
        std::memcpy(out, acc, sizeof acc);
    }
};

}  // namespace

EXPORT int avx512vnni_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Avx512Vnni>(args); });
}
EXPORT int avx512vnni_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Avx512Vnni>(args); });
}
EXPORT int avx512vnni_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
