// rotate_quantize for vectors of LANES floats. LayerNorm rounds as layer_norm in reference.py does. The rotation's
// additions are those of core/rotation.py, in its order: H_m first, then butterflies from the shortest stride to the
// longest, then the factor.
#pragma once
#include <cmath>
#include <cstring>

#include "args.h"
#include "host.h"
#include "lowrank.h"
#include "numbers.h"
#include "panels.h"
#include "vectors.h"

namespace {

// The butterfly of stride S inside one vector: lane i becomes v[i] + v[i + S], lane i + S v[i] - v[i + S].
template <int S>
inline Floats butterfly(Floats v) {
    Ints partner;
    Floats sign;
    for (int i = 0; i < LANES; i++) partner[i] = i ^ S, sign[i] = i & S ? -1 : 1;
#if defined(__clang__)
    Floats other;
    for (int i = 0; i < LANES; i++) other[i] = v[i ^ S];
#else
    Floats other = __builtin_shuffle(v, partner);
#endif
    return add_signed(other, v, sign);
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

// The butterflies of strides `half`, twice that, ... below n, half a multiple of LANES; or any, a number at a time.
inline void combine_rest(float *x, int64_t n, int64_t half) {
    if (half % LANES == 0) {
        while (8 * half <= n) half = combine_all<8>(x, n, half);
        if (4 * half <= n) half = combine_all<4>(x, n, half);
        if (2 * half <= n) half = combine_all<2>(x, n, half);
    }
    for (; half < n; half *= 2)
        for (int64_t block = 0; block < n; block += 2 * half)
            for (int64_t i = block; i < block + half; i++) {
                float a = x[i], b = x[i + half];
                x[i] = a + b, x[i + half] = a - b;
            }
}

// Sylvester's H_n on one run of n = 2^i floats.
void sylvester(float *x, int64_t n) {
    int64_t half = 1;
    if (n >= 8 * LANES) {
        for (int64_t i = 0; i < n; i += 8 * LANES) combine<8, true>(x + i, LANES);
        half = 8 * LANES;
    } else if (n >= LANES) {
        for (int64_t i = 0; i < n; i += LANES) store(x + i, butterflies(load(x + i)));
        half = LANES;
    }
    combine_rest(x, n, half);
}

// H_m on C blocks of m numbers, then the butterflies between these blocks: x -> out, LANES numbers of each block at a
// time. Where m is no multiple of LANES the last ones overlap those before, or if m is smaller, what stands behind.
template <int C>
inline void paley(const float *x, float *out, const float *matrix, int64_t m) {
    const int64_t width = up(m, 16);
    for (int64_t done = 0; done < m; done += LANES) {
        const int64_t j = done + LANES <= m || m < LANES ? done : m - LANES;
        Floats v[C] = {};
        for (int64_t i = 0; i < m; i++) {
            const Floats signs = load(matrix + i * width + j);
            for (int c = 0; c < C; c++) v[c] += signs * x[c * m + i];
        }
        for (int half = 1; half < C; half *= 2)
            for (int c = 0; c < C; c++)
                if (!(c & half)) {
                    const Floats a = v[c], b = v[c + half];
                    v[c] = a + b, v[c + half] = a - b;
                }
        for (int c = 0; c < C; c++) store(out + c * m + j, v[c]);
    }
}

// x H on one row, not yet divided by sqrt(d); `other` is scratch of the same size, and both have LANES numbers more.
void hadamard(float *x, float *other, const RotateArgs &args) {
    const int64_t m = args.m, d = args.d;
    if (m == 1) return sylvester(x, d);
    std::memcpy(other, x, sizeof(float) * d);
    const int64_t blocks = d / m, together = min(4, blocks);
    for (int64_t at = 0; at < d; at += together * m) switch (together) {
            case 4: paley<4>(other + at, x + at, args.hadamard, m); break;
            case 2: paley<2>(other + at, x + at, args.hadamard, m); break;
            default: paley<1>(other + at, x + at, args.hadamard, m);
        }
    combine_rest(x, d, together * m);
}

constexpr int SUMS = 32;  // partial sums of a row, as many as in reference.py on every path; and a multiple of any COLS

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

// x = (source - shift) / presmooth, times the signs if there are any, as floats.
template <class T>
void prepare(const T *source, const float *signs, const RotateArgs &args, float *x) {
    const float *shift = args.shift, *presmooth = args.presmooth;
    for (int64_t i = 0; i < args.d; i++) {
        float v = widen(source[i]);
        if (shift) v -= shift[i];
        if (presmooth) v /= presmooth[i];
        if (signs) v *= signs[i];
        x[i] = v;
    }
}

// How a row becomes integers: divided by the scale and rounded, from bottom to top, which are integers.
struct Rounding {
    float scale, bottom, top;

    void operator()(const float *x, int64_t count, int8_t *__restrict q) const {
        const int32_t least = int32_t(as_bits(bottom + MIDDLE)), most = int32_t(as_bits(top + MIDDLE));
        for (int64_t i = 0; i < count; i++) {
            int32_t bits = int32_t(as_bits(x[i] / scale + MIDDLE));
            bits = bits > least ? bits : least;
            bits = bits < most ? bits : most;
            q[i] = int8_t(bits);
        }
    }
};

// Scale the rotation, divide by smooth, and find the row's range and what follows from it.
Rounding rounding_of(float *__restrict x, const RotateArgs &args, int64_t row) {
    const int64_t d = args.d;
    const float factor = args.signs ? args.factor : 1, *smooth = args.smooth;
    // The bits of floats compared as signed integers find the maximum, as unsigned ones the minimum, and NaNs
    // stand beyond the infinities. Starting from 0 changes no absmax.
    constexpr int APART = 32;  // numbers that are compared with one another only in the end
    int32_t tops[APART] = {};
    uint32_t bottoms[APART];
    for (uint32_t &bottom : bottoms) bottom = 0x80000000u;
    const auto take = [&](int64_t i, int64_t j) {
        float v = x[i] * factor;
        if (smooth) v /= smooth[i];
        x[i] = v;
        const uint32_t bits = as_bits(v);
        tops[j] = int32_t(bits) > tops[j] ? int32_t(bits) : tops[j];
        bottoms[j] = bits > bottoms[j] ? bits : bottoms[j];
    };
    int64_t done = 0;
    for (; done + APART <= d; done += APART)
        for (int j = 0; j < APART; j++) take(done + j, j);
    for (; done < d; done++) take(done, done % APART);
    int32_t top_bits = 0;
    uint32_t bottom_bits = 0;
    for (int j = 0; j < APART; j++) {
        top_bits = tops[j] > top_bits ? tops[j] : top_bits;
        bottom_bits = bottoms[j] > bottom_bits ? bottoms[j] : bottom_bits;
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
        float zero = (-l / scale + MIDDLE) - MIDDLE;
        zero = zero > 0 ? zero : 0;
        zero = zero < levels ? zero : levels;
        bottom = -zero, top = levels - zero;
    } else {
        scale = (h > -l ? h : -l) / top;
        if (h != h || l != l || !(scale > 0)) scale = 1;
    }
    args.scale[args.rank ? 2 * row : row] = scale;
    return {scale, bottom, top};
}

template <class Isa>
struct Rotation {
    const RotateArgs &args;
    const LowRank<Isa> low_rank;
    // Rows that go through a step together: a tile's with a low-rank branch, else as many as stay in L1.
    const int64_t together, task_rows;

    explicit Rotation(const RotateArgs &a)
        : args(a), low_rank(a), together(a.rank ? Isa::ROWS : a.d > 1024 ? 1 : 4), task_rows(up(16, together)) {}

    static void body(void *pointer, int64_t task) {
        const Rotation &self = *static_cast<const Rotation *>(pointer);
        switch (self.args.x_type) {
            case FLOAT32: return self.rows<float>(task);
            case BFLOAT16: return self.rows<bfloat16>(task);
            default: return self.rows<float16>(task);
        }
    }

    template <class T>
    void rows(int64_t task) const {
        const int64_t d = args.d, first = task * task_rows, end = min(first + task_rows, args.rows);
        const int64_t padded = up(d, WHOLE) + 16;  // a line more, or a tile's rows would share few places in the L1 cache
        auto *x = static_cast<float *>(scratch(4 * ((together + 2) * padded + low_rank.scratch_words())));
        float *other = x + together * padded, *signs = other + padded;
        auto *words = reinterpret_cast<int32_t *>(signs + padded);
        for (int64_t i = 0; i < padded; i++) signs[i] = i < d && args.signs ? args.signs[i] : 1;
        const float *direct = args.signs && !args.rank ? signs : nullptr;  // else the branch comes before them
        float tops[Isa::ROWS > 4 ? Isa::ROWS : 4];
        for (int64_t row0 = first; row0 < end; row0 += together) {
            const int64_t height = min(together, end - row0);
            for (int64_t r = 0; r < height; r++) {
                read(static_cast<const T *>(args.x) + (row0 + r) * d, direct, x + r * padded, padded);
                if (args.rank) tops[r] = absmax(x + r * padded, d);  // while they are in L1
            }
            if (args.rank) low_rank.take_out(x, padded, tops, signs, row0, height, words);
            // A row is rounded after the next one's range was found, else all would wait for the last steps to its scale.
            Rounding last = {};
            for (int64_t r = 0; r <= height; r++) {
                Rounding next = {};
                if (r < height) {
                    if (args.signs) hadamard(x + r * padded, other, args);
                    next = rounding_of(x + r * padded, args, row0 + r);
                }
                if (r > 0) last(x + (r - 1) * padded, d, args.q + (row0 + r - 1) * (d + args.rank));
                last = next;
            }
        }
    }

    template <class T>
    void read(const T *source, const float *signs, float *x, int64_t padded) const {
        for (int64_t i = args.d; i < padded; i++) x[i] = 0;
        if (!args.norm_weight) return prepare(source, signs, args, x);
        for (int64_t i = 0; i < args.d; i++) x[i] = widen(source[i]);
        layer_norm(x, args);
        prepare(x, signs, args, x);
    }
};

template <class Isa>
void rotate_quantize(const RotateArgs *args) {
    Rotation<Isa> rotation(*args);
    run_tasks(ceil(args->rows, rotation.task_rows), args->threads, Rotation<Isa>::body, &rotation);
}

}  // namespace
