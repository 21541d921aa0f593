"""HDR to sRGB against the standards' own numbers."""

import numpy as np
import pytest

from quantvggt.scenes.hdr import HLG, PQ, nits_to_pq, pq_to_nits, to_srgb, tone_mapped


def patch(codes: list[float], transfer: int, full_range: bool = False) -> list[int]:
    """These R'G'B' as 16-bit Y'CbCr (BT.2020), and back."""
    red, green, blue = codes
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    ycc = np.array([luma, (blue - luma) / 1.8814, (red - luma) / 1.4746])
    limited = (ycc * [219, 224, 224] + [16, 128, 128]) * 256
    coded = ycc * 65535 + [0, 32768, 32768] if full_range else limited
    pixels = np.round(coded).clip(0, 65535).astype(np.uint16)[None, None]
    return to_srgb(np.repeat(pixels, 300, 0), transfer, full_range)[299, 0].tolist()


def srgb(light: float) -> float:
    return 255 * (12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def test_pq_has_the_values_of_the_standard() -> None:
    """ITU-R BT.2408, table of nominal signal levels in PQ."""
    for nits, percent in ((0, 0.0), (26, 38), (100, 51), (203, 58), (1000, 75), (10000, 100)):
        assert 100 * nits_to_pq(np.float64(nits)) == pytest.approx(percent, abs=0.55)
    nits = np.geomspace(0.001, 10000, 50)
    np.testing.assert_allclose(pq_to_nits(nits_to_pq(nits)), nits, rtol=1e-9)


def test_the_curve_keeps_the_dark_compresses_the_bright_and_ends_at_white() -> None:
    nits = np.geomspace(0.01, 10000, 400)
    mapped = tone_mapped(nits)
    assert (np.diff(mapped) >= -1e-9).all()
    np.testing.assert_allclose(mapped[nits < 80], nits[nits < 80], rtol=1e-6)
    assert mapped[-1] == pytest.approx(203, rel=1e-6)
    assert tone_mapped(np.float64(1000)) == pytest.approx(203, rel=1e-6)
    assert 140 < tone_mapped(np.float64(203)) < 170


@pytest.mark.parametrize("nits", [0.0, 0.5, 5, 26, 100, 203, 500, 1000, 4000])
def test_greys_in_pq(nits: float) -> None:
    code = float(nits_to_pq(np.float64(nits)))
    expected = srgb(float(tone_mapped(np.float64(nits))) / 203)
    assert patch([code] * 3, PQ) == pytest.approx([expected] * 3, abs=1)
    assert patch([code] * 3, PQ, full_range=True) == pytest.approx([expected] * 3, abs=1)


def test_greys_in_hlg() -> None:
    """BT.2408: HDR reference white is at 75 % in HLG, 203 nits on a display of 1000; full signal is its peak."""
    expected = srgb(float(tone_mapped(np.float64(203))) / 203)
    assert patch([0.75] * 3, HLG) == pytest.approx([expected] * 3, abs=1)
    assert patch([1.0] * 3, HLG) == [255] * 3
    assert patch([0.0] * 3, HLG) == [0] * 3


def test_colours_leave_bt2020() -> None:
    """What BT.709's red, at 50 nits, is in BT.2020 (BT.2087) comes back as pure red."""
    codes = nits_to_pq(50 * np.array([0.6274, 0.0691, 0.0164])).tolist()
    red, green, blue = patch(codes, PQ)
    assert red == pytest.approx(srgb(50 / 203), abs=1)
    assert green <= 8
    assert blue <= 8
