"""Recordings of the published Depth-Anything-3 with seeded weights, and our model with the same."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

import seeded
from quantvggt.models.da3 import DA3, DA3Config

GOLDEN = Path(__file__).parent / "golden" / "families" / "da3"
FOLDER = Path(os.environ.get("QUANTVGGT_FAMILY_RECORDINGS", GOLDEN))
PREFIX = "model."  # of all published names, and so of seeds
PRESETS = {"SMALL": DA3Config.small, "BASE": DA3Config.base, "LARGE": DA3Config.large, "GIANT": DA3Config.giant}


@dataclass(frozen=True)
class Recording:
    """arrays: strided where they are large; shapes: as they were. images: RGB in [0, 1]."""

    config: DA3Config
    arguments: dict[str, Any]
    images: Tensor
    arrays: dict[str, Tensor]
    shapes: dict[str, list[int]]


def recordings() -> list[Path]:
    """Every one there is: none that lies in the folder is passed over."""
    return sorted(path for path in FOLDER.rglob("*.safetensors") if path.name.startswith("da3"))


def read(path: Path) -> Recording:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    told = {key: json.loads(metadata[key]) for key in ("config", "arguments", "images", "full_shapes")}
    images = torch.from_numpy(seeded.images(*told["images"]))
    return Recording(config_of(told["config"]), told["arguments"], images, arrays, told["full_shapes"])


def config_of(told: dict[str, Any]) -> DA3Config:
    """Ours, from the published constructor's arguments."""
    if "preset" in told:
        name = told["preset"].rpartition("/")[2]  # DA3-SMALL, DA3-GIANT-1.1, DA3MONO-LARGE
        return PRESETS[name.split("-")[1]]() if name.startswith("DA3-") else DA3Config.monocular()
    starts = {told["alt_start"], told["qknorm_start"], told["rope_start"]}
    assert len(starts) == 1, "no published model has them apart"
    start = starts.pop()
    assert told["cat_token"] == (start >= 0) == (told["head"] == "DualDPT")
    return DA3Config(
        img_size=told["img_size"],
        picture_size=56,
        embed_dim=told["embed_dim"],
        depth=told["depth"],
        num_heads=told["num_heads"],
        start=start if start >= 0 else told["depth"],
        layers=tuple(told["out_layers"]),
        features=told["features"],
        out_channels=tuple(told["out_channels"]),
        swiglu=told["backbone"] == "vitg",
        gaussians=told.get("gs_head", False),
    )


def seeded_state(config: DA3Config) -> dict[str, Tensor]:
    """Cloned into memory that PyTorch aligned, so that two such models sum in the same order."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in DA3(config).state_dict().items()}
    return {name: torch.from_numpy(seeded.parameter(PREFIX + name, shape)).clone() for name, shape in shapes.items()}


def seeded_model(config: DA3Config) -> DA3:
    with torch.device("meta"):
        model = DA3(config)
    model.load_state_dict(seeded_state(config), assign=True)
    return model.eval()


SMALLEST = DA3Config(
    img_size=70,
    picture_size=56,
    embed_dim=32,
    depth=4,
    num_heads=2,
    start=1,
    layers=(0, 1, 2, 3),
    features=16,
    out_channels=(8, 8, 16, 16),
)


def sane_model(config: DA3Config = SMALLEST) -> DA3:
    """With cameras near identity and a field of view near one radian; seeded ones may see nothing."""
    model = seeded_model(config)
    for layer, bias in ((model.cam_dec.fc_qvec, (0.0, 0, 0, 1)), (model.cam_dec.fc_fov[0], (1.0, 1.0))):
        layer.weight.data *= 0.05
        layer.bias.data = torch.tensor(bias)
    return model
