// How the paths with 512-bit vectors lay out their panels, and how they write past the caches.
#pragma once
#include "linear.h"
#include "transpose16.h"

namespace {

struct Transpose512 : Panels {
    static void stream_line(const void *from, void *to) {
        _mm512_stream_si512(static_cast<__m512i *>(to), _mm512_load_si512(from));
    }
    static void fence() { _mm_sfence(); }

    static void transpose(int64_t count, int columns, const int32_t *in, int64_t stride, int32_t *out) {
        for (int64_t s = 0; s < count; s += 16)
            for (int c = 0; c < columns; c += 16)
                transpose16(count - s, columns - c, in + c * stride + s, stride, out + s * columns + c, columns);
    }
};

}  // namespace
