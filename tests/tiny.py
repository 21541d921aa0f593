"""A tiny VGGT with seeded weights, for tests that need a whole model."""

import torch

import seeded
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.scenes.clip import Clip

CONFIG = VGGTConfig(
    img_size=70,
    embed_dim=64,
    depth=2,
    num_heads=4,
    patch_embed="conv",
    camera_trunk_depth=1,
    camera_num_heads=4,
    dpt_features=32,
    dpt_out_channels=(16, 32, 64, 64),
    dpt_layers=(0, 0, 1, 1),
    heads=("camera", "depth", "point"),
)


def tiny_model(config: VGGTConfig = CONFIG) -> VGGT:
    """Float32, in eval mode; the same numbers every time."""
    with torch.device("meta"):
        model = VGGT(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(seeded.parameter(key, shape)) for key, shape in shapes.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def sane_model() -> VGGT:
    """The tiny model with cameras near identity and a field of view near one radian; seeded ones may see nothing."""
    model = tiny_model()
    last = model.camera_head.pose_branch.fc2
    last.weight.data *= 0.05
    last.bias.data[:6] = 0
    last.bias.data[6:] = 0.25
    return model


def tiny_clip(name: str = "clip", frames: int = 3) -> Clip:
    """frames x 70 x 70."""
    images = torch.from_numpy(seeded.images(name, 1, frames, 70, 70)[0])
    return Clip(images, [f"{name}_{index}" for index in range(frames)], {"kind": "seeded", "name": name})
