// Exact products of 8-bit integers by tiles, for any path. A path brings a struct Isa:
//   A, W          types of the activation and weight panels' numbers
//   ROWS, COLS    size of the largest tile
//   OFFSET8/4     what is added to 8- and 4-bit weights (an unsigned operand); undone with the row's sum
//   tile<R>       out[R][COLS] int32 = sum over steps of a[step][R] . w[step][COLS], where one step is a
//                 32-bit word holding 4 or 2 consecutive numbers along k; with OVERLAPS it also takes a function and
//                 calls it after every BLOCK of steps
// and inherits the rest from Panels or overrides it.
#pragma once
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t up(int64_t a, int64_t b) { return ceil(a, b) * b; }

struct Panels {
    static constexpr int BLOCK = 1;     // steps come in multiples of it; beyond 1 lay_out(..) arranges activations
    static constexpr int SMALLEST = 1;  // rows of the smallest tile
    static constexpr int ABREAST = 1;   // steps of a column that stand side by side in a panel of weights
    // Are whole lines of the output written past the caches, by stream_line(..) and after all of them fence()?
    static constexpr bool STREAMS = false;
    // Do products leave the vectors idle, so that the epilogue of the tile before is best done among them?
    static constexpr bool OVERLAPS = false;
    struct Task {};                     // lives as long as a thread multiplies

    // out[s][c] = in[c][s] for `columns` rows, `stride` words apart, of `count` words, which may hold any numbers.
    static void transpose(int64_t count, int columns, const int32_t *in, int64_t stride, int32_t *out) {
        for (int64_t s = 0; s < count; s++)
            for (int c = 0; c < columns; c++) std::memcpy(out + s * columns + c, in + c * stride + s, sizeof *out);
    }
};

// Of rows of k numbers with columns of as many.
template <class Isa>
struct Product {
    using A = typename Isa::A;
    using W = typename Isa::W;
    static constexpr int ROWS = Isa::ROWS, COLS = Isa::COLS;
    static constexpr int STEP = 4 / sizeof(A);
    static constexpr int CHUNK = 64;  // steps laid out together, so that source and target stay in L1
    static constexpr int FEW = 64;    // numbers of the longest columns for `lay_out_few`

    int64_t k, steps;

    explicit Product(int64_t count) : k(count), steps(up(ceil(count, STEP), Isa::BLOCK)) {}

    // Tiles come in ROWS and the powers of two below it; a ragged one takes the smallest that holds it.
    static constexpr int smaller(int rows) { return rows > 16 ? 16 : rows > 8 ? 8 : rows > 4 ? 4 : rows / 2; }

    template <int R = ROWS>
    static int tile_rows(int64_t height) {
        constexpr int next = smaller(R);
        if constexpr (next >= Isa::SMALLEST)
            if (height <= next) return tile_rows<next>(height);
        return R;
    }

    struct Nothing {
        void operator()() const {}
    };

    // acc[..][COLS] of `height` rows, up to ROWS, and one panel of weights; with OVERLAPS calls `meanwhile` often.
    template <int R = ROWS, class Meanwhile = Nothing>
    void multiply(int64_t height, const int32_t *a, const int32_t *w, int32_t *acc, Meanwhile meanwhile = {}) const {
        constexpr int next = smaller(R);
        if constexpr (next >= Isa::SMALLEST)
            if (height <= next) return multiply<next>(height, a, w, acc, meanwhile);
        multiply_tile<R>(steps, a, w, acc, meanwhile);
    }

    template <int R, class Meanwhile = Nothing>
    static void multiply_tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *acc, Meanwhile meanwhile = {}) {
        if constexpr (Isa::OVERLAPS)
            Isa::template tile<R>(steps, a, w, acc, meanwhile);
        else
            Isa::template tile<R>(steps, a, w, acc);
    }

    // What the products of a row whose numbers add up to `sum` have too much.
    static uint32_t excess(int32_t sum, int offset) { return uint32_t(offset) * uint32_t(sum); }

    static float exact(int32_t acc, uint32_t excess) { return float(int32_t(uint32_t(acc) - excess)); }

    // A tile of activations, [steps][tile rows] words, of rows `stride` apart, and their sums; absent rows are zero.
    void lay_out_rows(const int8_t *q, int64_t stride, int64_t height, int32_t *a, int32_t *sums) const {
        const int tile = tile_rows(height);
        alignas(64) A numbers[ROWS][CHUNK * STEP];
        for (int64_t r = 0; r < height; r++) sums[r] = 0;
        for (int64_t r = height; r < tile; r++) std::memset(numbers[r], 0, sizeof numbers[r]);
        for (int64_t s0 = 0; s0 < steps; s0 += CHUNK) {
            const int64_t count = min(CHUNK, steps - s0), k0 = s0 * STEP;
            const int64_t have = min(count * STEP, k - k0);
            for (int64_t r = 0; r < height; r++) {
                const int8_t *row = q + r * stride + k0;
                int32_t sum = 0;
                for (int64_t i = 0; i < have; i++) numbers[r][i] = row[i], sum += row[i];
                for (int64_t i = have; i < count * STEP; i++) numbers[r][i] = 0;
                sums[r] += sum;
            }
            arrange(count, tile, numbers[0], CHUNK, a + s0 * tile);
        }
    }

    // A tile of numbers that are A's already, in rows `stride` words apart, of whole vectors and aligned as these are.
    static void arrange(int64_t count, int tile, const A *numbers, int64_t stride, int32_t *a) {
        const auto *words = reinterpret_cast<const int32_t *>(numbers);
        if constexpr (Isa::BLOCK > 1)
            Isa::lay_out(count, tile, words, stride, a);
        else
            Isa::transpose(count, tile, words, stride, a);
    }

    // A panel of weights, [steps][COLS] words; fill(c, k0, have, out) writes `have` numbers of column c from k0 on, their
    // offset added. What stands in absent columns or beyond k never counts.
    template <class Fill>
    void lay_out_weights(int64_t width, int32_t *w, Fill fill) const {
        alignas(64) W numbers[COLS][CHUNK * STEP];
        for (int64_t s0 = 0; s0 < steps; s0 += CHUNK) {
            const int64_t count = min(CHUNK, steps - s0), k0 = s0 * STEP;
            const int64_t have = min(count * STEP, k - k0);
            for (int64_t c = 0; c < COLS; c++) fill(min(c, width - 1), k0, have, numbers[c]);
            Isa::transpose(count, COLS, reinterpret_cast<const int32_t *>(numbers), CHUNK, w + s0 * COLS);
        }
    }

    // The same of columns of few numbers, one behind another: k is a multiple of 16 up to FEW.
    void lay_out_few(int64_t width, int32_t *w, const int8_t *q) const {
        alignas(64) W numbers[COLS][FEW];
        for (int64_t c = 0; c < COLS; c++) {
            const int8_t *column = q + min(c, width - 1) * k;
            for (int64_t i = 0; i < k; i += 16)
                for (int j = 0; j < 16; j++) numbers[c][i + j] = W(column[i + j] + Isa::OFFSET8);
        }
        Isa::transpose(steps, COLS, reinterpret_cast<const int32_t *>(numbers), FEW / STEP, w);
    }

    // The same of numbers that lie the other way round, k rows of them, `stride` apart; `width` is a multiple of 8.
    void lay_out_weights(int64_t width, int32_t *w, const int8_t *q, int64_t stride) const {
        constexpr int TOGETHER = STEP * Isa::ABREAST, PART = COLS < 16 ? COLS : 16;
        auto *out = reinterpret_cast<W *>(w);
        for (int64_t k0 = 0; k0 < steps * STEP; k0 += TOGETHER, out += COLS * TOGETHER) {
            const int8_t *rows[TOGETHER];
            for (int j = 0; j < TOGETHER; j++) rows[j] = q + min(k0 + j, k - 1) * stride;
            for (int64_t c0 = 0; c0 < width; c0 += PART)
                for (int c = 0; c < PART; c++)
                    for (int j = 0; j < TOGETHER; j++)
                        out[(c0 + c) * TOGETHER + j] = W(rows[j][c0 + c] + Isa::OFFSET8);
        }
    }

    static void widen8(const int8_t *q, int64_t count, W *out) {
        for (int64_t i = 0; i < count; i++) out[i] = W(q[i] + Isa::OFFSET8);
    }
};

}  // namespace
