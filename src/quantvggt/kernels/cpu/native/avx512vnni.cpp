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
        // A sum takes a product every four cycles, a cycle two products: small tiles have their sums in parts.
        constexpr int N = COLS / 16, PARTS = R * N < 4 ? 8 / (R * N) : 1;
        __m512i acc[PARTS][R][N];
        for (auto &part : acc)
            for (auto &row : part)
                for (auto &sum : row) sum = _mm512_setzero_si512();
        const auto step = [&](__m512i(&part)[R][N]) {
            __m512i weights[N];
            for (int i = 0; i < N; i++) weights[i] = _mm512_load_si512(w + 16 * i);
#pragma GCC unroll 12
            for (int r = 0; r < R; r++) {
                const __m512i x = _mm512_set1_epi32(a[r]);
                for (int i = 0; i < N; i++) part[r][i] = _mm512_dpbusd_epi32(part[r][i], weights[i], x);
            }
            a += R, w += COLS;
        };
        int64_t s = 0;
        for (; s + PARTS <= steps; s += PARTS)
#pragma GCC unroll 8
            for (int p = 0; p < PARTS; p++) step(acc[p]);
        for (; s < steps; s++) step(acc[0]);
#pragma GCC unroll 8
        for (int p = 1; p < PARTS; p++)
#pragma GCC unroll 12
            for (int r = 0; r < R; r++)
                for (int i = 0; i < N; i++) acc[0][r][i] = _mm512_add_epi32(acc[0][r][i], acc[p][r][i]);
        std::memcpy(out, acc[0], sizeof acc[0]);
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
