// int_linear, for any path: its Isa is that of panels.h.
// Weights arrive as they are stored, 8 bits or 4, and are laid out panel by panel inside the call: spread over
// hundreds of rows that costs a few percent, and no second copy of the weights is ever kept.
#pragma once
#include <cstring>
#include <type_traits>

#include "args.h"
#include "gelu.h"
#include "host.h"
#include "numbers.h"
#include "panels.h"

namespace {

template <class Isa>
struct Linear {
    using P = Product<Isa>;
    static constexpr int ROWS = P::ROWS, COLS = P::COLS;
    static constexpr int LINE = 64;  // bytes that a cache holds or not
    static constexpr int64_t ROW_BLOCK_BYTES = 1 << 20;  // activations a task lays out: about an L2 cache

    // What the epilogue multiplies and adds per column. Neutral numbers stand for what there is none of: 1 and -0,
    // which changes no float, not even 0's sign.
    struct Columns {
        alignas(64) float scale[COLS], branch_scale[COLS], bias[COLS], gain[COLS];
    };

    struct None {};  // the type of a residual that isn't there

    // Where a tile lies in the output, the sums of its rows' numbers, its sums of products, and how many rows of it are
    // finished.
    struct Tile {
        int64_t row0, height = 0, col0, width, done = 0;
        const int32_t *sums, *branch_sums;
        alignas(64) int32_t acc[ROWS * COLS], branch_acc[ROWS * COLS];
    };

    const LinearArgs &args;
    const P main, branch;
    // Rows of a tile lie a row of the output apart, often in one set of a cache, and a line that is not in it is read
    // before it is written: a path that is fast enough to notice writes whole lines past the caches.
    const bool streams;
    int64_t row_block, col_block, col_blocks, tasks;

    explicit Linear(const LinearArgs &a)
        : args(a), main(a.k), branch(a.rank),
          streams(Isa::STREAMS && a.n * out_size() % LINE == 0 && reinterpret_cast<uintptr_t>(a.out) % LINE == 0) {
        row_block = min(ROW_BLOCK_BYTES / (main.steps * 4), a.m), col_block = a.n;
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

    static void body(void *pointer, int64_t task) {
        const Linear &self = *static_cast<const Linear *>(pointer);
        self.block(task, self.chosen());
        if constexpr (Isa::STREAMS) Isa::fence();
    }

    int64_t out_size() const { return args.out_type == FLOAT32 ? 4 : 2; }

    // The epilogue that the arguments ask for.
    using Finish = void (Linear::*)(const Tile &, int64_t, int64_t, const Columns &) const;

    Finish chosen() const {
        switch (args.out_type) {
            case FLOAT32: return finish_into<float>();
            case BFLOAT16: return finish_into<bfloat16>();
            default: return finish_into<float16>();
        }
    }

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
        return args.gelu ? finish_after<Out, Residual, true>() : finish_after<Out, Residual, false>();
    }

    template <class Out, class Residual, bool GELU>
    Finish finish_after() const {
        return args.branch ? &Linear::finish<Out, Residual, GELU, true> : &Linear::finish<Out, Residual, GELU, false>;
    }

    // One block of rows against one block of columns.
    void block(int64_t task, Finish finish) const {
        const int64_t row0 = task / col_blocks * row_block, rows = min(row_block, args.m - row0);
        const int64_t col0 = task % col_blocks * col_block, cols = min(col_block, args.n - col0);
        const int64_t padded = up(rows, ROWS);
        // The weights come first: their tiles are loaded as aligned vectors.
        auto *w = static_cast<int32_t *>(scratch(((main.steps + branch.steps) * (COLS + padded) + 2 * padded) * 4));
        Columns columns;
        [[maybe_unused]] typename Isa::Task task_state;
        int32_t *branch_w = w + main.steps * COLS, *a = branch_w + branch.steps * COLS;
        int32_t *branch_a = a + main.steps * padded, *sums = branch_a + branch.steps * padded, *branch_sums = sums + padded;
        const int64_t stride = args.k + args.rank;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int8_t *q = args.q + (row0 + r) * stride;
            main.lay_out_rows(q, stride, min(ROWS, rows - r), a + r * main.steps, sums + r);
            if (args.branch)
                branch.lay_out_rows(q + args.k, stride, min(ROWS, rows - r), branch_a + r * branch.steps, branch_sums + r);
        }
        for (int64_t c = 0; c < cols; c += COLS) {
            const int64_t width = min(COLS, cols - c);
            lay_out_weights(col0 + c, width, w);
            if (args.branch) branch.lay_out_few(width, branch_w, args.branch + (col0 + c) * args.rank);
            lay_out_columns(col0 + c, width, columns);
            // One is multiplied; where that leaves the vectors idle, the other is finished meanwhile.
            Tile tiles[2];
            const int64_t share = ceil(ROWS, main.steps / Isa::BLOCK);
            for (int64_t r = 0; r < rows; r += ROWS) {
                const int64_t turn = Isa::OVERLAPS ? r / ROWS % 2 : 0;
                Tile &tile = tiles[turn], &last = tiles[1 - turn];
                tile.row0 = row0 + r, tile.height = min(ROWS, rows - r), tile.col0 = col0 + c, tile.width = width;
                tile.done = 0, tile.sums = sums + r, tile.branch_sums = branch_sums + r;
                if (args.branch) branch.multiply(tile.height, branch_a + r * branch.steps, branch_w, tile.branch_acc);
                prefetch(tile);
                prefetch_weights(col0 + c + COLS, min(COLS, cols - c - COLS), r / ROWS, ceil(rows, ROWS));
                main.multiply(tile.height, a + r * main.steps, w, tile.acc,
                              [&] { finish_rows(last, share, finish, columns); });
                if constexpr (!Isa::OVERLAPS) finish_rows(tile, ROWS, finish, columns);
            }
            for (Tile &tile : tiles) finish_rows(tile, ROWS, finish, columns);
        }
    }

    // The next ones, so many if there are.
    void finish_rows(Tile &tile, int64_t count, Finish finish, const Columns &columns) const {
        const int64_t end = min(tile.done + count, tile.height);
        if (tile.done < end) (this->*finish)(tile, tile.done, end, columns);
        tile.done = end;
    }

    // The epilogue's lines lie a row apart, where no hardware foresees them: asked for before the product, they
    // are there after it. Those written past the caches are better not there.
    void prefetch(const Tile &tile) const {
        const int64_t size = args.residual_type == FLOAT32 ? 4 : 2;
        for (int64_t r = 0; r < tile.height; r++) {
            const int64_t at = (tile.row0 + r) * args.n + tile.col0;
            const char *out = static_cast<const char *>(args.out) + at * out_size();
            for (int64_t byte = 0; !streams && byte < COLS * out_size(); byte += LINE) __builtin_prefetch(out + byte, 1);
            if (!args.residual) continue;
            const char *residual = static_cast<const char *>(args.residual) + at * size;
            for (int64_t byte = 0; byte < COLS * size; byte += LINE) __builtin_prefetch(residual + byte);
        }
    }

    // One of so many parts of a panel of weights, whose columns lie one behind another: needed soon, but the L1 cache is
    // full of what is needed now.
    void prefetch_weights(int64_t col0, int64_t width, int64_t part, int64_t parts) const {
        const char *weights = static_cast<const char *>(args.weight) + col0 * column_bytes();
        const int64_t bytes = width * column_bytes(), share = up(ceil(bytes, parts), LINE);
        for (int64_t byte = part * share; byte < min((part + 1) * share, bytes); byte += LINE)
            __builtin_prefetch(weights + byte, 0, 2);
    }

    int64_t column_bytes() const { return args.packed ? ceil(args.k, 8) * 4 : args.k; }

    void lay_out_weights(int64_t col0, int64_t width, int32_t *w) const {
        main.lay_out_weights(width, w, [=](int64_t c, int64_t k0, int64_t have, typename Isa::W *out) {
            if (!args.packed)
                return P::widen8(static_cast<const int8_t *>(args.weight) + (col0 + c) * args.k + k0, have, out);
            // Byte j holds numbers 2j and 2j + 1, each plus 8; k0 is a multiple of 8.
            const auto *q = static_cast<const uint8_t *>(args.weight) + (col0 + c) * column_bytes() + k0 / 2;
            for (int64_t j = 0; j < (have + 1) / 2; j++) {
                out[2 * j] = typename Isa::W((q[j] & 15) + (Isa::OFFSET4 - 8));
                out[2 * j + 1] = typename Isa::W((q[j] >> 4) + (Isa::OFFSET4 - 8));
            }
        });
    }

    void lay_out_columns(int64_t col0, int64_t width, Columns &columns) const {
        for (int64_t c = 0; c < COLS; c++) {
            columns.scale[c] = c < width ? args.weight_scale[col0 + c] : 0;
            columns.branch_scale[c] = c < width && args.branch ? args.branch_scale[col0 + c] : 0;
            columns.bias[c] = c < width && args.bias ? args.bias[col0 + c] : -0.0f;
            columns.gain[c] = c < width && args.gain ? args.gain[col0 + c] : 1;
        }
    }

    // Rows begin to end of a tile: undo the offset, then the reference's steps in its order. The residual is read before
    // anything is written: its lines and those of the output may have the same place in their pages, so a load among
    // the stores waits.
    template <class Out, class Residual, bool GELU, bool BRANCH>
    void finish(const Tile &tile, int64_t begin, int64_t end, const Columns &columns) const {
        constexpr bool ADDS = !std::is_same<Residual, None>::value;
        const int offset = args.packed ? Isa::OFFSET4 : Isa::OFFSET8;
        alignas(64) Residual residual[ROWS][COLS];
        if constexpr (ADDS)
            for (int64_t r = begin; r < end; r++)
                copy(static_cast<const Residual *>(args.residual) + (tile.row0 + r) * args.n + tile.col0, tile.width,
                     residual[r]);
        for (int64_t r = begin; r < end; r++) {
            const float *scales = args.row_scale + (tile.row0 + r) * (BRANCH ? 2 : 1);
            const float row_scale = scales[0], branch_row_scale = BRANCH ? scales[1] : 0;
            const int32_t *acc = tile.acc + r * COLS, *branch_acc = tile.branch_acc + r * COLS;
            const uint32_t excess = P::excess(tile.sums[r], offset);
            const uint32_t branch_excess = BRANCH ? P::excess(tile.branch_sums[r], Isa::OFFSET8) : 0;
            alignas(64) Out out[COLS];
            for (int c = 0; c < COLS; c++) {
                float y = P::exact(acc[c], excess) * row_scale * columns.scale[c];
                if constexpr (BRANCH)
                    y += P::exact(branch_acc[c], branch_excess) * branch_row_scale * columns.branch_scale[c];
                y += columns.bias[c];
                if constexpr (GELU) y = gelu(y);
                y *= columns.gain[c];
                if constexpr (ADDS) y += widen(residual[r][c]);
                narrow(y, out[c]);
            }
            write(out, tile.width, static_cast<Out *>(args.out) + (tile.row0 + r) * args.n + tile.col0);
        }
    }

    // A row of a tile. Panels start at whole lines of rows that do, so one as wide as they are ends there too.
    template <class Out>
    void write(const Out *from, int64_t width, Out *to) const {
        if constexpr (Isa::STREAMS && COLS * sizeof(Out) % LINE == 0)
            if (streams && width == COLS) {
                for (int c = 0; c < COLS; c += LINE / sizeof(Out)) Isa::stream_line(from + c, to + c);
                return;
            }
        copy(from, width, to);
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
