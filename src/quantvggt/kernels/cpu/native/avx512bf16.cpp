// AVX512 with bfloat16 dot products (Zen 4, Cooper Lake, Sapphire Rapids and later).
#include "attention.h"

EXPORT void avx512bf16_attention(const AttentionArgs *args) {
    switch (args->d) {
        case 32: return attention<32>(args);
        case 64: return attention<64>(args);
        case 128: return attention<128>(args);
    }
}
