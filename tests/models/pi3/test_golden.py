"""Our Pi3 and Pi3X against outputs recorded from the published implementation."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import seeded
from pi3_models import config_of, seeded_pi3
from quantvggt.models import FAMILIES, VGGTConfig, build
from quantvggt.models.family import recognise
from quantvggt.models.given import Given
from quantvggt.models.pi3.camera import lens, nearest_rotation
from quantvggt.models.pi3.conditions import NOTHING, Conditions
from quantvggt.models.pi3.config import Pi3Config, Pi3XConfig
from quantvggt.models.pi3.model import Pi3, Pi3X

GOLDEN = Path(__file__).parents[2] / "golden/families/pi3"
# Other recordings of the same form can be tried: a folder, of which every pi3*.safetensors is run.
RECORDINGS = sorted(
    file
    for file in Path(os.environ.get("QUANTVGGT_FAMILY_RECORDINGS", GOLDEN)).rglob("pi3*.safetensors")
    if "rotations" not in file.name
)
TOLERANCE = 1e-4
NOISE = ("float32_minus_float64_max_abs", "float32_rerun_without_onednn_max_abs")
INPUTS = {"in_depths", "in_intrinsics", "in_poses"}
# A lens with a free centre: cameras here have it in the middle.
NOT_OURS = {"intrinsics_free"}


def keep(outputs: dict[str, list[Tensor]], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda _, __, output: outputs.setdefault(name, []).append(output)


def watch(model: Pi3) -> dict[str, list[Tensor]]:
    """What is seen on the way, by the names in the files."""
    outputs: dict[str, list[Tensor]] = {}
    modules: dict[str, nn.Module] = {
        "encoder_patch_embed": model.encoder.patch_embed,
        "encoder_block_0": model.encoder.blocks[0],
        "encoder_tokens": model.encoder,
        "decoder_block_0": model.decoder[0],
        "decoder_block_1": model.decoder[1],
        "decoder_block_second_last": model.decoder[-2],
        "decoder_block_last": model.decoder[-1],
        "point_hidden": model.point_decoder,
        "conf_hidden": model.conf_decoder,
        "camera_hidden": model.camera_decoder,
    }
    if isinstance(model, Pi3X):
        modules |= {"depth_tokens": model.depth_encoder, "ray_tokens": model.ray_embed}
        modules |= {"metric_hidden": model.metric_decoder}
        modules |= {f"pose_inject_{index}": block for index, block in enumerate(model.pose_inject_blk)}
    for name, module in modules.items():
        module.register_forward_hook(keep(outputs, f"mid_{name}"))
    head = model.camera_head
    head.fc_rot.register_forward_hook(keep(outputs, "mid_camera_rot9"))
    head.fc_t.register_forward_hook(keep(outputs, "mid_camera_trans"))
    return outputs


def conditions(recorded: dict[str, Tensor], clip: int, size: tuple[int, int]) -> Conditions:
    poses, lenses, depths = (
        recorded[name][clip] if name in recorded else None for name in ("in_poses", "in_intrinsics", "in_depths")
    )
    extrinsics = None if poses is None else torch.linalg.inv(poses.double())[:, :3].float()
    return Conditions.of(Given(extrinsics, lenses, depths), size)


@torch.inference_mode()
def all_outputs(model: Pi3, images: Tensor, recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clip by clip, because each is told its own."""
    seen, size = watch(model), (images.shape[-2], images.shape[-1])
    answers = []
    for index, clip in enumerate(images):
        told = conditions(recorded, index, size) if INPUTS & recorded.keys() else NOTHING
        answers.append(model(clip, told))
    seen |= {name: [answer[name] for answer in answers] for name in answers[0]}
    result = {name: torch.cat(values) for name, values in seen.items()}
    points = result["local_points"]
    result["intrinsics_centered"] = lens(points[..., :2] / points[..., 2:].abs())
    result["intrinsics_centered"][..., :2, 2] -= 0.5  # recorded with pixels' centres at whole numbers
    return result


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_models_equal_the_published_implementation(file: Path) -> None:
    with safe_open(file, "pt") as golden:
        metadata = golden.metadata()
        recorded = {name: golden.get_tensor(name) for name in golden.keys()}  # noqa: SIM118 - not a dict
    images = torch.from_numpy(seeded.images(*json.loads(metadata["images"])))
    model = seeded_pi3(config_of(metadata["config"]))
    outputs = all_outputs(model, images, recorded)
    shapes = json.loads(metadata["full_shapes"])
    noise = json.loads(next((metadata[name] for name in NOISE if name in metadata), "{}"))
    unknown = recorded.keys() - outputs.keys() - INPUTS - NOT_OURS
    assert not unknown, f"recorded, but not compared: {sorted(unknown)}"
    for name in recorded.keys() & outputs.keys():
        ours, theirs = outputs[name].float(), recorded[name]
        assert ours.numel() == np.prod(shapes[name]), name
        if theirs.numel() < ours.numel():
            ours = ours.flatten()[:: max(1, ours.numel() // 100_000)]
        largest = theirs.abs().max().item()
        error = (ours.reshape(theirs.shape) - theirs).abs().max().item() / largest
        # Where a recorded array itself is noisier than that, ten times its measured noise.
        assert error < max(TOLERANCE, 10 * noise.get(name, 0) / largest), f"{name}: relative error {error:.2e}"


def test_recordings_are_found() -> None:
    """An empty folder must not pass for a good one."""
    assert RECORDINGS


def test_rotations_equal_the_published_ones() -> None:
    with safe_open(GOLDEN / "pi3_rotations.safetensors", "pt") as golden:
        nine, expected = golden.get_tensor("rot9"), golden.get_tensor("rotation")
    rotation = nearest_rotation(nine)
    # Of a reflection the answer hangs on the two smaller singular values being apart: by that much rounding grows.
    rows = torch.nn.functional.normalize(nine.view(-1, 3, 3), dim=-1).double()
    values = torch.linalg.svdvals(rows)
    gap = values[:, 1] + torch.linalg.det(rows).sign() * values[:, 2]
    assert (gap > 0).all()
    error = (rotation - expected).abs().flatten(1).amax(1)
    assert (error < 1e-5 / gap.clamp(max=1)).all()
    assert (error < 1e-4).sum() > 60
    assert (torch.linalg.det(rotation) > 0.999).all()


@pytest.mark.parametrize("name", ["pi3", "pi3x"])
def test_keys_and_shapes_equal_the_published_checkpoint(name: str) -> None:
    published = json.loads((GOLDEN / f"{name}_keys.json").read_text())
    shapes = {key: tuple(shape) for key, shape in (published["parameters"] | published["buffers"]).items()}
    config = recognise(shapes)
    assert config == {"pi3": Pi3Config(), "pi3x": Pi3XConfig()}[name]
    assert config is not None
    with torch.device("meta"):
        model = build(config)
    assert isinstance(model, FAMILIES[name].model)
    assert {key: list(value.shape) for key, value in model.named_parameters()} == published["parameters"]
    assert {key: list(value.shape) for key, value in model.named_buffers()} == published["buffers"]
    assert set(model.state_dict()) == shapes.keys()
    assert sum(int(np.prod(shape)) for shape in published["parameters"].values()) == published["parameter_count"]


def test_a_pi3x_without_its_conditions_is_recognised() -> None:
    published = json.loads((GOLDEN / "pi3x_keys.json").read_text())["parameters"]
    dropped = ("depth_encoder.", "depth_emb", "ray_embed.", "pose_inject_blk.")
    kept = {key: tuple(shape) for key, shape in published.items() if not key.startswith(dropped)}
    config = recognise(kept)
    assert config == Pi3XConfig(conditions=False)
    assert config is not None
    with torch.device("meta"):
        model = build(config)
    assert {key: tuple(value.shape) for key, value in model.named_parameters()} == kept
    with torch.device("meta"):
        other = build(VGGTConfig.vggt_1b())
    assert isinstance(recognise({key: tuple(value.shape) for key, value in other.state_dict().items()}), VGGTConfig)


@pytest.mark.parametrize("config", [Pi3Config(), Pi3XConfig()])
def test_epsilons(config: Pi3Config) -> None:
    """Recorded outputs hardly show them."""
    with torch.device("meta"):
        model = build(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == (1e-5 if name.endswith(("q_norm", "k_norm")) else 1e-6), name
        elif isinstance(module, nn.GroupNorm):
            assert module.eps == 1e-5, name
