import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.core.packing import pack, pack_int4, packed_width, repack, unpack, unpack_int4

WIDTHS = (2, 3, 4)


def numbers(rows: int, k: int, bits: int) -> torch.Tensor:
    half = 2 ** (bits - 1)
    return torch.randint(-half, half, (rows, k), dtype=torch.int8, generator=torch.Generator().manual_seed(k))


def stream(row: list[int], bits: int) -> bytes:
    """By the definition: one large whole number, element i worth 2^(bits i); zeros behind the last."""
    words = -(-len(row) * bits // 32)
    filled = row + [0] * (32 * words)
    whole = sum((value + 2 ** (bits - 1)) << bits * i for i, value in enumerate(filled))
    return (whole % 2 ** (32 * words)).to_bytes(4 * words, "little")


def test_exact_bytes():
    q = torch.tensor([[*range(-8, 0), *range(8)], [0] * 16], dtype=torch.int8)
    packed = pack_int4(q)
    assert packed.dtype == torch.int32
    assert packed.tolist() == [[0x76543210, 0xFEDCBA98 - 2**32], [0x88888888 - 2**32] * 2]
    assert packed[0].numpy().astype("<i4").tobytes() == bytes.fromhex("10325476 98badcfe")


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(2, "e4e4e4e4 e4e4e4e4"), (3, "88c6fa88 c6fa88c6 fa88c6fa"), (4, "10325476 98badcfe 10325476 98badcfe")],
)
def test_exact_bytes_of_each_width(bits, expected):
    half = 2 ** (bits - 1)
    q = torch.arange(32).remainder(2 * half).sub(half).to(torch.int8).unsqueeze(0)
    assert pack(q, bits).numpy().astype("<i4").tobytes() == bytes.fromhex(expected)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("k", [1, 7, 8, 9, 10, 11, 20, 21, 22, 31, 32, 33, 64, 1021])
def test_round_trip(bits, k):
    q = numbers(5, k, bits)
    packed = pack(q, bits)
    assert packed.dtype == torch.int32
    assert packed.shape == (5, packed_width(k, bits)) == (5, (bits * k + 31) // 32)
    assert [row.numpy().astype("<i4").tobytes() for row in packed] == [stream(row, bits) for row in q.tolist()]
    assert torch.equal(unpack(packed, k, bits), q)


@pytest.mark.parametrize("bits", WIDTHS)
def test_inputs_need_not_be_contiguous(bits):
    q = numbers(6, 40, bits)
    packed = pack(q.T.contiguous().T, bits)
    assert torch.equal(packed, pack(q, bits))
    assert torch.equal(unpack(packed.T.contiguous().T, 40, bits), q)
    assert pack(q[:0], bits).shape == (0, packed_width(40, bits))
    assert unpack(packed[:0], 40, bits).shape == (0, 40)


@pytest.mark.parametrize("bits", WIDTHS)
def test_repacked_rows_hold_the_same_numbers(bits):
    q = numbers(3, 45, bits)
    wide = repack(pack(q, bits), 45, bits, 4)
    assert torch.equal(wide, pack_int4(q))
    assert torch.equal(repack(wide, 45, 4, bits), pack(q, bits))
    assert repack(wide, 45, 4, 4) is wide


def test_rows_are_repacked_in_parts(monkeypatch):
    monkeypatch.setattr("quantvggt.core.packing.cached_rows", lambda _: 24)
    q = numbers(8, 45, 3)
    assert torch.equal(repack(pack_int4(q), 45, 4, 3), pack(q, 3))
    assert repack(pack_int4(q)[:0], 45, 4, 3).shape == (0, 5)


def test_short_last_word_is_filled_with_zeros():
    packed = pack_int4(torch.tensor([[-8, 7, -1]], dtype=torch.int8))
    assert unpack_int4(packed, 8).tolist() == [[-8, 7, -1, 0, 0, 0, 0, 0]]


def test_values_and_widths_that_do_not_fit():
    with pytest.raises(InputError, match="from -3 to 8 in 4 bits; only -8 to 7 fit"):
        pack_int4(torch.tensor([[-3, 8]], dtype=torch.int8))
    with pytest.raises(InputError, match="from -5 to 3 in 3 bits; only -4 to 3 fit"):
        pack(torch.tensor([[-5, 3]], dtype=torch.int8), 3)
    with pytest.raises(InputError, match="from -2 to 2 in 2 bits; only -2 to 1 fit"):
        pack(torch.tensor([[-2, 2]], dtype=torch.int8), 2)
    for bits, half in ((2, 2), (3, 4), (4, 8)):
        for value in set(range(-128, 128)) - set(range(-half, half)):
            with pytest.raises(InputError, match=f"from {min(value, 0)} to {max(value, 0)} in {bits} bits"):
                pack(torch.tensor([[0, value]], dtype=torch.int8), bits)
    with pytest.raises(InputError, match="2 words a row; 17 values need 3"):
        unpack_int4(torch.zeros(1, 2, dtype=torch.int32), 17)
    with pytest.raises(InputError, match="3 words a row; 33 values need 4"):
        unpack(torch.zeros(1, 3, dtype=torch.int32), 33, 3)
    for bits in (1, 5, 8):
        with pytest.raises(InputError, match=f"cannot pack numbers of {bits} bits; 2, 3 or 4"):
            pack(torch.zeros(1, 8, dtype=torch.int8), bits)
        with pytest.raises(InputError, match=f"cannot pack numbers of {bits} bits; 2, 3 or 4"):
            unpack(torch.zeros(1, 8, dtype=torch.int32), 8, bits)
