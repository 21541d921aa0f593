// AVX512 with bfloat16 dot products (Zen 4, Cooper Lake, Sapphire Rapids and later).
#include "bfloat512.h"

#include "attention.h"

namespace {

inline __m512bh pairs(const void *p) { __m512i v = _mm512_loadu_si512(p); return reinterpret_cast<__m512bh &>(v); }
inline __m512bh pair(const void *p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    __m512i v = _mm512_set1_epi32(word);
    return reinterpret_cast<__m512bh &>(v);
}

template <int D>
struct Dot {
    static constexpr int64_t BLOCK = 1, KEYS = 512, ROWS = 12, BUFFERS = 1;
    static constexpr int64_t WORDS = D / 2, COLUMNS = D / 16, VALUE_ROWS = 24 / COLUMNS;
    struct Task {};

    static void lay_out(const uint16_t *keys, uint32_t *panel) { lay_out_by_pairs(keys, WORDS, panel); }

    // take(r, i, a, b) gets query r's products with keys i to i + 15 and i + 16 to i + 31.
    template <class Take>
    static void multiply(const uint16_t *queries, const uint32_t *k, int64_t width, Take take) {
        for (int64_t i = 0; i < width; i += 32, k += 32 * WORDS) {
            __m512 acc[ROWS][2];
            for (int r = 0; r < ROWS; r++) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
            for (int64_t w = 0; w < WORDS; w++) {
                const __m512bh a = pairs(k + w * 16), b = pairs(k + (WORDS + w) * 16);
#pragma GCC unroll 12
                for (int r = 0; r < ROWS; r++) {
                    const __m512bh x = pair(queries + r * D + 2 * w);
                    acc[r][0] = _mm512_dpbf16_ps(acc[r][0], a, x);
                    acc[r][1] = _mm512_dpbf16_ps(acc[r][1], b, x);
                }
            }
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; r++) take(r, i, acc[r][0], acc[r][1]);
        }
    }

    static void score(const uint16_t *queries, const uint32_t *k, int64_t width, float *scores) {
        multiply(queries, k, width, [=](int r, int64_t i, __m512 a, __m512 b) {
            _mm512_store_ps(scores + r * KEYS + i, a);
            _mm512_store_ps(scores + r * KEYS + i + 16, b);
        });
    }

    static bool weigh(const uint16_t *queries, const uint32_t *k, int64_t width, float scale, const float *shift,
                      uint16_t *weights, float *sums) {
        __m512 parts[ROWS];
        for (int r = 0; r < ROWS; r++) parts[r] = _mm512_setzero_ps();
        multiply(queries, k, width, [&](int r, int64_t i, __m512 a, __m512 b) {
            parts[r] = _mm512_add_ps(parts[r], exponentials(a, b, scale, shift[r], weights + r * KEYS + i));
        });
        float added[ROWS];
        bool near = true;
        for (int r = 0; r < ROWS; r++) added[r] = _mm512_reduce_add_ps(parts[r]), near = near && added[r] < FAR;
        for (int r = 0; r < ROWS && near; r++) sums[r] += added[r];
        return near;
    }

    static void add_values(const uint16_t *weights, const uint32_t *v, int64_t width, float *out) {
        for (int64_t r = 0; r < ROWS; r += VALUE_ROWS) add_rows(weights + r * KEYS, v, width, out + r * D);
    }

    // VALUE_ROWS of them.
    static void add_rows(const uint16_t *weights, const uint32_t *v, int64_t width, float *out) {
        __m512 acc[VALUE_ROWS][COLUMNS];
        for (int i = 0; i < VALUE_ROWS; i++)
            for (int c = 0; c < COLUMNS; c++) acc[i][c] = _mm512_load_ps(out + i * D + 16 * c);
        for (int64_t s = 0; s < width / 2; s++, v += D) {
            __m512bh value[COLUMNS];
            for (int c = 0; c < COLUMNS; c++) value[c] = pairs(v + 16 * c);
#pragma GCC unroll 12
            for (int i = 0; i < VALUE_ROWS; i++) {
                const __m512bh x = pair(weights + i * KEYS + 2 * s);
#pragma GCC unroll 8
                for (int c = 0; c < COLUMNS; c++) acc[i][c] = _mm512_dpbf16_ps(acc[i][c], value[c], x);
            }
        }
        for (int i = 0; i < VALUE_ROWS; i++)
            for (int c = 0; c < COLUMNS; c++) _mm512_store_ps(out + i * D + 16 * c, acc[i][c]);
    }
};

}  // namespace

EXPORT int avx512bf16_attention(const AttentionArgs *args) {
    return status_of([=] { attention<Dot>(args); });
}
