"""What happens to a token's channels before the rotation, and rounding: shared by several kernels."""

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


@triton.jit
def scale_of(largest):
    """The scale of rows with these absolute maxima in 8 bits, and what they are multiplied by."""
    scale = tl.div_rn(largest, tl.full(largest.shape, 127.0, tl.float32))
    scale = tl.where(scale > 0, scale, 1.0)
    inverse = tl.div_rn(tl.full(largest.shape, 1.0, tl.float32), scale)
    return scale, tl.where(scale < 1e-30, 0.0, inverse)


@triton.jit
def in_8_bits(y, inverse):
    """Rows y times the numbers `inverse`, rounded."""
    return half_to_even(y * inverse[:, None]).to(tl.int32).to(tl.int8)
