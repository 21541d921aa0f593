// AMX: 16 x 16 sums of 64 signed products each in one instruction.
#define LANES 16
#include "amx.h"
#include "linear.h"
#include "rotate.h"
#include "transpose512.h"

namespace {

struct Amx : Transpose512 {
    using A = int8_t;
    using W = int8_t;
    static constexpr int ROWS = 32, COLS = 32, OFFSET8 = 0, OFFSET4 = 0, BLOCK = 16, SMALLEST = 16;
    static constexpr bool STREAMS = true, OVERLAPS = true;
    using Task = FullTiles;

    // Rows stay rows, in blocks of 16 words: out[s / 16][c][s % 16] = in[c][s], what a tile wants to its left.
    static void lay_out(int64_t count, int rows, const int32_t *in, int64_t stride, int32_t *out) {
        for (int64_t s = 0; s < count; s += BLOCK, out += rows * BLOCK)
            for (int r = 0; r < rows; r++) std::memcpy(out + r * BLOCK, in + r * stride + s, BLOCK * 4);
    }

    // Tiles 0 to 3 sum, 4 and 5 are activations, 6 and 7 weights. A CPU looks only some hundred instructions ahead, so
    // what shall run beside the products has to stand among them.
    template <int R, class Meanwhile>
    static void tile(int64_t steps, const int32_t *a, const int32_t *w, int32_t *out, Meanwhile meanwhile) {
        constexpr int64_t LEFT = BLOCK * 4, RIGHT = COLS * 4;  // bytes from row to row
        tile_zero(0);
        tile_zero(1);
        if constexpr (R > 16) {
            tile_zero(2);
            tile_zero(3);
        }
        for (int64_t s = 0; s < steps; s += BLOCK, a += R * BLOCK, w += COLS * BLOCK) {
            tile_load(4, a, LEFT);
            tile_load(6, w, RIGHT);
            tile_load(7, w + 16, RIGHT);
            tile_multiply(0, 4, 6);
            tile_multiply(1, 4, 7);
            if constexpr (R > 16) {
                tile_load(5, a + 16 * BLOCK, LEFT);
                tile_multiply(2, 5, 6);
                tile_multiply(3, 5, 7);
            }
            meanwhile();
        }
        tile_store(0, out, RIGHT);
        tile_store(1, out + 16, RIGHT);
        if constexpr (R > 16) {
            tile_store(2, out + 16 * COLS, RIGHT);
            tile_store(3, out + 16 * COLS + 16, RIGHT);
        }
    }
};

}  // namespace

EXPORT int amx_rotate_quantize(const RotateArgs *args) {
    return status_of([=] { rotate_quantize<Amx>(args); });
}
EXPORT int amx_int_linear(const LinearArgs *args) {
    return status_of([=] { int_linear<Amx>(args); });
}
