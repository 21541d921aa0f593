// Softmax attention for d channels a head, after LayerNorm and rotary embedding of queries and keys, in bfloat16
// with float32 sums. Keys and values of every head are first laid out once, as the CPU's products take them; then a
// task takes a block of queries through all keys, block by block, with a running maximum (Flash attention,
// arXiv 2205.14135), so no score leaves the caches. Keys come in regions: a frame's own, which only its queries see,
// and groups of tokens that those of all other frames see, each with a weight. Exact attention is one frame, without
// groups.
// What this asks of a CPU's vectors of LANES floats (vectors.h) a path includes first:
//   all, fma             the broadcast, a b + c
//   fraction             x less the integer nearest to it (half to even); a finite number if x is -inf
//   larger               of a and b; no number if b is none
//   scaled               x 2^power, of integers and -inf; 0 where that is too small
//   sum_of, largest_of   of a vector's floats
//   widen, narrow        from LANES bfloat16, and to them from two vectors, half to even
// And it brings a struct Products<D>:
//   BLOCK         words, each two bfloat16, of a query or key that lie side by side; as many of a channel's values
//   KEYS          of a block: its scores stay near L1
//   ROWS          queries that share a load of keys
//   BUFFERS       for blocks in work at once: 1, or it brings `see`, which takes queries through a region
//   Task          lives as long as a thread multiplies
//   lay_out       a panel of keys, [PANEL][channel], as [BLOCK pairs of channels][key]
//   score         scores[r][i] = queries[r] . key i
//   weigh         the same and straight to weights[r][i] = 2^(scale * score - shift[r]), their sums added to sums[r];
//                 false and no sum changed if that overflows or there is no quicker way than score and what follows
//   add_values    out[r] += weights[r] . values
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "args.h"
#include "host.h"
#include "numbers.h"

namespace {

constexpr int64_t QUERIES = 96;  // of a task, which share a block of keys in L2
constexpr int64_t KEYS_PER_TASK = 64;
constexpr float FAR = 0x1p64f;   // a sum of exponentials that isn't far from overflow
constexpr int64_t PANEL = 16;    // keys of one
constexpr int64_t PADDING = 32;  // of keys: two panels

// 2^x to 8e-5 of it, where bfloat16 rounds to 2e-3; what is below 2^-126 becomes 0 or less than a float's smallest
// number.
inline Floats exp2(Floats x) {
    const Floats f = fraction(x), power = x - f;
    Floats y = all(0x1.c34958p-5f);
    y = fma(y, f, all(0x1.f0da64p-3f));
    y = fma(y, f, all(0x1.62f51ap-1f));
    y = fma(y, f, all(0x1.fff6b0p-1f));
    return scaled(y, power);
}

// 2^(scale * score - shift) of two vectors of scores as bfloat16, log2(e) in the scale; their sums in LANES parts.
inline Floats exponentials(Floats a, Floats b, float scale, float shift, uint16_t *out) {
    const Floats factor = all(scale), above = all(-shift);
    a = exp2(fma(a, factor, above)), b = exp2(fma(b, factor, above));
    narrow(a, b, out);
    return a + b;
}

template <int D, class Products>
struct Attention {
    static constexpr int64_t WORDS = D / 2, COLUMNS = D / LANES, BLOCK = Products::BLOCK;
    static constexpr int64_t ROWS = Products::ROWS, KEYS = Products::KEYS;

    static constexpr bfloat16 ABSENT[D] = {};  // the value in a slot without a token

    const AttentionArgs &args;
    int64_t frames, own;                   // of a batch's item; a frame's own keys, padded
    int64_t keys, key_tasks, query_tasks;  // of one head: slots for keys, tasks; query tasks: of a frame

    explicit Attention(const AttentionArgs &a) : args(a) {
        frames = a.n / a.frame_length;
        own = padded(a.frame_length);
        keys = frames * own;
        for (int64_t g = 0; g < a.groups; g++) keys += padded(frames * size_of(g));
        key_tasks = (keys + KEYS_PER_TASK - 1) / KEYS_PER_TASK;
        query_tasks = (a.frame_length + QUERIES - 1) / QUERIES;
    }

    static int64_t padded(int64_t count) { return (count + PADDING - 1) / PADDING * PADDING; }
    int64_t size_of(int64_t group) const { return args.group_ends[group] - (group ? args.group_ends[group - 1] : 0); }

    // The token whose key lies in a slot, -1 if none does.
    int64_t token_of(int64_t slot) const {
        if (slot < frames * own) {
            const int64_t i = slot % own;
            return i < args.frame_length ? slot / own * args.frame_length + i : -1;
        }
        slot -= frames * own;
        for (int64_t g = 0; g < args.groups; slot -= padded(frames * size_of(g)), g++) {
            const int64_t size = size_of(g);
            if (slot >= padded(frames * size)) continue;
            const int64_t *members = args.members + args.group_ends[g] - size;
            return slot < frames * size ? slot / size * args.frame_length + members[slot % size] : -1;
        }
        return -1;
    }

    // [panel of keys][BLOCK pairs of channels][key], and behind it [BLOCK pairs of keys][channel].
    uint32_t *key_words(int64_t head) const { return args.workspace + head * keys * 2 * WORDS; }
    uint32_t *value_words(int64_t head) const { return key_words(head) + keys * WORDS; }

    // Channel 0 of a head's query (part 0), key (1) or value (2) of a token; `head` counts through the batch.
    const bfloat16 *source(int64_t head, int64_t token, int64_t part) const {
        const int64_t batch = head / args.heads;
        return static_cast<const bfloat16 *>(args.qkv) +
               ((batch * args.n + token) * 3 + part) * args.heads * D + head % args.heads * D;
    }

    static float sum(const Floats *x) {
        Floats total = x[0];
        for (int c = 1; c < COLUMNS; c++) total += x[c];
        return sum_of(total);
    }

    // LayerNorm and rotation of one query or key.
    void prepare(const bfloat16 *in, int64_t token, const float *weight, const float *bias, uint16_t *out) const {
        Floats x[COLUMNS];
        for (int c = 0; c < COLUMNS; c++) x[c] = widen(in + LANES * c);
        if (weight) {
            const Floats mean = all(sum(x) / D);
            Floats squares[COLUMNS];
            for (int c = 0; c < COLUMNS; c++) x[c] -= mean, squares[c] = x[c] * x[c];
            const Floats factor = all(1 / std::sqrt(sum(squares) / D + args.eps));
            for (int c = 0; c < COLUMNS; c++)
                x[c] = fma(x[c] * factor, load(weight + LANES * c), bias ? load(bias + LANES * c) : Floats{});
        }
        if (args.cosine) {
            float turned[D];
            std::memcpy(turned, x, sizeof x);
            rotate(turned, token % args.frame_tokens * D);
            std::memcpy(x, turned, sizeof x);
        }
        for (int c = 0; c < COLUMNS; c += 2) narrow(x[c], x[c + 1], out + LANES * c);
    }

    // The first half of a head turns with y, the second with x; each is (a, b) -> a cos - b sin, b cos + a sin.
    void rotate(float *x, int64_t row) const {
        constexpr int QUARTER = D / 4;
        const float *cosine = args.cosine + row, *sine = args.sine + row;
        for (int half = 0; half < D; half += D / 2)
            for (int i = half; i < half + QUARTER; i++) {
                const float a = x[i], b = x[i + QUARTER];
                x[i] = std::fma(a, cosine[i], -(b * sine[i]));
                x[i + QUARTER] = std::fma(b, cosine[i + QUARTER], a * sine[i + QUARTER]);
            }
    }

    static void lay_out(void *pointer, int64_t task) {
        const Attention &self = *static_cast<const Attention *>(pointer);
        const int64_t head = task / self.key_tasks, first = task % self.key_tasks * KEYS_PER_TASK;
        const int64_t end = first + KEYS_PER_TASK < self.keys ? first + KEYS_PER_TASK : self.keys;
        uint32_t *k = self.key_words(head), *v = self.value_words(head);
        for (int64_t slot = first; slot < end; slot += PANEL) {
            alignas(64) uint16_t key[PANEL][D];
            const bfloat16 *value[PANEL];
            for (int64_t i = 0; i < PANEL; i++) {
                const int64_t token = self.token_of(slot + i);
                value[i] = token < 0 ? ABSENT : self.source(head, token, 2);
                if (token < 0) std::memset(key[i], 0, sizeof key[i]);
                else self.prepare(self.source(head, token, 1), token, self.args.k_weight, self.args.k_bias, key[i]);
            }
            Products::lay_out(key[0], k + slot * WORDS);
            for (int64_t i = 0; i < PANEL; i += 2 * BLOCK) lay_out_values(value + i, v + (slot + i) / 2 * D);
        }
    }

    static void lay_out_values(const bfloat16 *const *values, uint32_t *out) {
        for (int64_t i = 0; i < D * BLOCK; i++) {
            const int64_t pair = i % BLOCK * 2, channel = i / BLOCK;
            out[i] = values[pair][channel].bits | uint32_t(values[pair + 1][channel].bits) << 16;
        }
    }

    struct Buffer {  // for a block of keys, seen by ROWS queries
        alignas(64) float scores[ROWS][KEYS];
        alignas(64) uint16_t weights[ROWS][KEYS];
    };

    struct State {  // of a task's queries
        alignas(64) float out[QUERIES][D];
        Buffer buffers[Products::BUFFERS];
        alignas(64) uint16_t queries[QUERIES][D];
        float maximum[QUERIES], sum[QUERIES];
    };

    struct Region {  // of keys in slots from `first` on: `count` of them, of which `hidden` to `shown` - 1 aren't seen
        int64_t first, count, hidden, shown;
        float weight;  // log2 of it

        // Are the keys from `key` on there, and seen, all of them?
        bool whole(int64_t key, int64_t width) const {
            return key + width <= count && (key + width <= hidden || shown <= key);
        }
    };

    static void attend(void *pointer, int64_t task) {
        const Attention &self = *static_cast<const Attention *>(pointer);
        const AttentionArgs &args = self.args;
        const int64_t row = task / self.query_tasks, head = row / self.frames, frame = row % self.frames;
        const int64_t first = task % self.query_tasks * QUERIES, start = frame * args.frame_length + first;
        const int64_t count = args.frame_length - first < QUERIES ? args.frame_length - first : QUERIES;
        const int64_t padded = (count + ROWS - 1) / ROWS * ROWS;
        State &state = *static_cast<State *>(scratch(sizeof(State)));
        [[maybe_unused]] typename Products::Task task_state;
        std::memset(state.out, 0, sizeof(float) * padded * D);
        for (int64_t q = 0; q < padded; q++) {
            state.maximum[q] = -INFINITY, state.sum[q] = 0;
            // Absent queries repeat the last one.
            const int64_t token = start + (q < count ? q : count - 1);
            self.prepare(self.source(head, token, 0), token, args.q_weight, args.q_bias, state.queries[q]);
        }
        self.see(state, padded, head, {frame * self.own, args.frame_length, 0, 0, 0});
        int64_t slot = self.frames * self.own;
        for (int64_t g = 0; g < args.groups && self.frames > 1; g++) {
            const int64_t size = self.size_of(g), all = self.frames * size;
            self.see(state, padded, head, {slot, all, frame * size, (frame + 1) * size, args.group_weights[g]});
            slot += Attention::padded(all);
        }
        const int64_t batch = head / args.heads;
        for (int64_t q = 0; q < count; q++) {
            const int64_t token = (batch * args.n + start + q) * args.heads + head % args.heads;
            bfloat16 *out = static_cast<bfloat16 *>(args.out) + token * D;
            const float factor = 1 / state.sum[q];
            for (int i = 0; i < D; i++) narrow(state.out[q][i] * factor, out[i]);
        }
    }

    void see(State &state, int64_t padded, int64_t head, const Region &region) const {
        const uint32_t *k = key_words(head) + region.first * WORDS, *v = value_words(head) + region.first / 2 * D;
        if constexpr (Products::BUFFERS > 1) return Products::see(*this, state, padded, k, v, region);
        for (int64_t key = 0; key < region.count; key += KEYS) {
            const int64_t end = key + KEYS < region.count ? key + KEYS : region.count;
            const int64_t width = (end - key + PADDING - 1) / PADDING * PADDING;
            for (int64_t q = 0; q < padded; q += ROWS) {
                weigh(state, state.buffers[0], q, key, k + key * WORDS, width, region);
                Products::add_values(state.buffers[0].weights[0], v + key / 2 * D, width, state.out[q]);
            }
        }
    }

    // Exponentials of a block's scores, against the maximum so far: where nothing is far above that, it needs no
    // other. Else against the new one, to which what was summed before is scaled.
    void weigh(State &state, Buffer &buffer, int64_t q, int64_t key, const uint32_t *k, int64_t width,
               const Region &region) const {
        const int64_t hidden = std::max(region.hidden - key, int64_t(0)), shown = std::min(region.shown - key, width);
        const bool whole = region.whole(key, width);
        float shifts[ROWS];
        for (int64_t r = 0; r < ROWS; r++) shifts[r] = state.maximum[q + r] - region.weight;
        if (state.maximum[q] > -INFINITY && whole &&
            Products::weigh(state.queries[q], k, width, args.scale, shifts, buffer.weights[0], &state.sum[q]))
            return;
        Products::score(state.queries[q], k, width, buffer.scores[0]);
        for (int64_t r = 0; r < ROWS && !whole; r++) {
            if (hidden < shown) std::fill(buffer.scores[r] + hidden, buffer.scores[r] + shown, -INFINITY);
            if (key + width > region.count)
                std::fill(buffer.scores[r] + region.count - key, buffer.scores[r] + width, -INFINITY);
        }
        float maximum[ROWS];  // all rows' first, so that one's wait overlaps the next one's
        for (int64_t r = 0; r < ROWS; r++) {
            const float *scores = buffer.scores[r];
            Floats a = load(scores), b = load(scores + LANES);
            for (int64_t i = 2 * LANES; i < width; i += 2 * LANES)
                a = larger(a, load(scores + i)), b = larger(b, load(scores + i + LANES));
            maximum[r] = largest_of(larger(a, b)) * args.scale + region.weight;
        }
        for (int64_t r = 0; r < ROWS; r++) {
            float &old = state.maximum[q + r], &total = state.sum[q + r];
            if (maximum[r] > old) {
                const float factor = std::exp2(old - maximum[r]);
                old = maximum[r], total *= factor;
                for (float &out : state.out[q + r]) out *= factor;
            }
            // If no key so far has a score above -inf, none has a weight.
            const float shift = old > -INFINITY ? old - region.weight : 0;
            Floats sum = {};
            for (int64_t i = 0; i < width; i += 2 * LANES) {
                const Floats a = load(&buffer.scores[r][i]), b = load(&buffer.scores[r][i + LANES]);
                sum += exponentials(a, b, args.scale, shift, &buffer.weights[r][i]);
            }
            total += sum_of(sum);
        }
    }
};

template <int D, class Products>
void attention(const AttentionArgs *args) {
    using Self = Attention<D, Products>;
    Self self(*args);
    const int64_t heads = args->batch * args->heads;
    run_tasks(heads * self.key_tasks, args->threads, Self::lay_out, &self);
    run_tasks(heads * self.frames * self.query_tasks, args->threads, Self::attend, &self);
}

template <template <int> class Products>
void attention(const AttentionArgs *args) {
    switch (args->d) {
        case 32: return attention<32, Products<32>>(args);
        case 64: return attention<64, Products<64>>(args);
        case 128: return attention<128, Products<128>>(args);
    }
}

}  // namespace
