// What Python hands over: one struct per op. structs.py reads its fields from here: pointers, int64_t and float, a
// declaration a line or several with commas.
#pragma once
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

enum Type : int64_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

struct RotateArgs {
    const void *x;           // [rows, d] of x_type
    const float *norm_weight, *norm_bias; // [d], LayerNorm comes first; the weight null: none, the bias null: none
    const float *shift;      // [d] or null
    const float *presmooth;  // [d] or null
    const int8_t *signs;     // [d], or null: no rotation
    const float *hadamard;   // [m, m up to a multiple of 16] of +1 and -1, then zeros; unused if m is 1
    const float *smooth;     // [d] or null
    const float *clip;       // [2] or null
    const int8_t *basis;     // [d, rank], or null: no low-rank branch
    const float *basis_scale; // [1] or null
    int8_t *q;               // out [rows, d + rank]
    float *scale;            // out [rows], or with a branch [rows, 2]
    int64_t x_type, rows, d, m, bits;
    int64_t rank;            // up to 64; 0 without a branch
    int64_t frame_tokens, special_tokens, special_bits; // the first special_tokens rows of each frame_tokens
    int64_t asymmetric;      // of up to 7 bits: from the row's minimum to its maximum
    int64_t threads;
    float factor;            // 1 / sqrt(d), rounded once
    float norm_eps;
};

struct LinearArgs {
    const int8_t *q;         // [m, k + rank]
    const float *row_scale;  // [m], or with a branch [m, 2]
    const void *weight;      // int8 [n, k], or if packed int32 [n, ceil(k / 8)] of 4-bit numbers
    const float *weight_scale; // [n]
    const int8_t *branch;    // [n, rank], or null: no low-rank branch
    const float *branch_scale; // [n] or null
    const float *bias;       // [n] or null
    const float *gain;       // [n] or null
    const void *residual;    // [m, n] of residual_type, or null
    void *out;               // [m, n] of out_type
    int64_t out_type, residual_type, packed, gelu; // gelu: of the sum with the bias, before the gain
    int64_t m, n, k, rank, threads;
};

struct DequantizeArgs {
    const void *weight;      // int8 [n, k] or, if packed, 4-bit as core/packing.py stores it
    const float *weight_scale; // [n]
    void *out;               // of out_type, [n, k]; with inputs [inputs, k / inputs, n]
    int64_t out_type, packed, n, k, threads;
    int64_t inputs;          // 0, or how many of a row's numbers stand together, the last dimension of k
};

struct AttentionArgs {
    const void *qkv;         // bfloat16 [batch, n, 3, heads, d]
    const float *q_weight, *q_bias, *k_weight, *k_bias; // [d] or null: LayerNorm of queries and keys, with a bias or without
    const float *cosine, *sine; // [frame_tokens, d] or null: rotary embedding
    const int64_t *members, *group_ends; // places in a frame that all others see, group by group, and where each group ends
    const float *group_weights; // [groups]: log2 of what its tokens count for
    uint32_t *workspace;     // batch * heads * d words for each slot of a key, of which every region has a multiple of 32:
                             // frame_length in each of a batch's n / frame_length frames, and as often each group's members
    void *out;               // bfloat16 [batch, n, heads, d]
    int64_t batch, n, heads, d, frame_tokens, frame_length, groups, threads;
    float eps, scale;        // of LayerNorm; of scores, times log2(e)
};
