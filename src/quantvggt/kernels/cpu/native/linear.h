// int_linear, for any path. A path brings a struct Isa:
//   A, W          types of the activation and weight panels' numbers
//   ROWS, COLS    size of the largest tile
//   OFFSET8/4     what is added to 8- and 4-bit weights (an unsigned operand); undone with the row's sum
//   tile<R>       out[R][COLS] int32 = sum over steps of a[step][R] . w[step][COLS], where one step is a
//                 32-bit word holding 4 or 2 consecutive numbers along k
// and inherits the rest from Panels or overrides it.
// Weights arrive as they are stored, 8 bits or 4, and are laid out panel by panel inside the call: spread over
// hundreds of rows that costs a few percent, and no second copy of the weights is ever kept.
#pragma once
#include <cstring>
#include <type_traits>

#include "args.h"
#include "gelu.h"
#include "host.h"
#include "numbers.h"

namespace {

struct Panels {
    static constexpr int BLOCK = 1;     // steps come in multiples of it; beyond 1 lay_out(..) arranges activations
    static constexpr int SMALLEST = 1;  // rows of the smallest tile
    struct Task {};                     // lives as long as a thread multiplies

    // out[s][c] = in[c][s] for `columns` rows, `stride` words apart, of `count` words.
    static void transpose(int64_t count, int columns, const int32_t *in, int64_t stride, int32_t *out) {
        for (int64_t s = 0; s < count; s++)
            for (int c = 0; c < columns; c++) out[s * columns + c] = in[c * stride + s];
    }
};

template <class Isa>
struct Linear {
    using A = typename Isa::A;
    using W = typename Isa::W;
    static constexpr int ROWS = Isa::ROWS, COLS = Isa::COLS;
    static constexpr int STEP = 4 / sizeof(A);
    static constexpr int CHUNK = 64;  // steps laid out together, so that source and target stay in L1
    static constexpr int64_t ROW_BLOCK_BYTES = 1 << 20;  // activations a task lays out: about an L2 cache

    // What the epilogue multiplies and adds per column. Neutral numbers stand for what there is none of: 1 and -0,
    // which changes no float, not even 0's sign.
    struct Columns {
        alignas(64) float scale[COLS], bias[COLS], gain[COLS];
    };

    struct None {};  // the type of a residual that isn't there

    const LinearArgs &args;
    int64_t steps, row_block, col_block, col_blocks, tasks;

    explicit Linear(const LinearArgs &a) : args(a) {
        steps = up(ceil(a.k, STEP), Isa::BLOCK);
        row_block = min(ROW_BLOCK_BYTES / (steps * 4), a.m), col_block = a.n;
        // Two tasks per thread even out their speeds. Laying out costs 1 / columns + 1 / rows of the whole.
        while (ceil(a.m, row_block) * ceil(a.n, col_block) < 2 * a.threads)
            if (row_block >= col_block && row_block > ROWS)
                row_block = ceil(row_block, 2);
            else if (col_block > COLS)
                col_block = ceil(col_block, 2);
            else
                break;
        col_block = up(ceil(a.n, ceil(a.n, col_block)), COLS);
        int64_t row_blocks = ceil(a.m, row_block);
        // A task too many and all threads but one wait for it.
        if (row_blocks * ceil(a.n, col_block) % a.threads) row_blocks = up(row_blocks, a.threads);
        row_block = up(ceil(a.m, row_blocks), ROWS);
        col_blocks = ceil(a.n, col_block);
        tasks = ceil(a.m, row_block) * col_blocks;
    }

    static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
    static int64_t ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
    static int64_t up(int64_t a, int64_t b) { return ceil(a, b) * b; }

    static void body(void *pointer, int64_t task) {
        const Linear &self = *static_cast<const Linear *>(pointer);
        switch (self.args.out_type) {
            case FLOAT32: return self.block(task, self.finish_into<float>());
            case BFLOAT16: return self.block(task, self.finish_into<bfloat16>());
            default: return self.block(task, self.finish_into<float16>());
        }
    }

    // The epilogue that the arguments ask for.
    using Finish = void (Linear::*)(const int32_t *, const int32_t *, int64_t, int64_t, int64_t, int64_t,
                                    const Columns &) const;

    template <class Out>
    Finish finish_into() const {
        if (!args.residual) return finish_with<Out, None>();
        switch (args.residual_type) {
            case FLOAT32: return finish_with<Out, float>();
            case BFLOAT16: return finish_with<Out, bfloat16>();
            default: return finish_with<Out, float16>();
        }
    }

    template <class Out, class Residual>
    Finish finish_with() const {
        return args.gelu ? &Linear::finish<Out, Residual, true> : &Linear::finish<Out, Residual, false>;
    }

    // One block of rows against one block of columns.
    void block(int64_t task, Finish finish) const {
        const int64_t row0 = task / col_blocks * row_block, rows = min(row_block, args.m - row0);
        const int64_t col0 = task % col_blocks * col_block, cols = min(col_block, args.n - col0);
        const int64_t padded = up(rows, ROWS);
        // The weights come first: their tiles are loaded as aligned vectors.
        auto *w = static_cast<int32_t *>(scratch((steps * (COLS + padded) + padded) * 4));
        Columns columns;
        [[maybe_unused]] typename Isa::Task task_state;
        int32_t *a = w + steps * COLS, *sums = a + steps * padded;
        for (int64_t r = 0; r < rows; r += ROWS)
            lay_out_rows(row0 + r, min(ROWS, rows - r), a + r * steps, sums + r);
        for (int64_t c = 0; c < cols; c += COLS) {
            const int64_t width = min(COLS, cols - c);
            lay_out_weights(col0 + c, width, w);
            lay_out_columns(col0 + c, width, columns);
            for (int64_t r = 0; r < rows; r += ROWS) {
                alignas(64) int32_t acc[ROWS * COLS];
                const int64_t height = min(ROWS, rows - r);
                prefetch(row0 + r, height, col0 + c);
                pick_tile<ROWS>(height, a + r * steps, w, acc);
                (this->*finish)(acc, sums + r, row0 + r, height, col0 + c, width, columns);
            }
        }
    }

    // The epilogue's lines lie a row apart, where no hardware foresees them: asked for before the product, they
    // are there after it.
    void prefetch(int64_t row0, int64_t height, int64_t col0) const {
        const int64_t out_size = args.out_type == FLOAT32 ? 4 : 2, size = args.residual_type == FLOAT32 ? 4 : 2;
        for (int64_t r = 0; r < height; r++) {
            const int64_t at = (row0 + r) * args.n + col0;
            const char *out = static_cast<const char *>(args.out) + at * out_size;
            for (int64_t byte = 0; byte < COLS * out_size; byte += 64) __builtin_prefetch(out + byte, 1);
            if (!args.residual) continue;
            const char *residual = static_cast<const char *>(args.residual) + at * size;
            for (int64_t byte = 0; byte < COLS * size; byte += 64) __builtin_prefetch(residual + byte);
        }
    }

    // Tiles come in ROWS and the powers of two below it; a ragged one takes the smallest that holds it.
    static constexpr int smaller(int rows) { return rows > 16 ? 16 : rows > 8 ? 8 : rows > 4 ? 4 : rows / 2; }

    template <int R>
    static int tile_rows(int64_t height) {
        constexpr int next = smaller(R);
        if constexpr (next >= Isa::SMALLEST)
            if (height <= next) return tile_rows<next>(height);
        return R;
    }

    template <int R>
    void pick_tile(int64_t height, const int32_t *a, const int32_t *w, int32_t *acc) const {
        constexpr int next = smaller(R);
        if constexpr (next >= Isa::SMALLEST)
            if (height <= next) return pick_tile<next>(height, a, w, acc);
        Isa::template tile<R>(steps, a, w, acc);
    }

    // A tile of activations, [steps][tile rows] words; absent rows are zero.
    void lay_out_rows(int64_t row0, int64_t height, int32_t *a, int32_t *sums) const {
        const int tile = tile_rows<ROWS>(height);
        alignas(64) A numbers[ROWS][CHUNK * STEP] = {};
        for (int64_t r = 0; r < height; r++) sums[r] = 0;
        for (int64_t s0 = 0; s0 < steps; s0 += CHUNK) {
            const int64_t count = min(CHUNK, steps - s0), k0 = s0 * STEP;
            const int64_t have = min(count * STEP, args.k - k0);
            for (int64_t r = 0; r < height; r++) {
                const int8_t *q = args.q + (row0 + r) * args.k + k0;
                int32_t sum = 0;
                for (int64_t i = 0; i < have; i++) numbers[r][i] = q[i], sum += q[i];
                for (int64_t i = have; i < count * STEP; i++) numbers[r][i] = 0;
                sums[r] += sum;
            }
            const auto *words = reinterpret_cast<const int32_t *>(numbers);
            if constexpr (Isa::BLOCK > 1)
                Isa::lay_out(count, tile, words, CHUNK, a + s0 * tile);
            else
                Isa::transpose(count, tile, words, CHUNK, a + s0 * tile);
        }
    }

    // A panel of weights, [steps][COLS] words. What stands in absent columns or beyond k never counts.
    void lay_out_weights(int64_t col0, int64_t width, int32_t *w) const {
        alignas(64) W numbers[COLS][CHUNK * STEP];
        std::memset(numbers, 0, sizeof numbers);
        for (int64_t s0 = 0; s0 < steps; s0 += CHUNK) {
            const int64_t count = min(CHUNK, steps - s0), k0 = s0 * STEP;
            const int64_t have = min(count * STEP, args.k - k0);
            for (int64_t c = 0; c < width; c++) unpack(col0 + c, k0, have, numbers[c]);
            Isa::transpose(count, COLS, reinterpret_cast<const int32_t *>(numbers), CHUNK, w + s0 * COLS);
        }
    }

    void unpack(int64_t row, int64_t k0, int64_t have, W *out) const {
        if (!args.packed) {
            const int8_t *q = static_cast<const int8_t *>(args.weight) + row * args.k + k0;
            for (int64_t i = 0; i < have; i++) out[i] = W(q[i] + Isa::OFFSET8);
            return;
        }
        // Byte j holds numbers 2j and 2j + 1, each plus 8; k0 is a multiple of 8.
        const int64_t width = (args.k + 7) / 8 * 4;
        const uint8_t *q = static_cast<const uint8_t *>(args.weight) + row * width + k0 / 2;
        for (int64_t j = 0; j < (have + 1) / 2; j++) {
            out[2 * j] = W((q[j] & 15) + (Isa::OFFSET4 - 8));
            out[2 * j + 1] = W((q[j] >> 4) + (Isa::OFFSET4 - 8));
        }
    }

    void lay_out_columns(int64_t col0, int64_t width, Columns &columns) const {
        for (int64_t c = 0; c < COLS; c++) {
            columns.scale[c] = c < width ? args.weight_scale[col0 + c] : 0;
            columns.bias[c] = c < width && args.bias ? args.bias[col0 + c] : -0.0f;
            columns.gain[c] = c < width && args.gain ? args.gain[col0 + c] : 1;
        }
    }

    // Undo the offset, then the reference's steps in its order. The residual is read before anything is written:
    // its lines and those of the output may have the same place in their pages, so a load among the stores waits.
    template <class Out, class Residual, bool GELU>
    void finish(const int32_t *acc, const int32_t *sums, int64_t row0, int64_t height, int64_t col0, int64_t width,
                const Columns &columns) const {
        constexpr bool ADDS = !std::is_same<Residual, None>::value;
        const uint32_t offset = args.packed ? Isa::OFFSET4 : Isa::OFFSET8;
        alignas(64) Residual residual[ROWS][COLS];
        if constexpr (ADDS)
            for (int64_t r = 0; r < height; r++)
                copy(static_cast<const Residual *>(args.residual) + (row0 + r) * args.n + col0, width, residual[r]);
        for (int64_t r = 0; r < height; r++, acc += COLS) {
            const float row_scale = args.row_scale[row0 + r];
            const uint32_t excess = offset * uint32_t(sums[r]);
            alignas(64) Out out[COLS];
            for (int c = 0; c < COLS; c++) {
                float y = float(int32_t(uint32_t(acc[c]) - excess)) * row_scale * columns.scale[c] + columns.bias[c];
                if constexpr (GELU) y = gelu(y);
                y *= columns.gain[c];
                if constexpr (ADDS) y += widen(residual[r][c]);
                narrow(y, out[c]);
            }
            copy(out, width, static_cast<Out *>(args.out) + (row0 + r) * args.n + col0);
        }
    }

    template <class T>
    static void copy(const T *from, int64_t width, T *to) {
        if (width == COLS)
            std::memcpy(to, from, COLS * sizeof(T));
        else
            for (int64_t c = 0; c < width; c++) to[c] = from[c];
    }
};

template <class Isa>
void int_linear(const LinearArgs *args) {
    Linear<Isa> linear(*args);
    run_tasks(linear.tasks, args->threads, Linear<Isa>::body, &linear);
}

}  // namespace
