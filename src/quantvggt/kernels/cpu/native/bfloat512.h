// What attention.h asks of a CPU, from AVX512 and its bfloat16.
#pragma once
#include <immintrin.h>

#define LANES 16
#include "numbers.h"
#include "transpose16.h"
#include "vectors.h"

namespace {

inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats fraction(Floats x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats scaled(Floats x, Floats power) { return _mm512_scalef_ps(x, power); }
inline float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest_of(Floats x) { return _mm512_reduce_max_ps(x); }

inline Floats widen(const bfloat16 *x) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

inline void narrow(Floats a, Floats b, uint16_t *out) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(b, a);
    std::memcpy(out, &rounded, sizeof rounded);
}

// 16 keys of `words` pairs of channels: [pair][key].
inline void lay_out_by_pairs(const uint16_t *keys, int64_t words, uint32_t *out) {
    const int32_t *in = reinterpret_cast<const int32_t *>(keys);
    for (int64_t w = 0; w < words; w += 16)
        transpose16(16, 16, in + w, words, reinterpret_cast<int32_t *>(out) + w * 16, 16);
}

}  // namespace
