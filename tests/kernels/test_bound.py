"""A layer's call knows its tensors again, and them only: what changes is seen, and whoever watches sees the op."""

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kernel_paths import CPU
from quantvggt.core.branch import Branch
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.kernels import bound, ops, registry
from quantvggt.kernels.contract import Backend, IntLinear
from quantvggt.nn.fused import LayerScale, linear_steps
from quantvggt.nn.quant_linear import QuantLinear

K, N = 64, 24
OP = torch.ops.quantvggt.quantized_linear.default


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Those of the op, while gradients are off. What isn't bound calls it."""
    found = list[str]()
    op = ops.quantized_linear
    monkeypatch.setattr(bound, "quantized_linear", lambda *args: found.append("op") or op(*args))
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)
    with torch.no_grad():
        yield found


def layer(seed: int = 0, dtype: torch.dtype = torch.float32) -> QuantLinear:
    torch.manual_seed(seed)
    linear = nn.Linear(K, N, dtype=dtype)
    transform = Transform(shift=torch.randn(K), presmooth=torch.rand(K) + 0.5, signs=random_signs(K, seed))
    branch, left = Branch.split(torch.linalg.qr(torch.randn(K, 16))[0], linear.weight.detach().float())
    linear.weight.data = left.to(dtype)
    return QuantLinear.from_float(linear, Scheme(4, 8), transform, branch=branch)


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, K, generator=torch.Generator().manual_seed(seed))


def plainly(quantized: QuantLinear, x: Tensor, *around: object) -> Tensor:
    """By the op."""
    with torch.profiler.profile():
        y: Tensor = linear_steps(quantized, x, *around)
    return y


def needs_native() -> None:
    if registry.select("int_linear", CPU).name == "reference":
        pytest.skip("no native kernels here")


def test_it_goes_past_the_op_with_the_same_bits(calls: list[str]) -> None:
    needs_native()
    quantized, norm, gain = layer(), nn.LayerNorm(K), LayerScale(N)
    for shape in ((5,), (2, 3), (1,), ()):
        x = tokens(*shape)
        around = norm, True, gain, x[..., :N].contiguous()
        got = linear_steps(quantized, x, *around)
        assert not calls
        assert torch.equal(got, plainly(quantized, x, *around))
        assert calls.pop() == "op"


def test_what_is_written_into_tensors_is_seen(calls: list[str]) -> None:
    for dtype in (torch.float32, torch.bfloat16):  # of which a step takes the bias as it is, or copies it
        quantized, norm, x = layer(dtype=dtype), nn.LayerNorm(K, dtype=dtype), tokens(5)
        for change in (quantized.bias, quantized.weight_scale, quantized.input_shift, norm.weight, norm.bias):
            before = linear_steps(quantized, x, norm)
            change.mul_(2).add_(0.5)
            after = linear_steps(quantized, x, norm)
            assert not torch.equal(before, after)
            assert torch.equal(after, plainly(quantized, x, norm))


def test_other_tensors_are_seen(calls: list[str]) -> None:
    quantized, norm, x = layer(), nn.LayerNorm(K), tokens(5)
    linear_steps(quantized, x, norm)
    quantized.load_state_dict(layer(7).state_dict(), assign=True)
    assert torch.equal(linear_steps(quantized, x, norm), plainly(quantized, x, norm))
    norm.weight.data = torch.randn(K)  # the same parameter, elsewhere
    assert torch.equal(linear_steps(quantized, x, norm), plainly(quantized, x, norm))
    quantized.bias = torch.zeros(N - 1)
    with pytest.raises(InputError, match="bias has 23 values; 24 are needed"):
        linear_steps(quantized, x, norm)
    quantized.bias = None
    assert torch.equal(linear_steps(quantized, x, norm), plainly(quantized, x, norm))


def test_a_parameter_elsewhere_is_never_taken_for_what_lay_there(calls: list[str]) -> None:
    quantized, gain, x = layer(), LayerScale(N), tokens(5)
    for turn in range(20):
        linear_steps(quantized, x, gain=gain)
        gain.gamma.data = torch.empty(0)  # lets go of memory, which the next is likely to get
        gain.gamma.data = torch.rand(N // 2).repeat(2).to(torch.bfloat16 if turn % 2 else torch.float32)
        assert torch.equal(linear_steps(quantized, x, gain=gain), plainly(quantized, x, None, False, gain))


def test_what_nobody_counts_is_copied_for_each_call(calls: list[str]) -> None:
    with torch.inference_mode():
        quantized, x = layer(dtype=torch.bfloat16), tokens(5)
        before = quantized(x)
        quantized.bias.add_(1)
        torch.testing.assert_close(quantized(x), before + 1, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_inputs(calls: list[str], dtype: torch.dtype) -> None:
    quantized, x = layer(), tokens(3, 5)
    quantized(x)
    scattered = torch.stack((x, x), -1)[..., 0]
    for other in (x.to(dtype), x, scattered, x.transpose(0, 1), x[:0], x[0, 0], nn.Parameter(x)):
        assert torch.equal(quantized(other), plainly(quantized, other))
    residual = torch.randn(3, 5, 2 * N)[..., ::2]
    for beside in (residual.contiguous(), residual, residual.contiguous().to(dtype)):
        around = None, False, None, beside
        assert torch.equal(linear_steps(quantized, x, *around), plainly(quantized, x, *around))
    for wrong in (tokens(3)[:, :-1], torch.zeros(3, K, dtype=torch.int8), x.to_sparse()):
        with pytest.raises(InputError):
            quantized(wrong)
    with pytest.raises(InputError, match="a residual for an output of"):
        linear_steps(quantized, x, None, False, None, residual[:2])


def test_the_same_backend_runs_as_for_the_op(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Sevens(Backend):
        name = "sevens"

        def available(self, device: torch.device) -> tuple[bool, str]:
            return True, "a toy"

        def run(self, step: IntLinear) -> Tensor:
            return step.empty().fill_(7)

    quantized, x, sevens = layer(), tokens(5), Sevens()
    y = quantized(x)
    registry.register("int_linear", sevens)
    try:
        assert bool((quantized(x) == 7).all())
        monkeypatch.setenv(registry.ENVIRONMENT, "reference")
        assert torch.equal(quantized(x), y)
        registry.force("sevens")
        assert bool((quantized(x) == 7).all())
    finally:
        registry.force(None)
        registry.remove("int_linear", sevens)
    monkeypatch.setenv(registry.ENVIRONMENT, "typo")
    with pytest.raises(InputError, match="QUANTVGGT_KERNELS: no kernels called 'typo'"):
        quantized(x)


def test_copies_and_pickles_start_anew(calls: list[str]) -> None:
    quantized, x = layer(), tokens(5)
    y = quantized(x)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        quantized.bias.zero_()
        assert torch.equal(other(x), y)


def test_what_a_layer_leaves_is_let_go(calls: list[str]) -> None:
    quantized, memory = layer(), np.ones(N, np.float32)
    quantized.bias = torch.from_numpy(memory)
    quantized(tokens(5))
    left = weakref.ref(memory)
    del memory
    assert left() is not None
    quantized.to("meta")
    gc.collect()
    assert left() is None


def test_inputs_are_let_go(calls: list[str]) -> None:
    quantized = layer()
    inputs = np.ones((5, K), np.float32), np.ones((5, N), np.float32)
    left = [weakref.ref(memory) for memory in inputs]
    linear_steps(quantized, torch.from_numpy(inputs[0]), residual=torch.from_numpy(inputs[1]))
    del inputs
    gc.collect()
    assert all(memory() is None for memory in left)


class Ops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = list[object]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_who_watches_sees_the_op(calls: list[str]) -> None:
    quantized, x = layer(), tokens(5)
    y = quantized(x)
    with Ops() as mode:
        assert torch.equal(quantized(x), y)
    assert OP in mode.seen
    assert torch.equal(torch.vmap(quantized)(x[None]), y[None])
    with torch.enable_grad():
        wanted = quantized(x.clone().requires_grad_())
        with pytest.raises(RuntimeError, match="no autograd formula"):
            wanted.sum().backward()
    exported = torch.export.export(nn.Sequential(quantized), (x,))
    assert OP in [node.target for node in exported.graph.nodes]
    assert torch.equal(exported.module()(x), y)
    assert torch.equal(torch.compile(quantized, fullgraph=True, backend="aot_eager")(x), y)


def test_a_profile_tells_the_steps_apart(calls: list[str]) -> None:
    quantized, x = layer(), tokens(5)
    quantized(x)
    with torch.profiler.profile() as profiler:
        quantized(x)
    seen = {row.key: row.count for row in profiler.key_averages() if row.key.startswith("quantvggt::")}
    assert seen == {"quantvggt::quantized_linear": 1, "quantvggt::rotate_quantize": 1, "quantvggt::int_linear": 1}
