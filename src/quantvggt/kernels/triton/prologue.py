"""What happens to a token's channels before the rotation, and rounding: shared by the kernels of `rotate_quantize`."""

import triton
import triton.language as tl


@triton.jit
def before(x, norm_weight, norm_bias, shift, presmooth, place, known, mean, rstd):
    """The channels at these places of rows x, normalised, shifted and presmoothed; 0 where they aren't known."""
    y = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
    if norm_weight is not None:
        y = (y - mean) * rstd * tl.load(norm_weight + place, mask=known, other=0.0)
        if norm_bias is not None:
            y += tl.load(norm_bias + place, mask=known, other=0.0)
    if shift is not None:
        y -= tl.load(shift + place, mask=known, other=0.0)
    if presmooth is not None:
        y = tl.div_rn(y, tl.load(presmooth + place, mask=known, other=1.0))
    return y


@triton.jit
def half_to_even(y):
    """Rounded, below 2^22: there the sum has no place for fractions."""
    return (y + 12582912.0) - 12582912.0
