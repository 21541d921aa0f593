// dequantize_weight: every number of a weight times its row's scale in float32, rounded once.
#pragma once
#include "args.h"
#include "host.h"
#include "numbers.h"
#include "panels.h"

namespace {

template <class Out>
struct Dequantize {
    static constexpr int ROWS = 32, CHUNK = 256;  // of a task; of a row at a time, so that all stays in L1

    const DequantizeArgs &args;

    static void body(void *pointer, int64_t task) { static_cast<const Dequantize *>(pointer)->rows(task); }

    void rows(int64_t task) const {
        const int64_t row0 = task * ROWS, height = min(ROWS, args.n - row0), k = args.k;
        auto *out = static_cast<Out *>(args.out);
        if (!args.inputs) {
            for (int64_t row = row0; row < row0 + height; row++)
                for (int64_t k0 = 0; k0 < k; k0 += CHUNK) numbers(row, k0, min(CHUNK, k - k0), out + row * k + k0);
            return;
        }
        alignas(64) Out tile[ROWS][CHUNK];
        const int64_t places = k / args.inputs;
        for (int64_t k0 = 0; k0 < k; k0 += CHUNK) {
            const int64_t have = min(CHUNK, k - k0);
            for (int64_t r = 0; r < height; r++) numbers(row0 + r, k0, have, tile[r]);
            for (int64_t i = 0; i < have; i++) {
                const int64_t input = (k0 + i) % args.inputs, place = (k0 + i) / args.inputs;
                Out *to = out + (input * places + place) * args.n + row0;
                for (int64_t r = 0; r < height; r++) to[r] = tile[r][i];
            }
        }
    }

    // `have` numbers of a row from k0, a multiple of CHUNK, on.
    void numbers(int64_t row, int64_t k0, int64_t have, Out *__restrict out) const {
        alignas(64) int8_t spread[CHUNK];
        const int8_t *q = spread;
        if (args.packed) {
            // Byte j holds numbers 2j and 2j + 1, each plus 8.
            const auto *pairs = static_cast<const uint8_t *>(args.weight) + row * ceil(args.k, 8) * 4 + k0 / 2;
            for (int64_t j = 0; j < (have + 1) / 2; j++) {
                spread[2 * j] = int8_t((pairs[j] & 15) - 8);
                spread[2 * j + 1] = int8_t((pairs[j] >> 4) - 8);
            }
        } else {
            q = static_cast<const int8_t *>(args.weight) + row * args.k + k0;
        }
        const float scale = args.weight_scale[row];
        for (int64_t i = 0; i < have; i++) narrow(float(q[i]) * scale, out[i]);
    }
};

template <class Out>
void dequantize_into(const DequantizeArgs &args) {
    Dequantize<Out> work{args};
    run_tasks(ceil(args.n, Dequantize<Out>::ROWS), args.threads, Dequantize<Out>::body, &work);
}

inline void dequantize_weight(const DequantizeArgs *args) {
    switch (args->out_type) {
        case FLOAT32: return dequantize_into<float>(*args);
        case BFLOAT16: return dequantize_into<bfloat16>(*args);
        default: return dequantize_into<float16>(*args);
    }
}

}  // namespace
