import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.core.packing import pack_int4, packed_width, unpack_int4


def test_exact_bytes():
    q = torch.tensor([[*range(-8, 0), *range(8)], [0] * 16], dtype=torch.int8)
    packed = pack_int4(q)
    assert packed.dtype == torch.int32
    assert packed.tolist() == [[0x76543210, 0xFEDCBA98 - 2**32], [0x88888888 - 2**32] * 2]
    assert packed[0].numpy().astype("<i4").tobytes() == bytes.fromhex("10325476 98badcfe")


@pytest.mark.parametrize("k", [1, 7, 8, 9, 20, 64, 1021])
def test_round_trip(k):
    q = torch.randint(-8, 8, (5, k), dtype=torch.int8, generator=torch.Generator().manual_seed(k))
    packed = pack_int4(q)
    assert packed.shape == (5, packed_width(k)) == (5, (k + 7) // 8)
    assert torch.equal(unpack_int4(packed, k), q)


def test_short_last_word_is_filled_with_zeros():
    packed = pack_int4(torch.tensor([[-8, 7, -1]], dtype=torch.int8))
    assert unpack_int4(packed, 8).tolist() == [[-8, 7, -1, 0, 0, 0, 0, 0]]


def test_values_and_widths_that_do_not_fit():
    with pytest.raises(InputError, match="from -3 to 8"):
        pack_int4(torch.tensor([[-3, 8]], dtype=torch.int8))
    with pytest.raises(InputError, match="2 words"):
        unpack_int4(torch.zeros(1, 2, dtype=torch.int32), 17)
