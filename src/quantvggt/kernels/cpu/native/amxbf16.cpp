// AMX: 16 x 16 sums of 32 bfloat16 products each in one instruction. A core's tiles and its vectors work at the same
// time, but only on instructions that are near each other. So exponentials of a block of keys are written between
// the multiplications of the block before, whose values are added, and of the block behind, whose scores come next.
#include "amx.h"
#include "bfloat512.h"

#include "attention.h"

namespace {

// The sum of each of 16 vectors.
inline Floats sums(const Floats *x) {
    Floats two[8], four[4];  // of rows 2 i and 2 i + 1, in turn; of rows 4 i to 4 i + 3
    for (int i = 0; i < 8; i++)
        two[i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]) + _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(two[2 * i]), b = _mm512_castps_pd(two[2 * i + 1]);
        four[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)) + _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
    const auto add = [](Floats a, Floats b) {
        return Floats(_mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    return add(add(four[0], four[1]), add(four[2], four[3]));
}

template <int D>
struct Tiles {
    static constexpr int64_t BLOCK = 1, KEYS = 64, ROWS = 32, BUFFERS = 2, WORDS = D / 2;
    using Task = FullTiles;

    struct Nothing {
        void operator()() const {}
    };

    static void lay_out(const uint16_t *keys, uint32_t *panel) { lay_out_by_pairs(keys, WORDS, panel); }

    // Tiles 0 to 3 sum, 4 and 5 are queries or weights, 6 and 7 keys or values.
    template <class Between>
    static void multiply(Between between) {
        tile_multiply_bf16(0, 4, 6);
        between();
        tile_multiply_bf16(1, 4, 7);
        between();
        tile_multiply_bf16(2, 5, 6);
        between();
        tile_multiply_bf16(3, 5, 7);
        between();
    }

    template <class Between = Nothing>
    static void score(const uint16_t *queries, const uint32_t *k, int64_t width, float *scores, Between between = {}) {
        constexpr int64_t LEFT = 2 * D, RIGHT = 64, OUT = 4 * KEYS;  // bytes from row to row
        for (int64_t i = 0; i < width; i += 32, k += 32 * WORDS, scores += 32) {
            tile_zero(0);
            tile_zero(1);
            tile_zero(2);
            tile_zero(3);
            for (int64_t w = 0; w < WORDS; w += 16) {
                tile_load(4, queries + 2 * w, LEFT);
                tile_load(5, queries + 16 * D + 2 * w, LEFT);
                tile_load(6, k + w * 16, RIGHT);
                tile_load(7, k + (WORDS + w) * 16, RIGHT);
                multiply(between);
            }
            tile_store(0, scores, OUT);
            tile_store(1, scores + 16, OUT);
            tile_store(2, scores + 16 * KEYS, OUT);
            tile_store(3, scores + 16 * KEYS + 16, OUT);
        }
    }

    static bool weigh(const uint16_t *, const uint32_t *, int64_t, float, const float *, uint16_t *, float *) {
        return false;  // `see` has a quicker way of its own
    }

    template <class Between = Nothing>
    static void add_values(const uint16_t *weights, const uint32_t *v, int64_t width, float *out,
                           Between between = {}) {
        constexpr int64_t LEFT = 2 * KEYS, RIGHT = 4 * D;
        for (int64_t c = 0; c < D; c += 32, v += 32, out += 32) {
            tile_load(0, out, RIGHT);
            tile_load(1, out + 16, RIGHT);
            tile_load(2, out + 16 * D, RIGHT);
            tile_load(3, out + 16 * D + 16, RIGHT);
            for (int64_t key = 0; key < width; key += 32) {
                tile_load(4, weights + key, LEFT);
                tile_load(5, weights + 16 * KEYS + key, LEFT);
                tile_load(6, v + key / 2 * D, RIGHT);
                tile_load(7, v + key / 2 * D + 16, RIGHT);
                multiply(between);
            }
            tile_store(0, out, RIGHT);
            tile_store(1, out + 16, RIGHT);
            tile_store(2, out + 16 * D, RIGHT);
            tile_store(3, out + 16 * D + 16, RIGHT);
        }
    }

    // Exponentials of a block's scores, against maxima that are known: as many at a time as make 32 keys' last through
    // the D / 4 multiplications that `score` and `add_values` have for them.
    struct Exponentials {
        static constexpr int64_t STEP = 128 / D;

        const float *scores;
        uint16_t *weights;
        int64_t width;
        float scale;
        const float *shift;
        Floats *sums;  // of each row, in 16 parts
        int64_t key = 0, row = 0;

        __attribute__((always_inline)) bool some() {
            if (key == width) return false;
            const int64_t first = row * KEYS + key;
            const float *x = scores + first, *below = shift + row, factor = scale;
            uint16_t *y = weights + first;
            Floats *sum = sums + row;
#pragma GCC unroll 4
            for (int r = 0; r < STEP; r++, x += KEYS, y += KEYS)
                sum[r] += exponentials(load(x), load(x + LANES), factor, below[r], y);
            row += STEP;
            if (row == ROWS) row = 0, key += 32;
            return true;
        }
    };

    // Columns of 32 keys that all are seen run together, the others (ends of a region, of what is hidden in it, and
    // the first one, without which there is no maximum) go by themselves.
    template <class Self>
    static void see(const Self &self, typename Self::State &state, int64_t padded, const uint32_t *k,
                    const uint32_t *v, const typename Self::Region &region) {
        for (int64_t key = 0, end = 32; key < region.count; key = end, end += 32) {
            if (region.hidden <= key && std::min(end, region.count) <= region.shown) continue;
            if (region.whole(key, 32) && state.maximum[0] > -INFINITY) {
                while (region.whole(end, 32)) end += 32;
                overlap(self, state, padded, k, v, region, key, end);
                continue;
            }
            for (int64_t q = 0; q < padded; q += ROWS) {
                self.weigh(state, state.buffers[0], q, key, k + key * WORDS, 32, region);
                add_values(state.buffers[0].weights[0], v + key / 2 * D, 32, state.out[q]);
            }
        }
    }

    // All queries past keys `first` to `end` - 1, each block of keys by all queries before the next one.
    template <class Self>
    static void overlap(const Self &self, typename Self::State &state, int64_t padded, const uint32_t *k,
                        const uint32_t *v, const typename Self::Region &region, int64_t first, int64_t end) {
        const int64_t groups = padded / ROWS, steps = (end - first + KEYS - 1) / KEYS * groups;
        const auto query = [=](int64_t step) { return step % groups * ROWS; };
        const auto key = [=](int64_t step) { return first + step / groups * KEYS; };
        const auto width = [=](int64_t step) { return std::min(KEYS, end - key(step)); };
        const auto score_step = [&](int64_t step, auto between) {
            float *scores = state.buffers[step % 2].scores[0];
            score(state.queries[query(step)], k + key(step) * WORDS, width(step), scores, between);
        };
        const auto add_step = [&](int64_t step, auto between) {
            const uint16_t *weights = state.buffers[step % 2].weights[0];
            add_values(weights, v + key(step) / 2 * D, width(step), state.out[query(step)], between);
        };
        score_step(0, Nothing());
        for (int64_t step = 0; step < steps; step++) {
            const int64_t q = query(step);
            auto &buffer = state.buffers[step % 2];
            float shift[ROWS];
            for (int64_t r = 0; r < ROWS; r++) shift[r] = state.maximum[q + r] - region.weight;
            Floats parts[ROWS] = {};
            Exponentials rest{buffer.scores[0], buffer.weights[0], width(step), self.args.scale, shift, parts};
            const auto some = [&]() __attribute__((always_inline)) { rest.some(); };
            if (step) add_step(step - 1, some);
            if (step + 1 < steps) score_step(step + 1, some);
            while (rest.some()) {}
            if (!add_sums(parts, &state.sum[q]))
                self.weigh(state, buffer, q, key(step), k + key(step) * WORDS, width(step), region);
        }
        add_step(steps - 1, Nothing());
    }

    // False and none added if one is far above the maximum so far, or no number.
    static bool add_sums(const Floats *parts, float *total) {
        const Floats a = sums(parts), b = sums(parts + 16), far = all(FAR);
        if (_mm512_cmp_ps_mask(a, far, _CMP_NLT_UQ) | _mm512_cmp_ps_mask(b, far, _CMP_NLT_UQ)) return false;
        store(total, load(total) + a);
        store(total + 16, load(total + 16) + b);
        return true;
    }
};

}  // namespace

EXPORT int amxbf16_attention(const AttentionArgs *args) {
    return status_of([=] { attention<Tiles>(args); });
}
