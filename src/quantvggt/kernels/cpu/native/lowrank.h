// The low-rank branch of rotate_quantize, in the steps of `project` in reference.py: rows rounded to 8 bits times the
// basis U are z, and z times U's transpose is taken out of the rows. Both products are those of int_linear, a tile of
// rows at a time, with U laid out once a call.
#pragma once
#include "args.h"
#include "host.h"
#include "numbers.h"
#include "panels.h"
#include "vectors.h"

namespace {

// Of numbers' magnitudes. NaNs count as greater than infinities.
inline float absmax(const float *x, int64_t count) {
    int32_t top = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t magnitude = int32_t(as_bits(x[i]) & 0x7fffffffu);
        top = magnitude > top ? magnitude : top;
    }
    return as_float(uint32_t(top));
}

constexpr int WHOLE = 64;  // rows are zero up to a multiple of it

template <class Isa>
struct LowRank {
    using P = Product<Isa>;
    using A = typename Isa::A;
    static constexpr int ROWS = P::ROWS, COLS = P::COLS, MOST = P::FEW;  // directions

    const RotateArgs &args;
    const int64_t rank, width, stride;  // of a row of integers, in numbers: as given back, and in scratch memory
    const P along, back;
    int32_t *along_panels = nullptr, *back_panels = nullptr;

    explicit LowRank(const RotateArgs &a)
        : args(a), rank(a.rank), width(a.d + a.rank), stride(up(a.d, WHOLE)), along(a.d), back(a.rank) {
        if (!rank) return;
        const int64_t words = along.steps * up(rank, COLS);
        along_panels = static_cast<int32_t *>(scratch(4 * (words + back.steps * up(args.d, COLS)), Scratch::CALL));
        back_panels = along_panels + words;
        for (int64_t c0 = 0; c0 < rank; c0 += COLS)
            along.lay_out_weights(min(COLS, rank - c0), along_panels + along.steps * c0, args.basis + c0, rank);
        for (int64_t c0 = 0; c0 < args.d; c0 += COLS)
            back.lay_out_few(min(COLS, args.d - c0), back_panels + back.steps * c0, args.basis + c0 * rank);
    }

    // Of the words that `take_out` needs.
    int64_t scratch_words() const { return rank ? ROWS * (stride / P::STEP + along.steps) : 0; }

    // Of a row's absmax as 127: the scale of its integers, and what to multiply its numbers by.
    struct Scale {
        float scale, inverse;

        explicit Scale(float absmax) {
            scale = absmax / 127;
            if (!(scale > 0)) scale = 1;
            inverse = scale < 1e-30f ? 0 : 1 / scale;
        }
    };

    // The row's integers, of which there is a multiple of N; their sum. None is beyond 127, where all numbers are finite.
    template <int N>
    static int32_t round(const float *x, int64_t count, float inverse, A *numbers) {
        Words sums = {};
        for (int64_t i = 0; i < count; i += N) {
            alignas(64) int32_t integers[N];
            for (int j = 0; j < N; j += LANES) {
                const Words v = (Words)(load(x + i + j) * inverse + MIDDLE);
                sums += v;
                std::memcpy(integers + j, &v, sizeof v);
            }
            for (int j = 0; j < N; j++) numbers[i + j] = A(int8_t(integers[j]));
        }
        uint32_t sum = -uint32_t(count) * as_bits(MIDDLE);
        for (int i = 0; i < LANES; i++) sum += sums[i];
        return int32_t(sum);
    }

    // Out of up to ROWS rows of x, `apart` from one another, the first of which is `row0`; `tops` are their absmaxes. Then
    // x is multiplied by `signs`. Writes the rows' z and its scale.
    void take_out(float *x, int64_t apart, const float *tops, const float *signs, int64_t row0, int64_t height,
                  int32_t *words) const {
        switch (rank) {
            case 16: return take_out_of<16>(x, apart, tops, signs, row0, height, words);
            case 32: return take_out_of<32>(x, apart, tops, signs, row0, height, words);
            default: return take_out_of<64>(x, apart, tops, signs, row0, height, words);
        }
    }

    template <int RANK>
    void take_out_of(float *x, int64_t apart, const float *tops, const float *signs, int64_t row0, int64_t height,
                     int32_t *words) const {
        [[maybe_unused]] typename Isa::Task task_state;
        alignas(64) int32_t acc[ROWS * COLS];
        alignas(64) float dots[ROWS][MOST];
        alignas(64) A z[ROWS][MOST] = {};
        float factors[ROWS];
        uint32_t excess[ROWS];  // what the products have too much
        const int tile = P::tile_rows(height);
        auto *numbers = reinterpret_cast<A *>(words);
        int32_t *a = words + ROWS * (stride / P::STEP);
        std::memset(numbers + height * stride, 0, (tile - height) * stride * sizeof(A));
        for (int64_t r = 0; r < height; r++) {
            const Scale rounding(tops[r]);
            factors[r] = rounding.scale;
            const int32_t sum = round<WHOLE>(x + r * apart, stride, rounding.inverse, numbers + r * stride);
            excess[r] = P::excess(sum, Isa::OFFSET8);
        }
        P::arrange(along.steps, tile, numbers, stride / P::STEP, a);
        for (int c0 = 0; c0 < RANK; c0 += COLS) {
            along.multiply(height, a, along_panels + along.steps * c0, acc);
            for (int64_t r = 0; r < height; r++)
                for (int c = 0; c < COLS; c++) dots[r][c0 + c] = P::exact(acc[r * COLS + c], excess[r]);
        }
        const float basis_scale = *args.basis_scale;
        for (int64_t r = 0; r < height; r++) {
            const Scale rounding(absmax(dots[r], RANK));
            excess[r] = P::excess(round<16>(dots[r], RANK, rounding.inverse, z[r]), Isa::OFFSET8);
            const float scale = rounding.scale * factors[r] * basis_scale;
            args.scale[2 * (row0 + r) + 1] = scale, factors[r] = scale * basis_scale;
            int8_t *out = args.q + (row0 + r) * width + args.d;
            for (int c = 0; c < RANK; c++) out[c] = int8_t(z[r][c]);
        }
        // As many rows together as registers hold the numbers of; rows that are not there have room in x.
        constexpr int ONE = Isa::SMALLEST, SOME = ONE > 4 ? ONE : 4;
        const Part part = {z[0], excess, factors, signs};
        int64_t r = 0;
        for (; r + SOME <= height; r += SOME) subtract<SOME, RANK>(x + r * apart, apart, part.from(r));
        for (; r < height; r += ONE) subtract<ONE, RANK>(x + r * apart, apart, part.from(r));
    }

    // What is taken out of rows: their z, [rows][MOST], and by row what its products have too much and their factor.
    struct Part {
        const A *z;
        const uint32_t *excess;
        const float *factors;
        const float *signs;

        Part from(int64_t row) const { return {z + row * MOST, excess + row, factors + row, signs}; }
    };

    // All that is used for each channel lies in arrays that nothing else can point to, and all counts are constants, so
    // that it stays in registers, products as well.
    template <int R, int RANK>
    void subtract(float *x, int64_t apart, const Part &part) const {
        constexpr int64_t STEPS = up(ceil(RANK, P::STEP), Isa::BLOCK);
        alignas(64) int32_t arranged[STEPS * R];
        int32_t words[STEPS * R];
        uint32_t excess[R];
        float factors[R];
        P::arrange(STEPS, R, part.z, MOST / P::STEP, arranged);
        std::memcpy(words, arranged, sizeof words);
        std::memcpy(excess, part.excess, sizeof excess);
        std::memcpy(factors, part.factors, sizeof factors);
        for (int64_t c0 = 0; c0 < args.d; c0 += COLS) {
            alignas(64) int32_t acc[R * COLS];
            P::template multiply_tile<R>(STEPS, words, back_panels + STEPS * c0, acc);
            for (int r = 0; r < R; r++)
                for (int c = 0; c < COLS; c += LANES) {
                    Words sums;
                    std::memcpy(&sums, acc + r * COLS + c, sizeof sums);
                    float *row = x + r * apart + c0 + c;
                    const Floats products = __builtin_convertvector((Ints)(sums - excess[r]), Floats);
                    store(row, (load(row) - products * factors[r]) * load(part.signs + c0 + c));
                }
        }
    }
};

}  // namespace
