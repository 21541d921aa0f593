"""Tiny models: a float one with seeded weights, and quantized ones that use every optional tensor."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import seeded
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.quantization import Quantization
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear

TINY = VGGTConfig(
    img_size=28,
    embed_dim=32,
    depth=2,
    num_heads=2,
    patch_embed="conv",
    camera_trunk_depth=1,
    camera_num_heads=4,
    dpt_features=16,
    dpt_out_channels=(8, 8, 16, 16),
    dpt_layers=(0, 0, 1, 1),
    heads=("camera", "depth"),
)

FRAME_TOKENS = 5 + 2 * 3  # of `images`


@pytest.fixture
def tiny() -> VGGT:
    """Float32 weights that float16 cannot hold exactly."""
    model = VGGT(TINY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(seeded.parameter(name, tuple(parameter.shape))))
    return model.eval()


@pytest.fixture
def quantized(tiny: VGGT) -> Callable[..., VGGT]:
    """quantized("w4a4"): rotation, smoothing and input clip where the activations are integers. With `everything` also
    shift, presmooth and a Kronecker map; static schemes have ranges, for frames of `images`."""

    def build(name: str, everything: bool = False) -> VGGT:
        scheme = Scheme.parse(name)
        with torch.no_grad():
            for parameter in tiny.parameters():
                parameter.copy_(parameter.half())
        for index, (site, linear) in enumerate(quantizable_sites(tiny).items()):
            assert isinstance(linear, torch.nn.Linear)
            k = linear.in_features
            transform = Transform(signs=random_signs(k, index), smooth=torch.linspace(0.7, 1.4, k))
            if everything:
                transform = replace(
                    transform,
                    shift=torch.linspace(-0.2, 0.3, k),
                    presmooth=torch.linspace(1.3, 0.8, k),
                    left=torch.eye(4) + 0.01 * torch.arange(16).view(4, 4),
                    right=torch.eye(k // 4).roll(1, 0),
                )
            positions = torch.linspace(1, 2, 1 if scheme.per_tensor else FRAME_TOKENS)
            layer = QuantLinear.from_float(
                linear,
                scheme,
                transform,
                input_clip=torch.tensor([0.9, 0.8]) if scheme.quantizes_activations and not scheme.float8 else None,
                input_range=torch.stack((3 * positions, -2 * positions), 1) if scheme.static else None,
            )
            tiny.set_submodule(site, layer)
        tiny.quantization = Quantization(scheme, "dsfq", {"alpha": 0.5}, {"clips": ["a", "b"]})
        return tiny

    return build


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(seeded.images("checkpoint", 1, 2, 28, 42))


@pytest.fixture
def raw_safetensors() -> Callable[..., None]:
    """Write a safetensors file by hand: tensors {name: (dtype code, shape, bytes)}."""

    def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
        header: dict[str, Any] = {}
        body = b""
        for name, (code, shape, data) in tensors.items():
            header[name] = {"dtype": code, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
            body += data
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)

    return write
