"""What a step makes of its arguments. That it refuses what is not legal is searched for in test_properties.py."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.kernels.contract import Attention, IntLinear, RotateQuantize, examples


def test_a_step_is_frozen():
    step = RotateQuantize(torch.ones(2, 8), None, None, None, 8)
    with pytest.raises(FrozenInstanceError):
        step.bits = 4
    with pytest.raises(InputError, match="bits is a whole number from 2 to 8, not 9"):
        RotateQuantize(torch.ones(2, 8), None, None, None, 9)


def test_tensors_come_out_contiguous_flat_and_in_float32():
    x, weight, bias = torch.ones(8, 3).double().t(), torch.ones(8, 2)[:, 0], torch.ones(1, 8).bfloat16()
    step = RotateQuantize(x, None, None, None, 8, norm_weight=weight, norm_bias=bias)
    assert step.x.is_contiguous()
    assert (step.x.dtype, step.norm_bias.dtype) == (torch.float32, torch.float32)
    assert step.norm_weight.is_contiguous()
    assert step.norm_bias.shape == (8,)
    q, scale = torch.ones(2, 3, 8, dtype=torch.int8), torch.ones(2, 3, 1)
    product = IntLinear(q, scale, q[0], scale[0], None, torch.float32, residual=torch.ones(2, 3, 3).double())
    assert (product.row_scale.shape, product.weight_scale.shape) == ((6,), (3,))
    assert product.residual.dtype == torch.float32
    assert product.weight.data_ptr() == q.data_ptr()  # what is as it should be is not copied


def test_attention_keeps_the_types_of_its_norms():
    qkv, weight = torch.ones(1, 2, 24).bfloat16(), torch.ones(8)
    step = Attention(qkv, 1, weight, None, weight, weight, 1e-5, None, None)
    assert step.q_weight is weight
    assert step.head_size == 8
    with pytest.raises(InputError, match="q_bias comes with a q_weight of its dtype only"):
        Attention(qkv, 1, weight, weight.double(), weight, None, 1e-5, None, None)
    with pytest.raises(InputError, match="q_weight and k_weight are both given or both None"):
        Attention(qkv, 1, weight, None, None, None, 1e-5, None, None)
    with pytest.raises(InputError, match="cosine and sine are both given or both None"):
        Attention(qkv, 1, None, None, None, None, 1e-5, torch.ones(1, 8), None)


def test_examples_cover_every_op():
    steps = examples(torch.device("cpu"))
    assert set(steps) == {"rotate_quantize", "int_linear", "dequantize_weight", "float8_linear", "attention"}
    assert all(op == step.OP and step.device.type == "cpu" for op, each in steps.items() for step in each.values())
