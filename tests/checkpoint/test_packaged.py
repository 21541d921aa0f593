"""vggt-nano-heavy, and the overlays that such a model is stored as."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from quantvggt.checkpoint.load import load, outline
from quantvggt.checkpoint.locate import locate, stored_bytes
from quantvggt.checkpoint.packaged import HEAVY, LONG, NANO, OVERLAY_NAME, OverlayFile, open_any
from quantvggt.cli.main import main
from quantvggt.core.errors import InputError
from quantvggt.evaluate.inspection import inspect_sites
from quantvggt.evaluate.metrics.pose import pose_errors
from quantvggt.models import VGGT
from quantvggt.models.pose import decode_pose
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip
from truth_scene import first_camera_frame


@pytest.fixture(scope="module")
def models() -> tuple[VGGT, VGGT]:
    return load(NANO), load(HEAVY)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(HELD_OUT_SEED + 7, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heavy_answers_as_nano_does(models: tuple[VGGT, VGGT], clip: Clip, dtype: torch.dtype) -> None:
    nano, heavy = models[0], load(HEAVY, dtype)
    assert heavy.config == nano.config
    assert heavy.dtype == dtype
    with torch.inference_mode():
        expected, found = nano(clip.images), heavy(clip.images.to(dtype))
    poses = [decode_pose(x["pose_enc"][0].float(), 112, 112)[0].numpy() for x in (found, expected)]
    turn, heading = pose_errors(*poses)
    assert np.median(turn) < 3
    assert np.median(heading) < 5
    depth = ((found["depth"].float() - expected["depth"]).abs() / expected["depth"]).median()
    assert depth < 0.05


def test_the_image_size_is_known_without_reading_weights(
    models: tuple[VGGT, VGGT], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantvggt.checkpoint.load._fill", None)
    assert [outline(name).image_size for name in (NANO, HEAVY)] == [model.image_size for model in models]
    with pytest.raises(InputError, match="no checkpoint at"):
        outline("gone.safetensors")


def test_only_heavys_special_tokens_are_heavy(models: tuple[VGGT, VGGT], clip: Clip) -> None:
    mild, heavy = (
        {
            row.name: row
            for row in inspect_sites(model, [clip], progress=False)
            if row.outliers_patch is not None and ("qkv" in row.name or "fc1" in row.name)
        }
        for model in models
    )
    assert len(heavy) == 24
    for name, row in heavy.items():
        assert row.outliers_special > 3 * mild[name].outliers_special, name
        assert row.outliers_special > 25, name
        assert row.outliers_patch < 8, name


def test_its_massive_channels_are_the_same_in_every_block(models: tuple[VGGT, VGGT], clip: Clip) -> None:
    outputs = models[1].aggregator(clip.images[None], range(6))
    blocks = torch.cat([outputs[layer].detach() for layer in range(6)], -1)[0, :, :5].unflatten(-1, (12, -1))
    largest = blocks.abs().mean((0, 1)).topk(3).indices  # [12, 3]
    assert (largest == largest[0]).all()
    massive = blocks[..., largest[0]]
    assert (massive.sign() == massive[0, 0, 0].sign()).all()


def test_heavy_weighs_what_its_merged_checkpoint_would(
    models: tuple[VGGT, VGGT], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = locate(HEAVY)
    assert path.stat().st_size < 4e6
    models[1].save_pretrained(tmp_path / "merged")
    saved = sum(file.stat().st_size for file in (tmp_path / "merged").iterdir())
    (tmp_path / "merged" / "README.md").write_text("not a part of the checkpoint")
    assert stored_bytes(tmp_path / "merged") == saved
    assert stored_bytes(HEAVY) == pytest.approx(saved, rel=0.001)
    assert stored_bytes(NANO) == sum(
        (locate(NANO).parent / name).stat().st_size for name in ("config.json", "model.safetensors")
    )
    assert main(["evaluate", HEAVY, "--scenes", "1", "--frames", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint_bytes"] == pytest.approx(saved, rel=0.001)


def test_long_reads_many_frames_as_nano_reads_few(clip: Clip) -> None:
    """What training it on to more frames must not cost: the few, and the file is small."""
    nano, long = load(NANO), load(LONG)
    assert long.config == nano.config
    assert locate(LONG).stat().st_size < 4e6
    assert clip.truth is not None
    errors = []
    for model in (nano, long):
        with torch.inference_mode():
            poses = decode_pose(model(clip.images)["pose_enc"][0].float(), 112, 112)[0].numpy()
        errors.append(np.median(pose_errors(poses, first_camera_frame(clip.truth.extrinsics.double().numpy()))[0]))
    assert errors[1] < max(6, 2 * errors[0])


def base_and_changes() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).half()

    base = {"a.weight": normal(6, 4), "conv.weight": normal(5, 2, 3, 3), "a.bias": normal(6), "kept": normal(2, 2)}
    changes = {
        "a.weight.left": normal(6, 2), "a.weight.right": normal(2, 4), "a.bias": normal(6),
        "conv.weight.left": normal(5, 1), "conv.weight.right": normal(1, 18),
    }  # fmt: skip
    return base, changes


def write(folder: Path, base: dict[str, Tensor], changes: dict[str, Tensor]) -> tuple[Path, Path]:
    save_file(base, folder / "base.safetensors")
    save_file(changes, folder / OVERLAY_NAME)
    return folder / OVERLAY_NAME, folder / "base.safetensors"


def test_merging_adds_the_factors_product(tmp_path: Path) -> None:
    base, changes = base_and_changes()
    file = OverlayFile(*write(tmp_path, base, changes))
    merged = dict(file.tensors())
    assert {name: (tuple(x.shape), x.dtype) for name, x in merged.items()} == file.infos
    for name in ("a.weight", "conv.weight"):
        left, right = (changes[f"{name}.{side}"].double().numpy() for side in ("left", "right"))
        expected = base[name].double().numpy() + np.einsum("nr,rk->nk", left, right).reshape(base[name].shape)
        np.testing.assert_array_equal(merged[name].numpy(), expected.astype(np.float16))
    assert torch.equal(merged["a.bias"], changes["a.bias"])
    assert torch.equal(merged["kept"], base["kept"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("a.weight.right"), "two factors"),
        (lambda c: c.update({"a.weight": torch.zeros(6, 4).half()}), "two factors"),
        (lambda c: c.update({"a.weight.left": torch.zeros(6, 3).half()}), "don't multiply"),
        (lambda c: c.update({"a.weight.left": torch.zeros(6).half()}), "don't multiply"),
        (lambda c: c.update({"a.bias": torch.zeros(7).half()}), "has shape"),
        (lambda c: c.update({"other": torch.zeros(7).half()}), "changes no tensor"),
        (lambda c: c.update({"a.bias": torch.zeros(6, dtype=torch.int8)}), "expected floating point"),
    ],
)  # fmt: skip
def test_an_overlay_that_does_not_fit_is_refused_unread(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    base, changes = base_and_changes()
    damage(changes)
    with pytest.raises(InputError, match=f"{OVERLAY_NAME}.*{message}.*install quantvggt again"):
        OverlayFile(*write(tmp_path, base, changes))


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    base, changes = base_and_changes()
    changes["a.weight.left"][1, 1] = torch.nan
    file = OverlayFile(*write(tmp_path, base, changes))
    with pytest.raises(InputError, match=r"a\.weight is not finite"):
        dict(file.tensors())


def test_a_truncated_overlay_is_refused(tmp_path: Path) -> None:
    path = tmp_path / OVERLAY_NAME
    path.write_bytes(locate(HEAVY).read_bytes()[:-1000])
    with pytest.raises(InputError, match="no whole safetensors file"):
        open_any(path)
