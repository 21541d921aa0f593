"""Small Pi3 and Pi3X models with seeded weights."""

import json
from typing import Any

import torch
from torch import Tensor

import seeded
from quantvggt.models.dino import IMAGENET_MEAN, IMAGENET_STD
from quantvggt.models.pi3.config import Pi3Config, Pi3XConfig
from quantvggt.models.pi3.model import Pi3, Pi3X
from quantvggt.scenes.clip import Clip

SIZES: dict[str, Any] = {
    "img_size": 56,
    "embed_dim": 64,
    "encoder_depth": 2,
    "encoder_num_heads": 4,
    "depth": 4,
    "num_heads": 4,
    "head_dim": 64,
    "head_depth": 1,
    "head_num_heads": 4,
    "point_out": 48,
    "camera_out": 32,
}
CONFIG = Pi3Config(**SIZES)
CONFIG_X = Pi3XConfig(**SIZES, head_channels=(32, 16, 16), metric_dim=32, metric_num_heads=2, pose_after=(0, 1))
WIDTH_OVER_FOCAL = 1.0


def config_of(recorded: str) -> Pi3Config:
    """What the metadata of a recorded file says."""
    sizes = json.loads(recorded)
    encoder, decoder, heads = sizes["encoder"], sizes["decoder"], sizes["head_decoders"]
    assert encoder["embed_dim"] == decoder["embed_dim"]
    shared = {
        "img_size": encoder["img_size"],
        "embed_dim": encoder["embed_dim"],
        "encoder_depth": encoder["depth"],
        "encoder_num_heads": encoder["num_heads"],
        "depth": decoder["depth"],
        "num_heads": decoder["num_heads"],
        "head_dim": heads["embed_dim"],
        "head_depth": heads["depth"],
        "head_num_heads": heads["num_heads"],
        "point_out": heads["point_out"],
        "camera_out": heads["camera_out"],
    }
    if sizes["model"] == "Pi3":
        return Pi3Config(**shared)
    assert sizes["model"] == "Pi3X"
    assert len(sizes["pose_inject_after"]) == sizes["num_pose_inject"]
    return Pi3XConfig(
        **shared,
        head_channels=sizes["dim_upsample"],
        metric_dim=heads["metric_dim"],
        metric_num_heads=heads["metric_heads"],
        pose_after=sizes["pose_inject_after"],
    )


def seeded_pi3(config: Pi3Config) -> Pi3:
    """Every parameter by its name, in eval mode."""
    with torch.device("meta"):
        model = Pi3X(config) if isinstance(config, Pi3XConfig) else Pi3(config)
    # Cloned into memory that PyTorch aligned, so that two such models sum in the same order.
    state = {
        name: torch.from_numpy(seeded.parameter(name, tuple(value.shape))).clone()
        for name, value in model.named_parameters()
    }
    for name, values in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        state[name] = torch.tensor(values).view(1, 3, 1, 1)
    model.load_state_dict(state, assign=True)
    return model.eval()


@torch.no_grad()
def sane_pi3(config: Pi3Config = CONFIG) -> Pi3:
    """Depths around 1 and rays of a lens about as long as the picture is wide; seeded heads see nothing."""
    model = seeded_pi3(config)
    if isinstance(model, Pi3X):
        (first, _, slopes), (_, _, depth) = model.point_head.output_block  # type: ignore[union-attr, misc]
        for layer in (slopes, depth):
            layer.weight *= 0.02
            layer.bias *= 0
        # Four hidden channels say how far right, left, down and up a pixel is; u and v come last.
        first.weight[:4] *= 0
        first.bias[:4] *= 0
        for channel, (place, sign) in enumerate(((-2, 1), (-2, -1), (-1, 1), (-1, -1))):
            first.weight[channel, place, 1, 1] = sign
            slopes.weight[channel // 2, channel] = sign * WIDTH_OVER_FOCAL * 0.7
    else:
        proj, patch = model.point_head.proj, config.patch_size  # type: ignore[union-attr]
        proj.weight *= 0.002
        places = (torch.arange(patch) - (patch - 1) / 2) * WIDTH_OVER_FOCAL / config.img_size
        proj.bias[:] = torch.cat((places.repeat(patch), places.repeat_interleave(patch), torch.zeros(patch**2)))
    return model


def pi3_clip(name: str = "pi3", frames: int = 3, height: int = 42, width: int = 56) -> Clip:
    images = torch.from_numpy(seeded.images(name, 1, frames, height, width)[0]).clone()
    return Clip(images, [f"{name}_{index}" for index in range(frames)], {"kind": "seeded", "name": name})


def numbers(model: Pi3, images: Tensor) -> dict[str, Tensor]:
    """All that it answers."""
    with torch.inference_mode():
        answers = model.answers(images)
    return {name: value for name, value in vars(answers).items() if isinstance(value, Tensor)}
