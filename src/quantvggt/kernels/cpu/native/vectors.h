// Vectors of LANES floats, for any CPU: whoever includes this says how many.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));  // whose sums may wrap

inline Floats load(const float *p) { Floats v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float *p, Floats v) { std::memcpy(p, &v, sizeof v); }

// a + v signs, each of them 1 or -1: a fused product rounds no differently then, and leaves the units alone that only add.
inline Floats add_signed(Floats a, Floats v, Floats signs) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(v, signs, a);
#else
    return a + v * signs;
#endif
}

}  // namespace
