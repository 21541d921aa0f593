"""Tiny models: a float one with seeded weights, and quantized ones that use every optional tensor."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import seeded
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.linear import QuantLinear
from quantvggt.models.quantization import Quantization
from quantvggt.models.sites import quantizable_sites

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


@pytest.fixture
def tiny() -> VGGT:
    """Float32 weights that float16 cannot hold exactly."""
    model = VGGT(TINY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(seeded.parameter(name, tuple(parameter.shape))))
    return model.eval()


@pytest.fixture
def quantized(tiny: VGGT) -> Callable[[str], VGGT]:
    """quantized("w4a4"): rotation, smoothing and input clip where the activations are integers."""

    def build(name: str) -> VGGT:
        scheme = Scheme.parse(name)
        with torch.no_grad():
            for parameter in tiny.parameters():
                parameter.copy_(parameter.half())
        for index, (site, linear) in enumerate(quantizable_sites(tiny).items()):
            assert isinstance(linear, torch.nn.Linear)
            layer = QuantLinear.from_float(
                linear,
                scheme,
                Transform(
                    signs=random_signs(linear.in_features, index), smooth=torch.linspace(0.7, 1.4, linear.in_features)
                ),
                input_clip=torch.tensor([0.9, 0.8]) if scheme.quantizes_activations else None,
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
