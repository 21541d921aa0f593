import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from quantvggt.core.affine import qmax, quantize_rows
from quantvggt.core.errors import InputError
from quantvggt.core.packing import pack_int4
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import reference, registry
from quantvggt.kernels.ops import int_linear, quantized_linear, rotate_quantize

K = 64


@pytest.fixture(autouse=True)
def _the_reference_runs(monkeypatch):
    monkeypatch.setattr(registry, "_forced", "reference")


def _generator():
    return torch.Generator().manual_seed(0)


def _token_inputs(dtype=torch.float32):
    x = torch.randn(2, 9, K, generator=_generator()).to(dtype)
    smooth = 0.5 + torch.rand(K, generator=_generator())
    return x, random_signs(K, 1), smooth, torch.tensor([0.8, 0.6])


def _linear_inputs(rows=(2, 9), k=K, n=24):
    g = _generator()
    q = torch.randint(-128, 128, (*rows, k), dtype=torch.int8, generator=g)
    weight = torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=g)
    row_scale, weight_scale = torch.rand(*rows, 1, generator=g), torch.rand(n, 1, generator=g)
    return q, row_scale, weight, weight_scale, torch.randn(n, generator=g)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("clipped", [False, True])
def test_rotate_quantize_against_float64(bits, clipped):
    x, signs, smooth, clip = _token_inputs()
    q, scale = rotate_quantize(x, signs, smooth, clip if clipped else None, bits)
    h = hadamard(K) / np.sqrt(K)
    true = (x.double().numpy() * signs.numpy()) @ h / smooth.double().numpy()
    c_max, c_min = clip.double().tolist() if clipped else (1, 1)
    true_scale = np.maximum(true.max(-1) * c_max, -true.min(-1) * c_min)[..., None] / qmax(bits)
    assert q.dtype == torch.int8
    assert scale.dtype == torch.float32
    np.testing.assert_allclose(scale.numpy(), true_scale, rtol=1e-6)
    wanted = np.clip(true / true_scale, -qmax(bits) - 1, qmax(bits))
    assert np.abs(q.numpy() - wanted).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("given", [("shift",), ("presmooth",), ("shift", "presmooth")])
def test_shift_and_presmooth_come_before_the_rotation(given):
    x, signs, smooth, clip = _token_inputs()
    before = {"shift": torch.linspace(-2, 3, K), "presmooth": smooth.flip(0) ** 3}
    before = {name: before[name] for name in given}
    q, scale = rotate_quantize(x, signs, smooth, clip, 8, **before)
    true = (x.double() - before.get("shift", torch.zeros(())).double()) / before.get("presmooth", torch.ones(()))
    true = (true.numpy() * signs.numpy()) @ hadamard(K) / np.sqrt(K) / smooth.double().numpy()
    c_max, c_min = clip.double().tolist()
    true_scale = np.maximum(true.max(-1) * c_max, -true.min(-1) * c_min)[..., None] / qmax(8)
    np.testing.assert_allclose(scale.numpy(), true_scale, rtol=1e-5)
    assert np.abs(q.numpy() - np.clip(true / true_scale, -128, 127)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("frame_tokens", "special_tokens"), [(9, 5), (3, 1), (18, 18), (1, 0), (1, 1)])
def test_first_tokens_of_a_frame_are_quantized_as_if_alone(frame_tokens, special_tokens):
    x, *options = _token_inputs()
    q, scale = rotate_quantize(x, *options, 4, None, None, frame_tokens, special_tokens, 8)
    narrow, wide = rotate_quantize(x, *options, 4), rotate_quantize(x, *options, 8)
    for row in range(18):
        q_want, scale_want = wide if row % frame_tokens < special_tokens else narrow
        index = divmod(row, 9)
        assert torch.equal(q[index], q_want[index])
        assert torch.equal(scale[index], scale_want[index])


def test_tokens_that_are_no_whole_frames_are_refused():
    x, *options = _token_inputs()
    for frame_tokens in (5, 0, -1):
        with pytest.raises(InputError, match=f"18 tokens are no whole frames of {frame_tokens}"):
            rotate_quantize(x, *options, 4, frame_tokens=frame_tokens, special_tokens=1)


def test_every_step_of_rotate_quantize_is_optional():
    x, signs, smooth, clip = _token_inputs()
    plain = rotate_quantize(x, None, None, None, 8)
    for got, expected in zip(plain, quantize_rows(x, 8), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(
        rotate_quantize(x, None, smooth, clip, 8), quantize_rows(x / smooth, 8, clip), strict=True
    ):
        assert torch.equal(got, expected)
    assert not torch.equal(rotate_quantize(x, signs, None, None, 8)[0], plain[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotate_quantize_computes_in_float32(dtype):
    x, *rest = _token_inputs(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = rotate_quantize(x, *rest, 8)
    for a, b in zip(got, rotate_quantize(x.float(), *rest, 8), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("exact_int8", [False, True])
@pytest.mark.parametrize(
    ("rows", "k", "n"), [((2, 9), K, 24), ((1,), 100, 30), ((9,), 1, 5), ((3, 1, 5), 7, 1), ((0,), 8, 8)]
)
def test_int_linear_against_int64(monkeypatch, exact_int8, rows, k, n):
    if exact_int8 and not reference._int8_product_is_exact():
        pytest.skip("this CPU has no exact int8 product")
    monkeypatch.setattr(reference, "_int8_product_is_exact", lambda: exact_int8)
    q, row_scale, weight, weight_scale, bias = _linear_inputs(rows, k, n)
    total = (q.long() @ weight.long().t()).double()
    expected = total * row_scale.double() * weight_scale.double().t() + bias.double()
    y = int_linear(q, row_scale, weight, weight_scale, bias, torch.float32)
    assert y.shape == (*rows, n)
    torch.testing.assert_close(y, expected.float(), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("exact_int8", [False, True])
def test_int_linear_sums_exactly_where_float32_would_not(monkeypatch, exact_int8):
    # 4096 products of (-128)^2 make 2^26; half of them cancel and a single 1 must survive.
    if exact_int8 and not reference._int8_product_is_exact():
        pytest.skip("this CPU has no exact int8 product")
    monkeypatch.setattr(reference, "_int8_product_is_exact", lambda: exact_int8)
    q = torch.full((20, 4096), -128, dtype=torch.int8)
    weight = torch.full((8, 4096), -128, dtype=torch.int8)
    weight[:, 2048:] = 127
    q[:, 2047] = 1
    weight[:, 2047] = 1
    y = int_linear(q, torch.ones(20, 1), weight, torch.ones(8, 1), None, torch.float64)
    assert (y == 2047 * 128 * 128 + 1 - 2048 * 128 * 127).all()


def _basis(k=K, rank=16):
    """Orthonormal directions float64 [k, rank], and as the ops take them."""
    u = torch.linalg.qr(torch.randn(k, rank, dtype=torch.float64, generator=_generator()))[0]
    scale = u.abs().max() / 127
    return u, {"basis": (u / scale).round().to(torch.int8), "basis_scale": scale.float().view(1)}


def test_a_basis_takes_its_directions_out():
    (u, basis), x = _basis(), torch.randn(2, 9, K, generator=_generator())
    x = x + (100 * torch.randn(2, 9, 16, generator=_generator()).double() @ u.T).float()
    q, scale = rotate_quantize(x, None, None, None, 8, **basis)
    assert (q.shape, scale.shape) == ((2, 9, K + 16), (2, 9, 2))
    rounded = basis["basis"].double() * basis["basis_scale"].double()
    # What the integers stand for adds up to x: z's own rounding is not lost.
    part = (q[..., K:].double() * scale[..., 1:].double()) @ rounded.T
    error = (q[..., :K].double() * scale[..., :1].double() + part - x.double()).abs()
    assert (error <= 0.5001 * scale[..., :1] + 1e-4).all()
    # And z is the rows' product with U, but for the rounding of both.
    along = x.double() @ rounded
    z = q[..., K:].double() * scale[..., 1:].double()
    assert (z - along).norm() < 0.01 * along.norm()
    assert (x.double() - part).norm() < 0.1 * x.double().norm()


def test_a_branch_adds_its_own_product():
    q, row_scale, weight, weight_scale, bias = _linear_inputs()
    z, z_scale, branch, branch_scale, _ = _linear_inputs(k=32)
    y = int_linear(
        torch.cat((q, z), -1), torch.cat((row_scale, z_scale), -1), weight, weight_scale, bias, torch.float32,
        branch=branch, branch_scale=branch_scale,
    )  # fmt: skip
    main, more = (
        (a.long() @ w.long().t()).double() * s.double() * t.double().t()
        for a, w, s, t in ((q, weight, row_scale, weight_scale), (z, branch, z_scale, branch_scale))
    )
    torch.testing.assert_close(y, (main + more + bias.double()).float(), rtol=1e-5, atol=1e-2)


def test_a_low_rank_branch_that_does_not_fit_is_refused():
    _, basis = _basis()
    x = torch.ones(2, K)
    for wrong, words in (
        ({"basis": basis["basis"]}, "basis and basis_scale are both given or both None"),
        (
            {**basis, "basis": basis["basis"][:, :15]},
            r"basis for 64 channels is \[64, R\], R one of .*, not \[64, 15\]",
        ),
        ({**basis, "basis": basis["basis"][:32]}, r"not \[32, 16\]"),
        ({**basis, "basis_scale": torch.ones(2)}, "basis_scale has 2 values; 1 are needed"),
    ):
        with pytest.raises(InputError, match=words):
            rotate_quantize(x, None, None, None, 8, **wrong)
    many = {"basis": torch.ones(1 << 17, 16, dtype=torch.int8), "basis_scale": torch.ones(1)}
    with pytest.raises(InputError, match="x with a basis has up to 131071 channels, not 131072"):
        rotate_quantize(torch.ones(1, 1 << 17), None, None, None, 8, **many)
    q, row_scale, weight, weight_scale, bias = _linear_inputs(k=K + 16)
    branch = {"branch": weight[:, :16], "branch_scale": weight_scale}
    both, weight = row_scale.expand(2, 9, 2), weight[:, :K]
    for scales, wrong, words in (
        (both, {"branch": branch["branch"]}, "branch and branch_scale are both given or both None"),
        (both, {**branch, "branch": weight[:, :15]}, r"branch is \[N, R\], R one of .*, not \[24, 15\]"),
        (both, {**branch, "branch": weight[:23, :16]}, "branch has 23 rows; 24 are needed"),
        (row_scale, branch, "row_scale has 18 values; 36 are needed"),
    ):
        with pytest.raises(InputError, match=words):
            int_linear(q, scales, weight, weight_scale, bias, torch.float32, **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int_linear_rounds_to_the_output_dtype_once(dtype):
    q, row_scale, weight, weight_scale, bias = _linear_inputs()
    row_scale /= 1000
    args = q, row_scale, weight, weight_scale, bias
    y = int_linear(*args, dtype)
    assert y.dtype == dtype
    assert torch.equal(y, int_linear(*args, torch.float32).to(dtype))


def test_int_linear_takes_weights_packed_to_4_bits():
    q, row_scale, weight, weight_scale, bias = _linear_inputs(k=K - 3)
    weight.clamp_(-8, 7)
    y = int_linear(q, row_scale, weight, weight_scale, bias, torch.float32)
    assert torch.equal(y, int_linear(q, row_scale, pack_int4(weight), weight_scale, bias, torch.float32))
    with pytest.raises(InputError, match=r"packed int32 \[N, 8\], not torch.int32 \[24, 7\]"):
        int_linear(q, row_scale, pack_int4(weight)[:, :7], weight_scale, bias, torch.float32)


@pytest.mark.parametrize("optional", [False, True])
def test_ops_are_registered_correctly(optional):
    x, *rest = _token_inputs(torch.bfloat16)
    rest = rest if optional else [None] * 3
    torch.library.opcheck(torch.ops.quantvggt.rotate_quantize.default, (x, *rest, 4))
    torch.library.opcheck(torch.ops.quantvggt.rotate_quantize.default, (x, *rest, 4, rest[1], rest[1], 9, 5, 8))
    *tensors, bias = _linear_inputs()
    torch.library.opcheck(
        torch.ops.quantvggt.int_linear.default, (*tensors, bias if optional else None, torch.bfloat16)
    )
    first = (x, *rest, 4, None, None, 1, 0, 8, False, None, None, 0.0, None, None)
    torch.library.opcheck(torch.ops.quantvggt.quantized_linear.default, (*first, *tensors[2:], bias, torch.bfloat16))


def test_ops_compile_to_one_graph():
    x, signs, smooth, clip = _token_inputs()
    _, _, weight, weight_scale, bias = _linear_inputs()

    def layer(x):
        q, row_scale = rotate_quantize(x, signs, smooth, clip, 4, smooth, smooth, 9, 5, 8)
        return int_linear(q, row_scale, weight, weight_scale, bias, torch.float32)

    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))


def test_quantized_linear_is_one_op_after_the_other():
    x, signs, smooth, clip = _token_inputs()
    _, _, weight, weight_scale, bias = _linear_inputs()
    first = (x, signs, smooth, clip, 4, smooth, smooth, 9, 5, 8, True, smooth, clip.new_zeros(K), 1e-3, None, None)
    second = (weight, weight_scale, bias, torch.bfloat16, True, bias, torch.randn(2, 9, 24))
    assert torch.equal(quantized_linear(*first, *second), int_linear(*rotate_quantize(*first), *second))
    with pytest.raises(InputError, match="weight_scale has 23 values; 24 are needed"):
        quantized_linear(*first, weight, weight_scale[:-1], bias, torch.bfloat16)
    with pytest.raises(InputError, match="weight is a tensor, not NoneType"):
        quantized_linear(*first, None, weight_scale, bias, torch.bfloat16)
    with pytest.raises(TypeError, match="weight"):
        quantized_linear(*first)
