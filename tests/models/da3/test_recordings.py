"""Our Depth-Anything-3 against outputs recorded from the published implementation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from da3_recorded import Recording, read, recordings, seeded_model
from quantvggt.models.da3 import DA3
from quantvggt.models.da3.cameras import decode
from quantvggt.models.da3.heads import MonocularHead
from quantvggt.models.da3.reference import choose

TOLERANCE = 1e-4
NOT_COMPARED = ("input_", "reference_")  # what went in, and choices, which have tests of their own
TIE = 1e-6


def is_in_order(recording: Recording, name: str) -> bool:
    """Is this what a network says of the views as they came in, or has it the reference view in front?"""
    kind, _, number = name.rpartition("_")
    if "reference_view" not in recording.arrays or kind not in ("block", "aux"):
        return True
    index = int(number) if kind == "block" else recording.arguments["export_feat_layers"][int(number)]
    return index < recording.config.start - 1


def with_reference_first(recording: Recording, values: Tensor) -> Tensor:
    views, order = recording.images.shape[1], []
    for chosen in recording.arrays["reference_view"].tolist():
        order.append([chosen, *(view for view in range(views) if view != chosen)])
    clips = values.reshape(len(order), views, -1)
    return torch.stack([clip[each] for clip, each in zip(clips, order, strict=True)]).view(values.shape)


def said(model: DA3, images: Tensor, cameras: Tensor | None, arguments: dict[str, object]) -> dict[str, Tensor]:
    """Everything by the recordings' names."""
    backbone, found = model.backbone.pretrained, {}

    def keep(name: str) -> object:
        return lambda _, __, output: found.update({name: output})

    handles = [block.register_forward_hook(keep(f"block_{index}")) for index, block in enumerate(backbone.blocks)]
    backbone.strategy = str(arguments.get("ref_view_strategy", backbone.strategy))
    features = model.encode(images, cameras)
    for handle in handles:
        handle.remove()
    answers = model.read(features, images)
    tokens = model.read_out(features)
    found["embedded_tokens"] = backbone.embed(images)
    for number, layer in enumerate(model.config.layers):
        found[f"features_{number}"], found[f"camera_token_{number}"] = tokens[layer], features[layer][:, :, 0]
    for number, layer in enumerate(arguments.get("export_feat_layers", ())):  # type: ignore[arg-type,var-annotated]
        found[f"aux_{number}"] = backbone.norm(found[f"block_{layer}"].reshape(found["embedded_tokens"].shape))[
            :, :, 1:
        ]
    found["depth"] = answers.depth
    if isinstance(model.head, MonocularHead):
        flat = {layer: x.flatten(0, 1) for layer, x in tokens.items()}
        pictures = images.shape[:2]
        depth, sky = model.head.depth_and_sky(flat, *images.shape[-2:])
        return found | {"head_depth": depth.unflatten(0, pictures), "sky": sky.unflatten(0, pictures)}
    decoder = model.cam_dec
    last = model.last_output(features)[:, :, 0]
    found |= {"fov_before_relu": decoder.fc_fov[0](decoder.backbone(last)), "pose_enc": decoder(last)}
    found["extrinsics"], found["intrinsics"] = decode(found["pose_enc"], *images.shape[-2:])
    found["depth_conf"] = answers.depth_conf
    found["ray"], found["ray_conf"] = model.rays(features, images)
    if cameras is not None:
        found["camera_condition_tokens"] = cameras
    if model.config.gaussians:
        found["raw_gs"], found["raw_gs_conf"] = model.gaussians(features, images)
    return found


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_everything_equals_the_published_implementation(path: Path) -> None:
    recording = read(path)
    model, images, arrays = seeded_model(recording.config), recording.images, recording.arrays
    with torch.inference_mode():
        cameras = None
        if "input_extrinsics" in arrays:
            extrinsics, intrinsics = arrays["input_extrinsics"][:, :, :3], arrays["input_intrinsics"]
            cameras = model.cam_enc(extrinsics, intrinsics, *images.shape[-2:])
        posed_alone = "camera_condition_tokens" in arrays
        found = said(model, images, cameras if posed_alone else None, recording.arguments)
        if cameras is not None and not posed_alone:
            found |= {f"posed_{name}": x for name, x in said(model, images, cameras, recording.arguments).items()}
    compared = [name for name in arrays if not name.startswith(NOT_COMPARED)]
    assert set(compared) <= set(found)
    for name in compared:
        ours, theirs = found[name].float(), arrays[name]
        assert list(ours.shape) == recording.shapes[name], name
        ours = ours if is_in_order(recording, name) else with_reference_first(recording, ours)
        if ours.shape != theirs.shape:
            ours = ours.flatten()[:: max(1, ours.numel() // 100_000)]
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        assert error < TOLERANCE, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_the_reference_view_is_the_published_one(path: Path) -> None:
    recording = read(path)
    if "reference_input_cls" not in recording.arrays:
        assert not any(name.startswith("reference_view") for name in recording.arrays)
        return
    tokens = recording.arrays["reference_input_cls"]
    named = {
        name.removeprefix("reference_view_"): x for name, x in recording.arrays.items() if "reference_view_" in name
    }
    named[recording.arguments.get("ref_view_strategy", "saddle_balanced")] = recording.arrays["reference_view"]
    unit = tokens.double() / tokens.double().norm(dim=-1, keepdim=True)
    alike = unit @ unit.transpose(1, 2) - torch.eye(tokens.shape[1], dtype=torch.float64)
    ranges = alike.amax(-1) - alike.amin(-1)
    for strategy, theirs in named.items():
        ours = choose(tokens, strategy)
        if strategy != "saddle_sim_range":
            assert torch.equal(ours, theirs), strategy
            continue
        # The two views that are most alike have one range, and rounding says which of them is larger.
        for chosen in (ours, theirs):
            assert (ranges.gather(1, chosen[:, None])[:, 0] > ranges.amax(1) - TIE).all()
