// The low-rank branch of rotate_quantize, in the steps of `project` in reference.py: rows rounded to 8 bits times the
// basis U are z, and z times U's transpose is taken out of the rows. Both products are those of int_linear, a tile of
// rows at a time, with U laid out once a call.
#pragma once
#include <vector>

#include "args.h"
#include "numbers.h"
#include "panels.h"

namespace {

// Integers of what `steps` makes of each of the row's `count` numbers, from bottom to top, which are integers.
template <class Steps>
inline void round_row(const float *x, int64_t count, Steps steps, float bottom, float top, int8_t *__restrict q) {
    // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits; and as integers the bits are in
    // the numbers' order.
    constexpr float MIDDLE = 0x1.8p23f;
    const int32_t least = int32_t(as_bits(bottom + MIDDLE)), most = int32_t(as_bits(top + MIDDLE));
    for (int64_t i = 0; i < count; i++) {
        int32_t bits = int32_t(as_bits(steps(x[i]) + MIDDLE));
        bits = bits > least ? bits : least;
        bits = bits < most ? bits : most;
        q[i] = int8_t(bits);
    }
}

// The row in 8 bits, its absmax as 127: the scale.
inline float round_to_8_bits(const float *x, int64_t count, int8_t *q) {
    int32_t top = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t magnitude = int32_t(as_bits(x[i]) & 0x7fffffffu);
        top = magnitude > top ? magnitude : top;
    }
    float scale = as_float(uint32_t(top)) / 127;
    if (!(scale > 0)) scale = 1;
    const float inverse = scale < 1e-30f ? 0 : 1 / scale;
    round_row(x, count, [=](float v) { return v * inverse; }, -127, 127, q);
    return scale;
}

template <class Isa>
struct LowRank {
    using P = Product<Isa>;
    static constexpr int ROWS = P::ROWS, COLS = P::COLS, MOST = 64;  // directions
    struct alignas(64) Line { int32_t words[16]; };

    const RotateArgs &args;
    const int64_t rank, width;  // of a row of integers
    const P along, back;
    std::vector<Line> memory;
    int32_t *along_panels = nullptr, *back_panels = nullptr;

    explicit LowRank(const RotateArgs &a) : args(a), rank(a.rank), width(a.d + a.rank), along(a.d), back(a.rank) {
        if (!rank) return;
        const int64_t words = along.steps * up(rank, COLS);
        memory.resize(ceil(words + back.steps * up(args.d, COLS), 16));
        along_panels = memory[0].words, back_panels = along_panels + words;
        for (int64_t c0 = 0; c0 < rank; c0 += COLS)
            along.lay_out_weights(min(COLS, rank - c0), along_panels + along.steps * c0,
                                  [=](int64_t c, int64_t k0, int64_t have, typename Isa::W *out) {
                                      const int8_t *u = args.basis + k0 * rank + c0 + c;
                                      for (int64_t i = 0; i < have; i++) P::widen8(u + i * rank, 1, out + i);
                                  });
        for (int64_t c0 = 0; c0 < args.d; c0 += COLS)
            back.lay_out_weights(min(COLS, args.d - c0), back_panels + back.steps * c0,
                                 [=](int64_t c, int64_t k0, int64_t have, typename Isa::W *out) {
                                     P::widen8(args.basis + (c0 + c) * rank + k0, have, out);
                                 });
    }

    // Of the words that `take_out` needs.
    int64_t scratch_words() const { return rank ? ROWS * (along.steps > back.steps ? along.steps : back.steps) : 0; }

    // Out of up to ROWS rows of x, the first of which is `row0`: `stride` apart, with room for a multiple of COLS numbers.
    // Then x is multiplied by `signs` if there are any. Writes the rows' z and its scale.
    void take_out(float *x, int64_t stride, const float *signs, int64_t row0, int64_t height, int32_t *a) const {
        [[maybe_unused]] typename Isa::Task task_state;
        alignas(64) int32_t acc[ROWS * COLS];
        alignas(64) float dots[ROWS][MOST];
        float factors[ROWS];
        int32_t sums[ROWS];
        int8_t *q = args.q + row0 * width;  // the row's own integers come later, and these may stand there until then
        for (int64_t r = 0; r < height; r++) factors[r] = round_to_8_bits(x + r * stride, args.d, q + r * width);
        along.lay_out_rows(q, width, height, a, sums);
        for (int64_t c0 = 0; c0 < rank; c0 += COLS) {
            along.multiply(height, a, along_panels + along.steps * c0, acc);
            for (int64_t r = 0; r < height; r++) {
                const uint32_t excess = P::excess(sums[r], Isa::OFFSET8);
                for (int64_t c = 0; c < min(COLS, rank - c0); c++)
                    dots[r][c0 + c] = P::exact(acc[r * COLS + c], excess);
            }
        }
        const float basis_scale = *args.basis_scale;
        for (int64_t r = 0; r < height; r++) {
            const float share = round_to_8_bits(dots[r], rank, q + r * width + args.d);
            const float scale = share * factors[r] * basis_scale;
            args.scale[2 * (row0 + r) + 1] = scale, factors[r] = scale * basis_scale;
        }
        back.lay_out_rows(q + args.d, width, height, a, sums);
        for (int64_t c0 = 0; c0 < args.d; c0 += COLS) {
            back.multiply(height, a, back_panels + back.steps * c0, acc);
            for (int64_t r = 0; r < height; r++) {
                const uint32_t excess = P::excess(sums[r], Isa::OFFSET8);
                float *row = x + r * stride + c0;
                for (int64_t c = 0; c < COLS; c++) {
                    const float rest = row[c] - P::exact(acc[r * COLS + c], excess) * factors[r];
                    row[c] = signs ? rest * signs[c0 + c] : rest;
                }
            }
        }
    }
};

}  // namespace
