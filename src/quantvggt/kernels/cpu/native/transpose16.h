// 16 x 16 words the other way round, in 512-bit vectors.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

// Up to 16 steps and columns. Reads whole vectors: rows are as long as a chunk, whatever of it counts.
inline void transpose16(int64_t steps, int columns, const int32_t *in, int64_t stride, int32_t *out, int out_stride) {
    __m512i a[16], b[16];
    for (int c = 0; c < 16; c++) a[c] = c < columns ? _mm512_load_si512(in + c * stride) : _mm512_setzero_si512();
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    // Quarter v of a[4 j + i] now holds step 4 v + i of columns 4 j to 4 j + 3.
    for (int i = 0; i < 4; i++) {
        const __m512i even_low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
        const __m512i even_high = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        const __m512i odd_low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        const __m512i odd_high = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        b[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        b[4 + i] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        b[8 + i] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        b[12 + i] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
    const __mmask16 mask = columns < 16 ? (1 << columns) - 1 : 0xffff;
    for (int s = 0; s < 16 && s < steps; s++) _mm512_mask_storeu_epi32(out + s * out_stride, mask, b[s]);
}

}  // namespace
