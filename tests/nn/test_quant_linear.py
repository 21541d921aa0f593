import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import hadamard
from torch import nn

import seeded
from published import published
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs, signs_from_matrix
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.nn.block import MLP_BYTES_PER_CHUNK, MLP_ROWS_PER_CHUNK, Mlp, SwiGlu
from quantvggt.nn.quant_linear import QuantLinear, mark_frames

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
    saved = torch.load(published(name) / "qs_frame_parameters_total.pth", weights_only=True)[0]
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
    recorded = load_file(published(name) / f"linear_{SITE}.safetensors")
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


@pytest.mark.parametrize("frame_tokens", [9, 18])
def test_shifted_and_balanced_input_with_special_tokens_against_float64(frame_tokens):
    linear, x, generator = _float_linear(), _tokens(), torch.Generator().manual_seed(4)
    shift, presmooth = torch.randn(K, generator=generator), 0.2 + torch.rand(K, generator=generator)
    signs = random_signs(K, 3)
    module = QuantLinear.from_float(linear, Scheme.parse("w4a4-s8"), Transform(shift, presmooth, signs=signs))
    mark_frames(module, frame_tokens, NUM_SPECIAL)
    x2 = (x.double() - shift) / presmooth * signs @ torch.from_numpy(hadamard(K) / K**0.5)
    special = (torch.arange(18) % frame_tokens < 5).view(2, 9, 1)
    top = torch.where(special, 127, 7)
    step = x2.abs().amax(-1, keepdim=True) / top
    q, scale = module.quantize_input(x)
    torch.testing.assert_close(scale.double(), step, rtol=1e-5, atol=0)
    assert (q - torch.clamp(x2 / step, -top - 1, top)).abs().max() <= 0.5 + 1e-3
    bias = linear.bias.double() + linear.weight.double() @ shift.double()
    expected = q.double() * step @ module.dequantized_weight().double().t() + bias
    assert _relative(module(x).double(), expected.detach()) < 1e-5
    mark_frames(module, 7, NUM_SPECIAL)
    with pytest.raises(InputError, match=r"scheme w4a4-s8 needs whole frames of 7 tokens"):
        module(x)


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
        empty = QuantLinear.empty(_float_linear(bias=bias), Scheme.preset("w4a4"), optional, device)
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


FRAMES, TOKENS = 3, 9


def _everything(k=K):
    """A transform with all its parts."""
    generator = torch.Generator().manual_seed(4)

    def near_identity(size):
        return torch.eye(size) + 0.1 * torch.randn(size, size, generator=generator)

    return Transform(
        shift=torch.randn(k, generator=generator),
        presmooth=0.5 + torch.rand(k, generator=generator),
        left=near_identity(4),
        right=near_identity(k // 4),
        signs=random_signs(k, 3),
        smooth=0.5 + torch.rand(k, generator=generator),
    )


def _frames():
    """[FRAMES, TOKENS, K], special tokens ten times as large, all off centre."""
    x = 1 + torch.randn(FRAMES, TOKENS, K, generator=torch.Generator().manual_seed(5))
    x[:, :NUM_SPECIAL] *= 10
    return x


def _transformed(transform, x):
    """X'' in float64."""
    x = (x.double() - transform.shift.double()) / transform.presmooth.double()
    x = x @ torch.kron(transform.left.double(), transform.right.double())
    return x * transform.signs @ torch.from_numpy(hadamard(K) / K**0.5) / transform.smooth.double()


def _rounded(x, high, low, top, asymmetric):
    """x on its grid, everything in float64; top: the largest symmetric integer, a number or one per token."""
    if not asymmetric:
        step = torch.maximum(high, -low) / top
        return torch.minimum(torch.maximum((x / step).round(), -top - 1 + 0 * x), top + 0 * x) * step
    levels = 2 * top + 1
    step = (high - low) / levels
    zero = (-low / step).round()
    return (torch.minimum(((x / step).round() + zero).clamp(min=0), levels + 0 * x) - zero) * step


@pytest.mark.parametrize("clip", [None, (0.7, 0.8)])
@pytest.mark.parametrize(
    "name",
    [f"w6a6{rest}" for rest in ("", "-tensor", "-static", "-tensor-static", "-asym", "-tensor-static-asym", "-s3")]
    + [f"w4a4{rest}" for rest in ("-static-asym", "-tensor-asym", "-s8", "-asym-s7", "-asym-s8")],
)
def test_every_kind_of_activation_is_its_formula(name, clip):
    scheme, transform, x = Scheme.parse(name), _everything(), _frames()
    wide = _transformed(transform, x)
    high, low = wide.amax(-1, keepdim=True).clamp(min=0), wide.amin(-1, keepdim=True).clamp(max=0)
    ranges = None
    if scheme.static:  # of other inputs, so that some numbers lie outside
        high, low = 0.9 * high, 1.1 * low
        high, low = (high.max(), low.min()) if scheme.per_tensor else (high.amax(0), low.amin(0))
        ranges = torch.stack((high.flatten(), low.flatten()), -1).float()
    elif scheme.per_tensor:
        high, low = high.max(), low.min()
    if clip is not None:
        high, low = high * clip[0], low * clip[1]
    top = torch.full((TOKENS, 1), 2.0 ** (scheme.act_bits - 1) - 1, dtype=torch.float64)
    if scheme.special_bits is not None:
        top[:NUM_SPECIAL] = 2 ** (scheme.special_bits - 1) - 1
    expected = _rounded(wide, high, low, top, scheme.asymmetric)
    if scheme.special_bits == 8:  # too wide to be asymmetric
        expected[:, :NUM_SPECIAL] = _rounded(wide, high, low, top, False)[:, :NUM_SPECIAL]

    linear = _float_linear()
    module = QuantLinear.from_float(
        linear, scheme, transform, input_clip=None if clip is None else torch.tensor(clip), input_range=ranges
    )
    mark_frames(module, TOKENS, NUM_SPECIAL)
    q, scale = module.quantize_input(x)
    assert q.dtype == torch.int8
    got = q.double() * scale
    # In float32 a number halfway between two integers may go the other way.
    off = (got - expected).abs() > 1e-4 * expected.abs().max()
    assert off.double().mean() < 2e-3
    assert ((got - expected).abs() <= 1.001 * scale).all()

    weight = linear.weight.detach().double()
    bias = linear.bias.detach().double() + weight @ transform.shift.double()
    y = got @ module.dequantized_weight().double().t() + bias
    for layout in (x, x.flatten(0, 1)[None]):
        torch.testing.assert_close(module(layout).double(), y.view(*layout.shape[:-1], N), rtol=1e-4, atol=1e-4)


def test_a_transform_with_all_its_parts_gives_the_float_layer_back():
    linear, x = _float_linear(), _tokens()
    y = linear(x).detach()
    assert (QuantLinear.from_float(linear, Scheme.preset("w8a8"), _everything())(x) - y).norm() < 0.03 * y.norm()


@pytest.mark.parametrize("name", ["w4a4-s8", "w4a4-asym-s7", "w4a4-asym-s8"])
def test_special_tokens_have_their_own_width_in_every_layout(name):
    module = QuantLinear.from_float(_float_linear(), Scheme.parse(name), Transform(signs=random_signs(K, 0)))
    mark_frames(module, TOKENS, NUM_SPECIAL)
    x = _frames()
    q, scale = module.quantize_input(x)
    widest = q.int().abs().amax(-1)
    assert (widest[:, :NUM_SPECIAL] > 60).all()
    assert (widest[:, NUM_SPECIAL:] <= (8 if name == "w4a4-s8" else 15)).all()
    across = x.flatten(0, 1)[None]
    strided = torch.stack((across[0], across[0]), 1).transpose(0, 1)  # [2, S P, K], not contiguous
    for other, copies in ((across, 1), (strided, 2), (across.bfloat16(), 1)):
        got, got_scale = module.quantize_input(other)
        assert (got.view(copies, FRAMES, TOKENS, K)[:, :, :NUM_SPECIAL].int().abs().amax(-1) > 60).all()
        if other.dtype == x.dtype:
            assert torch.equal(got, q.view(1, -1, K).expand(copies, -1, -1))
            assert torch.equal(got_scale, scale.view(1, -1, 1).expand(copies, -1, -1))


def test_inputs_that_are_not_whole_frames_are_refused():
    module = QuantLinear.from_float(_float_linear(), Scheme.parse("w4a4-s8"))
    with pytest.raises(InputError, match="whole frames"):
        module(_frames())
    mark_frames(module, TOKENS, NUM_SPECIAL)
    with pytest.raises(InputError, match=r"w4a4-s8 needs whole frames of 9 tokens, got an input of \[1, 10, 64\]"):
        module(torch.zeros(1, 10, K))
    assert QuantLinear.from_float(_float_linear(), Scheme.parse("w4a4"))(torch.zeros(1, 10, K)).shape == (1, 10, N)


@pytest.mark.parametrize("calibrated", [1, TOKENS - 1])
def test_static_tokens_are_bound_to_the_size_of_their_frames(calibrated):
    ranges = torch.tensor([[3.0, -3.0]]).expand(calibrated, 2)
    module = QuantLinear.from_float(_float_linear(), Scheme.parse("w4a4-static"), input_range=ranges)
    mark_frames(module, TOKENS, NUM_SPECIAL)
    with pytest.raises(InputError, match=f"calibrated for frames of {calibrated} tokens, not 9; use images of"):
        module(_frames())
    mark_frames(module, calibrated, NUM_SPECIAL)
    assert module(torch.zeros(2, calibrated, K)).isfinite().all()


def test_chunks_of_an_mlp_hold_whole_frames(monkeypatch):
    monkeypatch.setattr("quantvggt.nn.block.MLP_ROWS_PER_CHUNK", 2 * TOKENS + 3)
    assert MLP_ROWS_PER_CHUNK > 1000
    torch.manual_seed(0)
    mlp = Mlp(K, 2 * K)
    for name in ("fc1", "fc2"):
        mlp.set_submodule(name, QuantLinear.from_float(mlp.get_submodule(name), Scheme.parse("w4a4-s8")))
    mark_frames(mlp, TOKENS, NUM_SPECIAL)
    x = torch.cat((_frames(), 2 * _frames()))
    seen = []
    mlp.fc1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        chunked = mlp(x)
    assert seen == [2 * TOKENS] * 3
    assert torch.equal(chunked, mlp(x))  # with gradients it runs as a whole
    assert seen[3:] == [len(x)]


@pytest.mark.parametrize(("dtype", "frames"), [(torch.float32, 1), (torch.bfloat16, 3)])
@pytest.mark.parametrize("layers", [("fc1", "fc2"), ("w12", "w3")])
def test_chunks_of_an_mlp_on_a_cpu_have_so_many_bytes(monkeypatch, layers, dtype, frames):
    torch.manual_seed(0)
    mlp = Mlp(K, 2 * K) if "fc1" in layers else SwiGlu(K)
    for name in layers:
        mlp.set_submodule(name, QuantLinear.from_float(mlp.get_submodule(name), Scheme.parse("w4a4-s8")))
    mark_frames(mlp, TOKENS, NUM_SPECIAL)
    x = torch.cat([_frames()] * 3).to(dtype)
    seen = []
    mlp.get_submodule(layers[0]).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel() // K))
    with torch.no_grad():
        whole = mlp(x)
        monkeypatch.setattr("quantvggt.nn.block.MLP_BYTES_PER_CHUNK", 3 * TOKENS * K * 2 + K)
        chunked = mlp(x)
    assert seen == [9 * TOKENS] + [frames * TOKENS] * (9 // frames)
    assert torch.equal(chunked, whole)


@pytest.mark.parametrize("dim", [384, 768, 1024, 1536])
@pytest.mark.parametrize("size", [2, 4])
def test_hidden_layers_stay_below_what_malloc_takes_from_the_system_each_time(dim, size):
    rows = MLP_BYTES_PER_CHUNK // (dim * size)
    assert rows > 500
    assert rows * max(4 * dim, 2 * SwiGlu.hidden(dim)) * size < 32 << 20


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("w4a4-static", {}, "needs an input range"),
        ("w4a4", {"input_range": torch.zeros(1, 2)}, "no use for an input range"),
        ("w4a4-tensor-static", {"input_range": torch.zeros(5, 2)}, r"input_range has shape \[5, 2\].* \[1, 2\]"),
        ("w4a4-static", {"input_range": torch.zeros(5, 3)}, r"input_range has shape \[5, 3\]"),
        ("w4a4-static", {"input_range": torch.tensor([[-1.0, -2.0]])}, "input_range must be"),
        ("w4a4-static", {"input_range": torch.tensor([[torch.inf, 0.0]])}, "input_range must be finite"),
        ("w4a4", {"transform": Transform(shift=torch.full((K,), torch.nan))}, "input_shift must be finite"),
        ("w4a4", {"transform": Transform(presmooth=-torch.ones(K))}, "input_presmooth must be positive"),
        ("w4a4", {"transform": Transform(left=torch.eye(4))}, "don't make a map of 64 channels"),
        ("w4a4", {"transform": Transform(left=torch.eye(4), right=torch.eye(8))}, r"input_right has shape \[8, 8\]"),
        ("w4a4", {"transform": Transform(left=torch.eye(5), right=torch.eye(12))}, "don't make a map of 64 channels"),
    ],
)
def test_granularity_and_maps_that_cannot_be(scheme, options, message):
    with pytest.raises(InputError, match=message):
        QuantLinear.from_float(_float_linear(), Scheme.parse(scheme), **options)
