"""A tiny VGGT with seeded weights, for tests that need a whole model."""

import pytest
import torch
import torch.nn.functional as F

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
    # Cloned into memory that PyTorch aligned, so that two such models sum in the same order.
    state = {key: torch.from_numpy(seeded.parameter(key, shape)).clone() for key, shape in shapes.items()}
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
    images = torch.from_numpy(seeded.images(name, 1, frames, 70, 70)[0]).clone()
    return Clip(images, [f"{name}_{index}" for index in range(frames)], {"kind": "seeded", "name": name})


def require_attention(dtype: torch.dtype) -> None:
    """Skip the test where PyTorch's attention, which models with heads as small as here take, can't run in `dtype`.

    Told by ATEN_CPU_CAPABILITY to do without AVX-512 on a CPU with AMX, it multiplies with AMX all the same, and has no
    code to lay out the operands.
    """
    x = torch.ones(1, CONFIG.num_heads, 90, CONFIG.embed_dim // CONFIG.num_heads, dtype=dtype)
    try:
        F.scaled_dot_product_attention(x, x, x)
    except RuntimeError as error:
        pytest.skip(f"PyTorch's attention in {dtype}: {error}")
