"""Mixed precision: close to float32 where bfloat16 isn't, small, and where nothing else was asked only if quick."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import quantvggt as qv
from quantvggt.core.errors import InputError
from quantvggt.kernels import registry
from quantvggt.models import VGGT, mixed
from quantvggt.models.dpt import DPTHead
from quantvggt.nn.quant_linear import QuantLinear
from tiny import require_attention, tiny_clip, tiny_model


def answers(model: VGGT, images: Tensor, points: Tensor | None = None) -> dict[str, Tensor]:
    with torch.inference_mode():
        result: dict[str, Tensor] = model(images, points)
    return result


def test_cameras_and_depth_stay_closer_to_float32_than_in_bfloat16() -> None:
    images = torch.rand(1, 4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    exact = answers(qv.load("vggt-nano"), images)
    kinds = {"mixed": qv.load("vggt-nano", dtype="mixed"), "narrow": qv.load("vggt-nano", dtype=torch.bfloat16)}
    loss = {
        kind: {key: ((x - exact[key]).norm() / exact[key].norm()).item() for key, x in answers(model, images).items()}
        for kind, model in kinds.items()
    }
    assert 0 < loss["mixed"]["pose_enc"] < loss["narrow"]["pose_enc"] / 2
    assert 0 < loss["mixed"]["depth"] < loss["narrow"]["depth"]
    assert {x.dtype for x in answers(kinds["mixed"], images).values()} == {torch.float32}


@pytest.mark.parametrize("rest", [None, "w8a8"])
def test_what_is_held_in_16_bits(tmp_path: Path, rest: str | None) -> None:
    require_attention(torch.bfloat16)
    qv.save(qv.quantize(tiny_model(), "w4a4", "rtn", rest=rest, progress=False), tmp_path / "small")
    exact, mixed = qv.load(tmp_path / "small"), qv.load(tmp_path / "small", dtype="mixed")
    seen: list[torch.dtype] = []
    mixed.aggregator.global_blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    images = tiny_clip("a", 3).images
    for key, value in answers(exact, images).items():
        assert (answers(mixed, images)[key] - value).norm() < 0.1 * value.norm(), key
    assert set(seen) == {torch.float32}
    for module in mixed.camera_head.modules():
        assert {x.dtype for x in module.parameters(recurse=False)} <= {torch.float32}
    for head in (module for module in mixed.modules() if isinstance(module, DPTHead)):
        assert {x.dtype for x in head.parameters()} == {torch.bfloat16}
    for module in mixed.aggregator.modules():
        expected = torch.bfloat16 if isinstance(module, nn.Linear | nn.Conv2d) else torch.float32
        assert {x.dtype for x in module.parameters(recurse=False)} <= {expected}
        if isinstance(module, QuantLinear):
            assert torch.equal(module.weight_scale, exact.get_submodule(_name(mixed, module)).weight_scale)


def _name(model: VGGT, module: nn.Module) -> str:
    return next(name for name, each in model.named_modules() if each is module)


def test_auto_is_mixed_where_that_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = mixed.is_quick(torch.device("cpu"))
    assert (qv.load("vggt-nano", dtype="auto").products is not None) == quick
    with monkeypatch.context() as without_onednn:
        without_onednn.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert qv.load("vggt-nano", dtype="auto").products is None
    monkeypatch.setattr(registry, "_forced", "reference")
    slow = qv.load("vggt-nano", dtype="auto")
    assert slow.products is None
    assert {x.dtype for x in slow.parameters()} == {torch.float32}
    assert qv.load("vggt-nano", dtype="mixed").products == torch.bfloat16


def test_it_is_for_inference(tmp_path: Path) -> None:
    model = qv.load("vggt-nano", dtype="mixed")
    with pytest.raises(InputError, match='load it without dtype="mixed"'):
        qv.quantize(model, "w8a8", "rtn", progress=False)
    with pytest.raises(InputError, match="mixed types"):
        qv.save(model, tmp_path / "copy")
    with pytest.raises(InputError, match="auto, mixed, or one of"):
        qv.load("vggt-nano", dtype="half")  # type: ignore[arg-type]
