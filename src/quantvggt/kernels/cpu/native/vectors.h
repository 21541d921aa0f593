// Vectors of LANES floats, for any CPU: whoever includes this says how many.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

inline Floats load(const float *p) { Floats v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float *p, Floats v) { std::memcpy(p, &v, sizeof v); }

}  // namespace
