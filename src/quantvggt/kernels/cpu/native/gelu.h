// GELU with the exact error function (arXiv 1606.08415), written so that a compiler can vectorise it.
#pragma once
#include "numbers.h"

namespace {

// x Phi(x) = max(x, 0) - t Phi(-t) with t = |x|, and Phi(-t) = P(t)^-8. P is a polynomial fitted to Phi(-t)^(-1/8)
// on [0, 6.5]: where Phi(-t) t counts for its relative error, farther out for its absolute one. The whole is within
// 3e-7 max(1, |x|) of the exact value, and there is no exponential to compute.
inline float gelu(float x) {
    const float magnitude = as_float(as_bits(x) & 0x7fffffffu);
    const float t = magnitude < 16 ? magnitude : 16;  // nothing is left there, and an infinity would be divided by one
    float p = 0x1.adf538p-22f;
    p = p * t - 0x1.5b0ad4p-19f;
    p = p * t + 0x1.0ce300p-16f;
    p = p * t - 0x1.d79358p-20f;
    p = p * t + 0x1.4d9424p-12f;
    p = p * t + 0x1.c358d6p-11f;
    p = p * t + 0x1.371224p-7f;
    p = p * t + 0x1.8fd0cep-5f;
    p = p * t + 0x1.bd7e76p-4f;
    p = p * t + 0x1.172b84p+0f;
    p = p * p, p = p * p, p = p * p;
    return (x < 0 ? 0 : x) - t / p;
}

}  // namespace
