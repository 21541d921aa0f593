// The most int8 operations that one thread does on AMX's tiles: 6 independent sums, nothing loaded or stored.
#include "amx.h"

extern "C" void peak(int64_t operations) {
    const FullTiles shapes;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    tile_zero(4);
    tile_zero(5);
    tile_zero(6);
    tile_zero(7);
    for (int64_t i = 0; i < operations / (6 * 32768); i++) {
        tile_multiply(0, 6, 7);
        tile_multiply(1, 6, 7);
        tile_multiply(2, 6, 7);
        tile_multiply(3, 6, 7);
        tile_multiply(4, 6, 7);
        tile_multiply(5, 6, 7);
    }
}
