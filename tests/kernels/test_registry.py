import gc
import weakref

import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.kernels import ops, registry
from quantvggt.kernels.contract import Backend, IntLinear, RotateQuantize, examples
from quantvggt.kernels.registry import Row

CPU = torch.device("cpu")
REFERENCE = "plain PyTorch, runs on every device"


@pytest.fixture(autouse=True)
def _private_registry(monkeypatch):
    only_reference = {op: [b for b in rows if b.name == "reference"] for op, rows in registry._backends.items()}
    monkeypatch.setattr(registry, "_backends", only_reference)
    monkeypatch.setattr(registry, "_forced", None)
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)


class Fast(Backend):
    """Takes float32 inputs and products of 8-bit weights; says so in what it returns."""

    def __init__(self, name="fast", usable=True, reason="has what it needs"):
        self.name, self.usable, self.reason = name, usable, reason

    def available(self, device):
        return self.usable, self.reason

    def accepts(self, step):
        if isinstance(step, RotateQuantize):
            return None if step.x.dtype == torch.float32 else "float32 only"
        return None if step.weight.dtype == torch.int8 else "8-bit weights only"

    def run(self, step):
        result = step.empty()
        if isinstance(step, IntLinear):
            return result.fill_(7)
        return result[0].fill_(-step.bits), result[1].fill_(1)


def _add_fast(op, **options):
    backend = Fast(**options)
    registry.register(op, backend)
    return backend


def _rotate(dtype=torch.float32):
    return ops.rotate_quantize(torch.ones(2, 8, dtype=dtype), None, None, None, 3)[0]


def test_reference_runs_every_op_unless_something_better_is_registered():
    assert registry.report() == [
        Row(op, step, "reference", True, REFERENCE) for op, steps in examples(CPU).items() for step in steps
    ]


def test_the_last_registered_backend_runs_what_it_accepts_until_it_is_removed():
    fast = _add_fast("rotate_quantize")
    assert (_rotate() == -3).all()
    assert (_rotate(torch.bfloat16) == 3).all()
    rows = [row for row in registry.report() if row.op == "rotate_quantize"]
    assert rows == [
        Row("rotate_quantize", "float32", "fast", True, "has what it needs"),
        Row("rotate_quantize", "float32", "reference", False, REFERENCE),
        Row("rotate_quantize", "bfloat16", "fast", False, "float32 only"),
        Row("rotate_quantize", "bfloat16", "reference", True, REFERENCE),
        Row("rotate_quantize", "low-rank branch", "fast", True, "has what it needs"),
        Row("rotate_quantize", "low-rank branch", "reference", False, REFERENCE),
    ]
    registry.force("reference")
    assert (_rotate() == 3).all()
    registry.force(None)
    registry.remove("rotate_quantize", fast)
    assert (_rotate() == 3).all()


def test_unusable_backends_are_passed_over_and_say_why():
    _add_fast("int_linear", usable=False, reason="no compiler found")
    assert registry.select("int_linear", CPU).name == "reference"
    assert Row("int_linear", "8-bit weights, float32", "fast", False, "no compiler found") in registry.report("cpu")


def test_force_and_environment_name_one_backend(monkeypatch):
    fast = _add_fast("int_linear")
    assert registry.select("int_linear", CPU) is fast
    monkeypatch.setenv(registry.ENVIRONMENT, "reference")
    assert registry.select("int_linear", CPU).name == "reference"
    registry.force("fast")
    assert registry.select("int_linear", CPU) is fast
    registry.force(None)
    assert registry.select("int_linear", CPU).name == "reference"


def test_forcing_what_cannot_be():
    with pytest.raises(InputError, match="no kernels called 'cuda'; choose one of reference"):
        registry.force("cuda")
    _add_fast("int_linear", usable=False, reason="no compiler found")
    registry.force("fast")
    with pytest.raises(InputError, match="can't run int_linear on cpu: no compiler found"):
        registry.select("int_linear", CPU)


def test_what_the_forced_backend_does_not_take_runs_on_the_reference():
    _add_fast("rotate_quantize")
    _add_fast("rotate_quantize", name="other")
    _add_fast("int_linear")
    registry.force("other")
    assert registry.select("rotate_quantize", CPU).name == "other"
    assert registry.select("int_linear", CPU).name == "reference"
    rows = registry.report()
    assert (
        Row("int_linear", "8-bit weights, float32", "reference", True, f"{REFERENCE}; for what other does not take")
        in rows
    )
    assert Row("rotate_quantize", "float32", "other", True, "has what it needs") in rows
    assert Row("rotate_quantize", "float32", "fast", False, "has what it needs; not other, which is forced") in rows
    assert Row("rotate_quantize", "bfloat16", "other", False, "float32 only") in rows
    assert Row("rotate_quantize", "bfloat16", "reference", True, f"{REFERENCE}; for what other does not take") in rows


def test_a_wrong_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv(registry.ENVIRONMENT, "typo")
    with pytest.raises(InputError, match="QUANTVGGT_KERNELS: no kernels called 'typo'"):
        ops.rotate_quantize(torch.ones(1, 8), None, None, None, 8)


class Repacking(Backend):
    """A toy that keeps weights transposed and in float64."""

    name = "repacking"

    def __init__(self):
        self.prepared = 0

    def available(self, device):
        return True, "a toy"

    def accepts(self, step):
        return None if step.weight.dtype == torch.int8 else "8-bit weights only"

    def prepare(self, weight):
        self.prepared += 1
        return weight.t().double()

    def run(self, step):
        y = step.q.double() @ step.weight * step.row_scale[:, None] * step.weight_scale
        return y.to(step.out_dtype)


@pytest.fixture
def product():
    g = torch.Generator().manual_seed(0)
    q, weight = (torch.randint(-9, 9, (rows, 40), dtype=torch.int8, generator=g) for rows in (5, 6))

    def call(weight, q=q):
        return ops.int_linear(q, torch.ones(len(q), 1), weight, torch.full((6, 1), 0.5), None, torch.float32)

    return call, weight


def test_a_toy_backend_prepares_each_weight_once(product):
    call, weight = product
    expected = call(weight)
    toy = Repacking()
    registry.register("int_linear", toy)
    for _ in range(3):
        assert torch.equal(call(weight), expected)
    assert toy.prepared == 1
    other = weight.clone()
    assert torch.equal(call(other), expected)
    assert toy.prepared == 2
    weight.neg_()  # written into, so prepared again
    assert torch.equal(call(weight), -expected)
    assert torch.equal(call(weight), -expected)
    assert toy.prepared == 3
    registry.remove("int_linear", toy)
    assert torch.equal(call(weight), -expected)
    assert toy.prepared == 3


def test_prepared_weights_go_with_the_weight(product):
    call, weight = product
    toy = Repacking()
    registry.register("int_linear", toy)
    mine = weight.clone()
    call(mine)
    prepared = weakref.ref(registry._prepared[mine][toy][1])
    del mine
    gc.collect()
    assert prepared() is None


def test_weights_without_a_version_are_prepared_for_each_call(product):
    call, weight = product
    toy = Repacking()
    registry.register("int_linear", toy)
    with torch.inference_mode():
        mine = weight.clone()
        before = call(mine)
        mine.neg_()
        assert torch.equal(call(mine), -before)
