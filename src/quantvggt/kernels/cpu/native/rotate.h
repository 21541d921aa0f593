// rotate_quantize for vectors of LANES floats. LayerNorm rounds as layer_norm in reference.py does. The rotation's
// additions are those of core/rotation.py, in its order: H_m first, then butterflies from the shortest stride to the
// longest, then the factor.
#pragma once
#include <cmath>
#include <cstring>

#include "args.h"
#include "host.h"
#include "numbers.h"

namespace {

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
inline Floats load(const float *p) { Floats v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float *p, Floats v) { std::memcpy(p, &v, sizeof v); }

// The butterfly of stride S inside one vector: lane i becomes v[i] + v[i + S], lane i + S v[i] - v[i + S].
template <int S>
inline Floats butterfly(Floats v) {
    Ints partner, sign;
    for (int i = 0; i < LANES; i++) partner[i] = i ^ S, sign[i] = i & S ? INT32_MIN : 0;
#if defined(__clang__)
    Floats other;
    for (int i = 0; i < LANES; i++) other[i] = v[i ^ S];
#else
    Floats other = __builtin_shuffle(v, partner);
#endif
    return other + (Floats)((Ints)v ^ sign);
}

inline Floats butterflies(Floats v) {
    v = butterfly<2>(butterfly<1>(v));
    if constexpr (LANES > 4) v = butterfly<4 % LANES>(v);
    if constexpr (LANES > 8) v = butterfly<8 % LANES>(v);
    return v;
}

// C vectors, `stride` floats apart, through the butterflies of log2(C) strides while they are in registers.
template <int C, bool INSIDE>
inline void combine(float *x, int64_t stride) {
    Floats v[C];
    for (int i = 0; i < C; i++) v[i] = INSIDE ? butterflies(load(x + i * stride)) : load(x + i * stride);
#pragma GCC unroll 4
    for (int half = 1; half < C; half *= 2)
        for (int i = 0; i < C; i++)
            if (!(i & half)) {
                const Floats a = v[i], b = v[i + half];
                v[i] = a + b, v[i + half] = a - b;
            }
    for (int i = 0; i < C; i++) store(x + i * stride, v[i]);
}

template <int C>
inline int64_t combine_all(float *x, int64_t n, int64_t half) {
    for (int64_t block = 0; block < n; block += C * half)
        for (int64_t i = block; i < block + half; i += LANES) combine<C, false>(x + i, half);
    return C * half;
}

// Sylvester's H_n on one run of n = 2^i floats.
void sylvester(float *x, int64_t n) {
    int64_t half = 1;
    if (n >= 4 * LANES) {
        for (int64_t i = 0; i < n; i += 4 * LANES) combine<4, true>(x + i, LANES);
        half = 4 * LANES;
        while (8 * half <= n) half = combine_all<8>(x, n, half);
        if (4 * half <= n) half = combine_all<4>(x, n, half);
    } else if (n >= LANES) {
        for (int64_t i = 0; i < n; i += LANES) store(x + i, butterflies(load(x + i)));
        half = LANES;
    }
    for (; half < n; half *= 2)
        for (int64_t block = 0; block < n; block += 2 * half)
            for (int64_t i = block; i < block + half; i++) {
                float a = x[i], b = x[i + half];
                x[i] = a + b, x[i + half] = a - b;
            }
}

// x H on one row, not yet divided by sqrt(d); `other` is scratch of the same size.
void hadamard(float *x, float *other, const RotateArgs &args) {
    const int64_t m = args.m, run = args.d / m;
    if (m == 1) return sylvester(x, run);
    // With the m numbers of a block spread over m runs, H_m adds whole runs, and Sylvester's part is one
    // transform of each run.
    for (int64_t i = 0; i < m; i++)
        for (int64_t b = 0; b < run; b++) other[i * run + b] = x[b * m + i];
    for (int64_t j = 0; j < m; j++) {
        float *sum = x + j * run;
        const float *signs = args.hadamard + j;
        const int64_t whole = run / LANES * LANES;
        for (int64_t b = 0; b < whole; b += LANES) {
            Floats v = {};
            for (int64_t i = 0; i < m; i++) v += load(other + i * run + b) * signs[i * m];
            store(sum + b, v);
        }
        for (int64_t b = whole; b < run; b++) {
            float v = 0;
            for (int64_t i = 0; i < m; i++) v += other[i * run + b] * signs[i * m];
            sum[b] = v;
        }
        sylvester(sum, run);
    }
    for (int64_t b = 0; b < run; b++)
        for (int64_t i = 0; i < m; i++) other[b * m + i] = x[i * run + b];
    std::memcpy(x, other, sizeof(float) * args.d);
}

constexpr int SUMS = 32;  // partial sums of a row, as many as in reference.py on every path

// Folded in halves, as there.
inline float fold(float *sums) {
    for (int half = SUMS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

// `x` has zeros behind its d numbers up to a multiple of SUMS.
void layer_norm(float *x, const RotateArgs &args) {
    constexpr int N = SUMS / LANES;
    const int64_t d = args.d;
    alignas(64) float sums[SUMS];
    Floats partial[N] = {};
    for (int64_t i = 0; i < d; i += SUMS)
        for (int j = 0; j < N; j++) partial[j] += load(x + i + j * LANES);
    std::memcpy(sums, partial, sizeof sums);
    const float mean = fold(sums) / float(d);
    for (int j = 0; j < N; j++) partial[j] = Floats{};
    for (int64_t i = 0; i < d; i += SUMS)
        for (int j = 0; j < N; j++) {
            const Floats v = load(x + i + j * LANES) - mean;
            store(x + i + j * LANES, v), partial[j] += v * v;
        }
    // Behind the row stands -mean now, which must not count.
    for (int64_t i = d; i < up(d, SUMS); i++) x[i] = 0;
    if (d % SUMS) {
        for (int j = 0; j < N; j++) partial[j] = Floats{};
        for (int64_t i = 0; i < d; i += SUMS)
            for (int j = 0; j < N; j++) partial[j] += load(x + i + j * LANES) * load(x + i + j * LANES);
    }
    std::memcpy(sums, partial, sizeof sums);
    const float rstd = 1 / std::sqrt(fold(sums) / float(d) + args.norm_eps);
    for (int64_t i = 0; i < d; i++) {
        float v = x[i] * rstd * args.norm_weight[i];
        if (args.norm_bias) v += args.norm_bias[i];
        x[i] = v;
    }
}

// x = (source - shift) / presmooth times the signs, as floats.
template <class T>
void prepare(const T *source, const float *signs, const RotateArgs &args, float *x) {
    const float *shift = args.shift, *presmooth = args.presmooth;
    for (int64_t i = 0; i < args.d; i++) {
        float v = widen(source[i]);
        if (shift) v -= shift[i];
        if (presmooth) v /= presmooth[i];
        x[i] = v * signs[i];
    }
}

// Scale the rotation, divide by smooth, and find the row's range, divide by its scale and round.
void quantize_row(float *__restrict x, const RotateArgs &args, int64_t row) {
    const int64_t d = args.d;
    const float factor = args.signs ? args.factor : 1, *smooth = args.smooth;
    // The bits of floats compared as signed integers find the maximum, as unsigned ones the minimum, and NaNs
    // stand beyond the infinities. Starting from 0 changes no absmax.
    int32_t top_bits = 0;
    uint32_t bottom_bits = 0x80000000u;
    for (int64_t i = 0; i < d; i++) {
        float v = x[i] * factor;
        if (smooth) v /= smooth[i];
        x[i] = v;
        const uint32_t bits = as_bits(v);
        top_bits = int32_t(bits) > top_bits ? int32_t(bits) : top_bits;
        bottom_bits = bits > bottom_bits ? bits : bottom_bits;
    }
    float h = as_float(uint32_t(top_bits)), l = as_float(bottom_bits);
    if (args.clip) h *= args.clip[0], l *= args.clip[1];
    const bool special = row % args.frame_tokens < args.special_tokens;
    const int64_t bits = special ? args.special_bits : args.bits;
    float top = float((1 << (bits - 1)) - 1), bottom = -top - 1, scale;
    if (args.asymmetric && bits <= 7) {
        const float levels = 2 * top + 1;
        scale = (h - l) / levels;
        if (!(scale > 0)) scale = 1;
        float zero = (-l / scale + 0x1.8p23f) - 0x1.8p23f;  // rounds half to even
        zero = zero > 0 ? zero : 0;
        zero = zero < levels ? zero : levels;
        bottom = -zero, top = levels - zero;
    } else {
        scale = (h > -l ? h : -l) / top;
        if (h != h || l != l || !(scale > 0)) scale = 1;
    }
    args.scale[row] = scale;

    int8_t *__restrict q = args.q + row * d;
    for (int64_t i = 0; i < d; i++) {
        float v = x[i] / scale;
        v = v < bottom ? bottom : v;
        v = v > top ? top : v;
        // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
        q[i] = int8_t(as_bits(v + 0x1.8p23f));
    }
}

constexpr int64_t ROWS_PER_TASK = 16;

template <class T>
void rotate_rows(void *pointer, int64_t task) {
    const RotateArgs &args = *static_cast<const RotateArgs *>(pointer);
    const int64_t d = args.d, padded = up(d, SUMS);
    float *__restrict x = static_cast<float *>(scratch(sizeof(float) * 3 * padded));
    float *other = x + padded, *signs = other + padded;
    // Without signs ones, so that one loop that the compiler can split by options serves all.
    for (int64_t i = 0; i < d; i++) signs[i] = args.signs ? args.signs[i] : 1;
    for (int64_t i = d; i < padded; i++) x[i] = 0;
    const int64_t first = task * ROWS_PER_TASK;
    const int64_t end = first + ROWS_PER_TASK < args.rows ? first + ROWS_PER_TASK : args.rows;
    for (int64_t row = first; row < end; row++) {
        const T *source = static_cast<const T *>(args.x) + row * d;
        if (args.norm_weight) {
            for (int64_t i = 0; i < d; i++) x[i] = widen(source[i]);
            layer_norm(x, args);
            prepare(x, signs, args, x);
        } else {
            prepare(source, signs, args, x);
        }
        if (args.signs) hadamard(x, other, args);
        quantize_row(x, args, row);
    }
}

void rotate_quantize(RotateArgs *args) {
    auto rows = args->x_type == FLOAT32    ? rotate_rows<float>
                : args->x_type == BFLOAT16 ? rotate_rows<bfloat16>
                                           : rotate_rows<float16>;
    run_tasks((args->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, args->threads, rows, args);
}

}  // namespace
