// For any CPU: plain C++ on four floats at a time. A float holds every integer up to 2^24, which is 1024
// products of two 8-bit numbers.
#define LANES 4
#include "dequantize.h"
#include "linear.h"
#include "rotate.h"

namespace {

struct Portable : Panels {
    using A = float;
    using W = float;
    static constexpr int ROWS = 4, COLS = 8, OFFSET8 = 0, OFFSET4 = 0, EXACT_STEPS = 1024;

    template <int R>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out) {
        const float *y = reinterpret_cast<const float *>(w);
        std::memset(out, 0, sizeof(int32_t) * R * COLS);
        while (steps > 0) {
            Floats acc[R][2] = {};
            const int64_t count = steps < EXACT_STEPS ? steps : EXACT_STEPS;
            for (int64_t s = 0; s < count; s++, a += R, y += COLS)
                for (int r = 0; r < R; r++) {
                    const float x = as_float(uint32_t(a[r]));
                    acc[r][0] += x * load(y), acc[r][1] += x * load(y + LANES);
                }
            for (int i = 0; i < R * COLS; i++) out[i] += int32_t(acc[i / COLS][i % COLS / LANES][i % LANES]);
            steps -= count;
        }
    }
};

}  // namespace

EXPORT int portable_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Portable>(args); });
}
EXPORT int portable_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Portable>(args); });
}
EXPORT int portable_dequantize_weight(const DequantizeArgs *args) {
    return status_of([=] { dequantize_weight(args); });
}
