"""HDR video (PQ and HLG, BT.2100) to 8-bit sRGB, so that it looks as the same scene filmed in SDR would.

Code values become light in nits; BT.2020 colours become BT.709; what is brighter than SDR white is compressed by the
curve of ITU-R BT.2390 (section 5.4.1, EETF), from 1000 nits to the 203 nits of HDR reference white (BT.2408); sRGB
encodes the result. Below about 90 nits the curve changes nothing.
"""

import numpy as np
from numpy.typing import NDArray

PQ, HLG = 16, 18  # transfer characteristics, ITU-T H.273
PEAK, WHITE = 1000.0, 203.0  # nits

_TO_709 = np.array(  # ITU-R BT.2087
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020 primaries
_M1, _M2 = 2610 / 16384, 2523 / 32  # SMPTE ST 2084
_C1, _C2, _C3 = 3424 / 4096, 2413 / 128, 2392 / 128
_ROWS = 256  # that are converted at a time: a float copy of a whole 8K frame would be large

Array = NDArray[np.float64]


def to_srgb(codes: NDArray[np.uint16], transfer: int, full_range: bool = False) -> NDArray[np.uint8]:
    """Y'CbCr of BT.2020, uint16 [H, W, 3], deep code values shifted up to 16 bits, to sRGB, uint8 [H, W, 3].

    transfer: PQ or HLG. full_range: black and white are the ends of the codes, not 16 and 235 of 255.
    """
    decode = _decoder(transfer)
    out = np.empty(codes.shape, np.uint8)
    for top in range(0, len(codes), _ROWS):
        light = decode[_rgb(codes[top : top + _ROWS], full_range)]
        if transfer == HLG:  # the system gamma of a 1000-nit display
            light *= PEAK * np.maximum(light @ _LUMINANCE, 1e-9)[..., None] ** 0.2
        light = np.maximum(light @ _TO_709.T, 0)
        brightest = light.max(-1)
        light *= np.interp(brightest, _NODES, _GAINS).astype(np.float32)[..., None]
        steps = np.minimum(light * (4095 / WHITE) + 0.5, 4095).astype(np.uint16)
        out[top : top + _ROWS] = _ENCODE[steps]
    return out


def _rgb(codes: NDArray[np.uint16], full_range: bool) -> NDArray[np.uint16]:
    """R'G'B', 0 to 65535. ITU-R BT.2020's matrix by hand: swscale's is wrong for it in some versions of FFmpeg."""
    black, span, chroma = (0, 65535, 65535) if full_range else (16 * 256, 219 * 256, 224 * 256)
    values = codes.astype(np.float32)
    luma = (values[..., 0] - black) / span
    blue, red = (values[..., 1] - 32768) / chroma, (values[..., 2] - 32768) / chroma
    rgb = np.stack([luma + 1.4746 * red, luma - 0.16455 * blue - 0.57135 * red, luma + 1.8814 * blue], -1)
    return np.round(np.clip(rgb, 0, 1) * 65535).astype(np.uint16)


def _decoder(transfer: int) -> NDArray[np.float32]:
    """Light of each R', G' or B': nits for PQ, the scene's linear light for HLG."""
    values = np.arange(65536) / 65535
    return (pq_to_nits(values) if transfer == PQ else _hlg_to_scene(values)).astype(np.float32)


def pq_to_nits(values: Array) -> Array:
    """SMPTE ST 2084: code values 0 to 1 -> nits."""
    power = np.maximum(values, 0) ** (1 / _M2)
    return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def nits_to_pq(nits: Array) -> Array:
    """The inverse of `pq_to_nits`."""
    power = (np.maximum(nits, 0) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _hlg_to_scene(values: Array) -> Array:
    """ITU-R BT.2100: code values 0 to 1 -> linear light 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)


def tone_mapped(nits: Array) -> Array:
    """BT.2390's curve: 0 to PEAK nits -> 0 to WHITE."""
    peak = nits_to_pq(np.float64(PEAK))
    most = nits_to_pq(np.float64(WHITE)) / peak
    knee = 1.5 * most - 0.5
    values = np.minimum(nits_to_pq(nits) / peak, 1)
    t = np.maximum(values - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return pq_to_nits(np.where(values < knee, values, spline) * peak)


_NODES = np.concatenate([[1e-3], np.geomspace(1, 10000, 1000)])
_GAINS = tone_mapped(_NODES) / _NODES


def _srgb(light: Array) -> Array:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


_ENCODE = np.round(_srgb(np.arange(4096) / 4095) * 255).astype(np.uint8)
