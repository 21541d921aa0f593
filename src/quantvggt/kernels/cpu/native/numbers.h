// Float formats. Everything is in an unnamed namespace: each path compiles its own copy for its own CPU,
// and the linker must not merge them.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

inline float as_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t as_bits(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }

// Adding it rounds half to even and leaves the integer in the low bits; and as integers the bits are in the numbers' order.
constexpr float MIDDLE = 0x1.8p23f;

inline float widen(float x) { return x; }
inline float widen(bfloat16 x) { return as_float(uint32_t(x.bits) << 16); }
inline float widen(float16 x) {
    uint32_t magnitude = x.bits & 0x7fffu;
    // A half's bits read as a float's are too small by 2^112, subnormals included.
    uint32_t bits = as_bits(as_float(magnitude << 13) * 0x1p112f);
    bits = magnitude >= 0x7c00u ? bits | 0x7f800000u : bits;
    return as_float(bits | uint32_t(x.bits & 0x8000u) << 16);
}

// All three round half to even, once.
inline void narrow(float x, float &out) { out = x; }
inline void narrow(float x, bfloat16 &out) {
    uint32_t u = as_bits(x);
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    out.bits = uint16_t((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
inline void narrow(float x, float16 &out) {
    uint32_t u = as_bits(x), sign = u & 0x80000000u;
    u ^= sign;
    uint32_t normal = (u + 0xc8000fffu + (u >> 13 & 1)) >> 13;
    uint32_t subnormal = as_bits(as_float(u) + 0.5f) - 0x3f000000u;
    uint32_t large = u > 0x7f800000u ? 0x7e00u : 0x7c00u;
    uint32_t half = u >= 0x47800000u ? large : u < 0x38800000u ? subnormal : normal;
    out.bits = uint16_t(half | sign >> 16);
}

}  // namespace
