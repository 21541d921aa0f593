// AVX512-VNNI: as AVX-VNNI, twice as wide.
#define LANES 16
#include <immintrin.h>

#include "dequantize.h"
#include "linear.h"
#include "rotate.h"
#include "transpose512.h"

namespace {

template <int COLUMNS>
struct Avx512Vnni : Transpose512 {
    using A = int8_t;
    using W = uint8_t;
    static constexpr int ROWS = 12, COLS = COLUMNS, OFFSET8 = 128, OFFSET4 = 8;

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        constexpr int N = COLS / 16;
        __m512i acc[R][N], weights[N];
        for (auto &row : acc)
            for (auto &sum : row) sum = _mm512_setzero_si512();
        for (int64_t s = 0; s < steps; s++, a += R, w += COLS) {
            for (int i = 0; i < N; i++) weights[i] = _mm512_load_si512(w + 16 * i);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                const __m512i x = _mm512_set1_epi32(a[r]);
                for (int i = 0; i < N; i++) acc[r][i] = _mm512_dpbusd_epi32(acc[r][i], weights[i], x);
            }
        }
        std::memcpy(out, acc, sizeof acc);
    }
};

}  // namespace

EXPORT int avx512vnni_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Avx512Vnni<16>>(args); });
}
EXPORT int avx512vnni_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Avx512Vnni<32>>(args); });
}
EXPORT int avx512vnni_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
