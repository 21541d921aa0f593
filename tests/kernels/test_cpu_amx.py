"""What AMX paths have beside what all paths have. Every test of the paths runs on emulated tiles too (conftest.py)."""

import pytest
import torch

from quantvggt.kernels.cpu import build, proof
from quantvggt.kernels.cpu.paths import AttentionPath, LinearPath, RotatePath

CPU = torch.device("cpu")


class Wrong(LinearPath):
    def run(self, step):
        return super().run(step) + 1e-4


class WrongRotation(RotatePath):
    def run(self, step):
        q, scale = super().run(step)
        return q, scale + 1e-4


class WrongAttention(AttentionPath):
    def run(self, step):
        return 1.02 * super().run(step)


def test_products_are_compared_with_the_reference_first(amx_library):
    assert LinearPath("amx", lambda: (amx_library, "")).available(CPU) == (True, "native, AMX-INT8")
    assert RotatePath("amx", lambda: (amx_library, "")).available(CPU) == (True, "native, AMX-INT8")
    assert WrongRotation("amx", lambda: (amx_library, "")).available(CPU) == (False, proof.REASON)
    assert Wrong("amx", lambda: (amx_library, "")).available(CPU) == (False, proof.REASON)
    assert Wrong("avx2").available(CPU)[1] == LinearPath("avx2").available(CPU)[1]


def test_attention_is_compared_too(amx_library):
    if "amxbf16" in amx_library.missing:
        pytest.skip("the rest of the path needs AVX512-BF16")
    assert AttentionPath("amxbf16", lambda: (amx_library, "")).available(CPU) == (True, "native, AMX-BF16")
    assert WrongAttention("amxbf16", lambda: (amx_library, "")).available(CPU) == (False, proof.REASON)


def test_where_it_can_not_run_the_reason_is_given():
    for answer, words in ((0, "this CPU has no AMX-INT8"), (-1, "the system does not let this process use AMX-INT8")):
        native = type("Library", (), {"amx_supported": staticmethod(lambda answer=answer: answer)})
        library = build.Library(native, {})
        assert LinearPath("amx", lambda library=library: (library, "")).available(CPU) == (False, words)
