import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.kernels import ops, registry
from quantvggt.kernels.registry import Backend, Row

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _private_registry(monkeypatch):
    only_reference = {op: [b for b in rows if b.name == "reference"] for op, rows in registry._backends.items()}
    monkeypatch.setattr(registry, "_backends", only_reference)
    monkeypatch.setattr(registry, "_forced", None)
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)


def _add_fast(op, usable=True, reason="has what it needs"):
    backend = Backend("fast", lambda *args: ("fast", args), lambda device: (usable, reason))
    registry.register(op, backend)
    return backend


def test_reference_runs_every_op_unless_something_better_is_registered():
    assert registry.report() == [
        Row(op, "reference", True, "plain PyTorch, runs on every device")
        for op in ("rotate_quantize", "int_linear", "attention")
    ]


def test_the_last_registered_usable_backend_wins_and_ops_run_it():
    def negative(x, signs, smooth, clip, bits, *rest):
        return torch.full_like(x, -bits, dtype=torch.int8), torch.ones(*x.shape[:-1], 1)

    registry.register("rotate_quantize", Backend("fast", negative, lambda device: (True, "always")))
    q, _ = ops.rotate_quantize(torch.randn(2, 8), None, None, None, 3)
    assert (q == -3).all()
    registry.force("reference")
    q, _ = ops.rotate_quantize(torch.ones(2, 8), None, None, None, 3)
    assert (q == 3).all()


def test_unusable_backends_are_passed_over_and_say_why():
    _add_fast("int_linear", usable=False, reason="no compiler found")
    assert registry.select("int_linear", CPU).name == "reference"
    assert Row("int_linear", "fast", False, "no compiler found") in registry.report("cpu")


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


def test_an_op_that_lacks_the_forced_backend_runs_its_reference():
    _add_fast("rotate_quantize")
    registry.register("rotate_quantize", Backend("other", print, lambda device: (True, "always")))
    _add_fast("int_linear")
    registry.force("other")
    assert registry.select("rotate_quantize", CPU).name == "other"
    assert registry.select("int_linear", CPU).name == "reference"


def test_a_wrong_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv(registry.ENVIRONMENT, "typo")
    with pytest.raises(InputError, match="QUANTVGGT_KERNELS: no kernels called 'typo'"):
        ops.rotate_quantize(torch.ones(1, 8), None, None, None, 8)
