from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import hadamard
from torch import nn

import seeded
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs, signs_from_matrix
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models.linear import QuantLinear

PUBLISHED = Path(__file__).parents[1] / "golden" / "published"
SITE = "aggregator.frame_blocks.0.attn.qkv"
K, N = 64, 48


def _float_linear(k=K, n=N, bias=True):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(k, n, bias=bias)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return linear


def _tokens(k=K):
    return torch.randn(2, 9, k, generator=torch.Generator().manual_seed(1))


def _options(k=K, n=N):
    generator = torch.Generator().manual_seed(2)
    return {
        "transform": Transform(signs=random_signs(k, 3), smooth=0.5 + torch.rand(k, generator=generator)),
        "weight_clip": 0.8 + 0.2 * torch.rand(n, 2, generator=generator),
        "input_clip": torch.tensor([0.9, 0.95]),
    }


def _relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", ["w4a4", "w8a8"])
def test_published_linear_is_reproduced(name):
    saved = torch.load(PUBLISHED / name / "qs_frame_parameters_total.pth", weights_only=True)[0]
    saved = {key.removeprefix("attn.qkv."): value for key, value in saved.items()}
    linear = nn.Linear(64, 192)
    for key, parameter in linear.named_parameters():
        parameter.data = torch.from_numpy(seeded.parameter(f"{SITE}.{key}", tuple(parameter.shape)))
    quantized = QuantLinear.from_float(
        linear,
        Scheme.preset(name),
        Transform(signs=signs_from_matrix(saved["rotation_matrix"]), smooth=saved["channel_wise_scale"].flatten()),
        weight_clip=torch.sigmoid(torch.cat([saved["clip_factor_w_max"], saved["clip_factor_w_min"]], dim=1)),
        input_clip=torch.sigmoid(
            torch.cat(
                [saved["act_quantizer.clip_factor_a_max"], saved["act_quantizer.clip_factor_a_min"]],
            )
        ),
    )
    recorded = load_file(PUBLISHED / name / f"linear_{SITE}.safetensors")
    assert _relative(quantized(recorded["x"]), recorded["y"]) < 1e-5
    assert _relative(quantized(recorded["x"].expand(2, -1, -1)), recorded["y_3d"]) < 1e-5


@pytest.mark.parametrize("scheme", ["w4a4", "w6a6", "w8a8", "w3a8"])
def test_output_is_the_product_of_what_the_buffers_say(scheme):
    linear, options, x = _float_linear(), _options(), _tokens()
    module = QuantLinear.from_float(linear, Scheme.parse(scheme), **options)
    rotation = torch.from_numpy(hadamard(K) / K**0.5)
    x2 = x.double() * options["transform"].signs @ rotation / options["transform"].smooth.double()
    top = 2 ** (module.scheme.act_bits - 1) - 1
    step = torch.maximum(x2.amax(-1) * 0.9, -x2.amin(-1) * 0.95)[..., None] / top
    weight = module.dequantized_weight().double()
    expected = (x2 / step).round().clamp(-top - 1, top) * step @ weight.t() + linear.bias.double()
    assert _relative(module(x).double(), expected.detach()) < 1e-5


@pytest.mark.parametrize(("scheme", "bound"), [("w8a8", 0.016), ("w8a16", 0.012), ("w4a16", 0.2)])
@pytest.mark.parametrize("k", [K, 20, 24, 384])
def test_output_is_near_the_float_layer(scheme, bound, k):
    linear, x, options = _float_linear(k), _tokens(k), _options(k)
    module = QuantLinear.from_float(linear, Scheme.parse(scheme), options["transform"])
    with torch.inference_mode():
        y = linear(x)
        # Rounding adds absmax / qmax / sqrt(12) per number and absmax is about 4 standard deviations.
        assert (module(x) - y).norm() < bound * y.norm()


def test_float_activations_meet_the_stored_weight_unrounded():
    linear, options, x = _float_linear(), _options(), _tokens()
    module = QuantLinear.from_float(linear, Scheme.preset("w4a16"), options["transform"])
    rotation = torch.from_numpy(hadamard(K) / K**0.5)
    x2 = x.double() * options["transform"].signs @ rotation / options["transform"].smooth.double()
    expected = x2 @ module.dequantized_weight().double().t() + linear.bias.detach().double()
    assert _relative(module(x).double(), expected) < 1e-6


@pytest.mark.parametrize("scheme", ["w4a4", "w3a3", "w5a8", "w8a8"])
@pytest.mark.parametrize("k", [K, 20])
def test_buffers_have_the_names_shapes_and_dtypes_of_the_checkpoint(scheme, k):
    module = QuantLinear.from_float(_float_linear(k), Scheme.parse(scheme), **_options(k))
    packed = module.scheme.weight_bits <= 4
    weight = {"weight_packed": ((N, -(-k // 8)), torch.int32)} if packed else {"weight": ((N, k), torch.int8)}
    assert {key: (tuple(value.shape), value.dtype) for key, value in module.state_dict().items()} == {
        **weight,
        "weight_scale": ((N, 1), torch.float32),
        "rotation_signs": ((k,), torch.int8),
        "input_smooth": ((k,), torch.float32),
        "input_clip": ((2,), torch.float32),
        "bias": ((N,), torch.float32),
    }
    limit = 2 ** (module.scheme.weight_bits - 1)
    assert module.integer_weight().int().abs().max() <= limit
    assert not list(module.parameters())


@pytest.mark.parametrize("options", [{}, _options()])
@pytest.mark.parametrize("bias", [False, True])
def test_state_loads_into_an_empty_layer_bit_for_bit(options, bias):
    module = QuantLinear.from_float(_float_linear(bias=bias), Scheme.preset("w4a4"), **options)
    optional = {"rotation_signs": (K,), "input_smooth": (K,), "input_clip": (2,)} if options else {}
    for device in ("cpu", "meta"):
        empty = QuantLinear.empty(K, N, Scheme.preset("w4a4"), optional, bias=bias, device=device)
        empty.load_state_dict(module.state_dict(), assign=device == "meta")
        assert torch.equal(empty(_tokens()), module(_tokens()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_float_dtype_are_quantized_in_float32(dtype):
    linear = _float_linear().to(dtype)
    module = QuantLinear.from_float(linear, Scheme.preset("w8a8"), **_options())
    wide = QuantLinear.from_float(linear.float(), Scheme.preset("w8a8"), **_options())
    assert module.bias.dtype == dtype
    assert torch.equal(module.dequantized_weight(), wide.dequantized_weight())
    assert module(_tokens().to(dtype)).dtype == dtype


def test_scales_stay_float32_when_the_model_changes_dtype():
    module = QuantLinear.from_float(_float_linear(), Scheme.preset("w4a4"), **_options())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    nn.Sequential(module).to(torch.float16).float()
    for key in before.keys() - {"bias"}:
        assert torch.equal(module.state_dict()[key], before[key])
        assert module.state_dict()[key].dtype == before[key].dtype
    assert module.half().bias.dtype == torch.float16
    assert module.to("meta").input_smooth.device.type == "meta"


@pytest.mark.parametrize("scheme", ["w4a4", "w4a16"])
def test_output_dtype_follows_the_input_or_autocast(scheme):
    options = {**_options(), "input_clip": None}
    module = QuantLinear.from_float(_float_linear(), Scheme.parse(scheme), **options)
    x = _tokens()
    assert module(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    assert _relative(y.float(), module(x)) < 0.01
    assert module.to("meta")(x.to("meta")).shape == (2, 9, N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": Transform(signs=random_signs(32, 0))}, r"signs has shape \[32\]; this layer needs \[64\]"),
        ({"transform": Transform(signs=torch.zeros(K, dtype=torch.int8))}, r"signs must be \+1 or -1"),
        ({"transform": Transform(smooth=torch.zeros(K))}, "smooth must be positive"),
        ({"transform": Transform(smooth=torch.full((K,), torch.nan))}, "smooth must be positive"),
        ({"weight_clip": torch.ones(N)}, r"weight_clip has shape \[48\]"),
        ({"input_clip": torch.tensor([1.0, 1.5])}, "input_clip must be above 0 and at most 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(InputError, match=message):
        QuantLinear.from_float(_float_linear(), Scheme.preset("w4a4"), **change)


def test_layers_that_cannot_be():
    with pytest.raises(InputError, match="no input clip"):
        QuantLinear.from_float(_float_linear(), Scheme.preset("w4a16"), input_clip=torch.ones(2))
    with pytest.raises(InputError, match="6 channels"):
        QuantLinear.from_float(_float_linear(k=6), Scheme.preset("w4a4"), Transform(signs=random_signs(6, 0)))
