"""`float8_linear`: its definition against float64, and PyTorch's product, which machines that test this may lack."""

import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8, quantize_float8
from quantvggt.kernels import ops, reference, registry, scaled_mm
from quantvggt.kernels.contract import Float8Linear
from quantvggt.kernels.scaled_mm import ScaledMM

CPU = torch.device("cpu")


def _operands(rows=(2, 9), k=64, n=48):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(*rows, k, generator=generator), torch.randn(n, k, generator=generator)
    q, row_scale = quantize_float8(x * torch.logspace(-3, 3, rows[-1])[:, None])
    weight, weight_scale = quantize_float8(weight * torch.logspace(-1, 1, n)[:, None])
    return q, row_scale, weight, weight_scale, torch.randn(n, generator=generator)


def _exact(q, row_scale, weight, weight_scale, bias):
    y = (q.double() * row_scale.double()) @ (weight.double() * weight_scale.double()).t()
    return y if bias is None else y + bias.double()


def _off(y, exact):
    return ((y.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-3), (torch.float64, 1e-6)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_reference_against_float64(monkeypatch, dtype, most, biased):
    monkeypatch.setattr(registry, "_forced", "reference")
    *operands, bias = _operands()
    bias = bias if biased else None
    y = ops.float8_linear(*operands, bias, dtype)
    assert (y.dtype, y.shape) == (dtype, (2, 9, 48))
    assert _off(y, _exact(*operands, bias)) < most
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.float8_linear(*operands, bias, dtype), y)  # its sums stay float32


@pytest.mark.parametrize(("rows", "k", "n"), [((1,), 1, 1), ((7,), 33, 5), ((0, 3), 16, 16), ((3,), 16, 0)])
def test_odd_shapes_and_empty_ones(rows, k, n):
    *operands, bias = _operands(rows, k, n)
    y = ops.float8_linear(*operands, bias, torch.float32)
    assert y.shape == (*rows, n)
    torch.testing.assert_close(y.double(), _exact(*operands, bias), rtol=1e-5, atol=1e-5)


def test_a_single_row_without_other_dimensions_and_operands_that_lie_otherwise():
    q, row_scale, weight, weight_scale, bias = _operands((4,))
    y = ops.float8_linear(q, row_scale, weight, weight_scale, bias, torch.float32)
    alone = ops.float8_linear(q[2], row_scale[2], weight, weight_scale, bias, torch.float32)
    torch.testing.assert_close(alone, y[2], rtol=1e-5, atol=1e-5)
    turned = weight.view(torch.uint8).t().contiguous().t().view(FLOAT8)
    assert not turned.is_contiguous()
    assert torch.equal(ops.float8_linear(q, row_scale, turned, weight_scale, bias, torch.float32), y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 9, 64, dtype=torch.int8)}, "q is float8_e4m3fn, not int8"),
        ({0: torch.zeros(2, 9, 0).to(FLOAT8)}, "at least one channel"),
        ({1: torch.ones(2, 8, 1)}, "row_scale has 16 values; 18 are needed"),
        ({2: torch.zeros(48, 64, dtype=torch.float8_e5m2)}, "weight is float8_e4m3fn, not float8_e5m2"),
        ({2: torch.zeros(48, 63).to(FLOAT8)}, r"a weight for 64 channels is \[N, 64\], not \[48, 63\]"),
        ({3: torch.ones(47, 1)}, "weight_scale has 47 values; 48 are needed"),
        ({3: None}, "weight_scale is a tensor, not NoneType"),
        ({4: torch.ones(47)}, "bias has 47 values; 48 are needed"),
        ({5: torch.int8}, "out_dtype is a float type of 16 to 64 bits, not torch.int8"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(change, message):
    operands = [*_operands(), torch.float32]
    for place, value in change.items():
        operands[place] = value
    with pytest.raises(InputError, match=message):
        ops.float8_linear(*operands)


def test_it_runs_in_a_compiled_graph():
    operands = _operands()
    compiled = torch.compile(
        lambda *given: ops.float8_linear(*given, torch.float32) + 1, backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(*operands), ops.float8_linear(*operands, torch.float32) + 1)


def _demanding_product(a, b, *, scale_a, scale_b, bias, out_dtype, use_fast_accum):
    """What torch._scaled_mm says of its operands on a GPU, and what it computes."""
    (m, k), n = a.shape, b.shape[1]
    assert a.dtype is b.dtype is FLOAT8
    assert (k % 16, n % 16) == (0, 0)
    assert a.stride() == (k, 1)  # row by row
    assert b.stride() == (1, k)  # column by column
    assert (scale_a.shape, scale_b.shape) == ((m, 1), (1, n))
    assert scale_a.dtype is scale_b.dtype is torch.float32
    assert scale_a.is_contiguous()
    assert scale_b.is_contiguous()
    assert out_dtype is torch.bfloat16
    assert bias is None or (bias.dtype, bias.shape) == (torch.bfloat16, (n,))
    assert not use_fast_accum
    y = (a.double() @ b.double()) * scale_a * scale_b
    return (y if bias is None else y + bias.double()).to(out_dtype)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if this CPU were one that has such a product."""
    monkeypatch.setattr(torch, "_scaled_mm", _demanding_product)
    monkeypatch.setattr(ScaledMM, "available", lambda self, device: (True, "compute capability 10.0"))
    monkeypatch.setattr(registry, "_forced", None)
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)


@pytest.mark.parametrize("rows", [(2, 9), (1,), (5, 1, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_pytorchs_product_gets_operands_as_it_wants_them(on_a_gpu, rows, biased):
    *operands, bias = _operands(rows)
    bias = bias if biased else None
    step = Float8Linear(*operands, bias, torch.bfloat16)
    assert registry.choose(step).name == "scaled_mm"
    y = ops.float8_linear(*operands, bias, torch.bfloat16)
    assert y.shape == (*rows, 48)
    assert _off(y, _exact(*operands, bias)) < 4e-3


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        (((2, 9), 64, 48), torch.float32, "its output is bfloat16 only, not float32"),
        (((2, 9), 60, 48), torch.bfloat16, "multiples of 16 channels and outputs only, not 60 and 48"),
        (((2, 9), 64, 40), torch.bfloat16, "multiples of 16 channels and outputs only, not 64 and 40"),
        (((0,), 64, 48), torch.bfloat16, "there are no rows or no outputs"),
    ],
)
def test_what_pytorchs_product_does_not_take_the_reference_runs(on_a_gpu, shape, dtype, reason):
    step = Float8Linear(*_operands(*shape), dtype)
    assert ScaledMM().accepts(step) == reason
    assert registry.choose(step).name == "reference"
    assert torch.equal(registry.run(step), reference.float8_linear(step))


def test_it_is_chosen_only_if_it_gives_the_references_results(monkeypatch):
    monkeypatch.setattr(torch, "_scaled_mm", _demanding_product)
    assert scaled_mm.agrees(ScaledMM(), CPU)

    def with_a_scale_of_another_row(a, b, *, scale_a, **rest):
        return _demanding_product(a, b, scale_a=scale_a.roll(1, 0).contiguous(), **rest)

    def without_the_columns_scales(a, b, *, scale_b, **rest):
        return _demanding_product(a, b, scale_b=scale_b.mean().expand(1, b.shape[1]).contiguous(), **rest)

    def without_the_bias(a, b, *, bias, **rest):
        return _demanding_product(a, b, bias=None, **rest)

    for wrong in (with_a_scale_of_another_row, without_the_columns_scales, without_the_bias):
        monkeypatch.setattr(torch, "_scaled_mm", wrong)
        assert not scaled_mm.agrees(ScaledMM(), CPU), wrong.__name__


def test_why_it_does_not_run():
    assert ScaledMM().available(CPU) == (
        False,
        "w8a8-fp8 is for NVIDIA GPUs with fp8 (Ada, Hopper, Blackwell), elsewhere slower than float",
    )


@pytest.mark.parametrize(
    ("capability", "fails", "usable", "reason"),
    [
        ((8, 6), None, False, "compute capability 8.6: needs 8.9"),
        (
            (12, 0),
            RuntimeError("no such product\nmore"),
            False,
            "PyTorch's product fails here (RuntimeError: no such product",
        ),
        ((9, 0), None, True, "compute capability 9.0"),
    ],
)
def test_what_a_gpu_has_to_be(monkeypatch, capability, fails, usable, reason):
    def agrees(backend, device):
        if fails is not None:
            raise fails
        return True

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.no_grad())
    monkeypatch.setattr(scaled_mm, "agrees", agrees)
    scaled_mm._usable.cache_clear()
    try:
        assert ScaledMM().available(torch.device("cuda")) == (usable, reason)
    finally:
        scaled_mm._usable.cache_clear()
