"""Pieces of the dense head against what they stand for, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from quantvggt.models.dpt import Fusion, ResidualUnit
from quantvggt.models.uv import add_uv_embedding


def test_the_embedding_of_places():
    channels, height, width, aspect = 8, 3, 5, 1.6
    expected = torch.zeros(2, channels, height, width, dtype=torch.float64)
    diagonal = math.hypot(aspect, 1)
    for row in range(height):
        for column in range(width):
            # The cell's centre, in an image whose half diagonal is 1.
            places = (
                aspect / diagonal * (2 * column + 1 - width) / width,
                1 / diagonal * (2 * row + 1 - height) / height,
            )
            for part, place in enumerate(places):
                for i in range(channels // 4):
                    angle = place * 100 ** -(i / (channels / 4))
                    first = part * channels // 2 + i
                    expected[:, first, row, column] = 0.1 * math.sin(angle)
                    expected[:, first + channels // 4, row, column] = 0.1 * math.cos(angle)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
        true = x.double() + expected
        got = add_uv_embedding(x.contiguous(memory_format=memory_format), aspect)
        assert got.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(got.double(), true, rtol=0, atol=1e-6)


@pytest.mark.parametrize("activated", [True, False])
def test_a_residual_unit_and_its_gradients(activated):
    torch.manual_seed(0)
    unit = ResidualUnit(4, activated).double()
    inputs = [torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    got, x = unit(inputs[0] * 1), inputs[1]
    skip = F.relu(x) if activated else x
    expected = skip + unit.conv2(F.relu(unit.conv1(F.relu(x))))
    torch.testing.assert_close(got, expected)
    for y in (got, expected):
        y.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("activated", [True, False])
def test_fusing_leaves_the_coarser_level_alone(activated):
    torch.manual_seed(0)
    fusion, x, skip = Fusion(4, activated).double(), *(torch.randn(1, 4, 5, 6).double() for _ in range(2))
    before, unit = x.clone(), fusion.resConfUnit1
    summed = x + unit(skip.clone())
    expected = F.interpolate(
        fusion.out_conv(fusion.resConfUnit2(summed)), size=(10, 12), mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(fusion(x, skip, (10, 12)), expected)
    assert torch.equal(x, before)
