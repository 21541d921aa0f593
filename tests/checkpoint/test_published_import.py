"""The published quantization parameters give the published outputs.

A rounding tie can fall either way within float32 noise, and in a network one step spreads. So equality is
shown where it is sharp (every site's integers against a float64 dense computation, the recorded single layer,
the W4A4 outputs) and the W8A8 outputs, with 18 times as many ties, are held to the model's own sensitivity.
"""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import seeded
from close import assert_close_answers, in_own_memory
from published import published
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.published import import_published
from quantvggt.checkpoint.save import save
from quantvggt.core.errors import InputError
from quantvggt.kernels.ops import rotate_quantize
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear

TIE = 1e-4  # in quantization steps


@pytest.fixture(scope="module", params=["w4a4", "w8a8"])
def scheme(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def golden(scheme):
    """(recorded outputs, images, float model, imported model)."""
    with safe_open(published(scheme) / "outputs.safetensors", framework="pt") as file:
        metadata = file.metadata()
        outputs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    sizes = json.loads(metadata["config"])
    bits = sizes.pop("w_bits"), sizes.pop("a_bits")
    assert scheme == f"w{bits[0]}a{bits[1]}"
    model = VGGT(VGGTConfig(**sizes, heads=("camera", "depth", "point"))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(seeded.parameter(name, tuple(parameter.shape))))
    images = torch.from_numpy(seeded.images(*json.loads(metadata["images"])))
    return outputs, images, model, import_published(model, published(scheme), scheme)


def predict(model: VGGT, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        last = model.config.depth - 1
        return {**model(images), "aggregator_last": model.aggregator(images, [last])[last]}


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: ((a[name] - b[name]).abs().max() / b[name].abs().max()).item() for name in b}


def nudged(images: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The images with float32 rounding noise, 2e-7 relative."""
    generator = torch.Generator().manual_seed(0)
    return [images * (1 + 2e-7 * torch.randn(images.shape, generator=generator)) for _ in range(count)]


def test_single_linear(golden, scheme) -> None:
    recorded = load_file(published(scheme) / "linear_aggregator.frame_blocks.0.attn.qkv.safetensors")
    layer = golden[3].aggregator.frame_blocks[0].attn.qkv
    for x, y in ((recorded["x"], recorded["y"]), (recorded["x"].expand(2, 7, 64), recorded["y_3d"])):
        assert (layer(x) - y).abs().max() <= 2e-6 * y.abs().max()


def published_integers(x, values, bits, sides, clamp):
    """Rounded and unrounded integers by the published order of operations, float64, dense rotation."""
    high, low = (side.double().sigmoid() for side in sides)
    x = x.double() @ values["rotation_matrix"].double()
    x = x * values["channel_wise_scale"].double() if clamp else x / values["channel_wise_scale"].double()
    top = x.amax(-1, keepdim=True) * high
    bottom = x.amin(-1, keepdim=True) * low
    if clamp:
        x = torch.minimum(torch.maximum(x, bottom), top)
        scale = x.abs().amax(-1, keepdim=True)
    else:
        scale = torch.maximum(top.clamp(min=0), -bottom.clamp(max=0))
    limit = 2 ** (bits - 1) - 1
    steps = x / (scale / limit)
    return steps.round().clamp(-limit - 1, limit), steps


def test_every_site_holds_and_computes_the_published_integers(golden, scheme) -> None:
    _, images, model, imported = golden
    inputs = {}
    sites = quantizable_sites(imported)
    hooks = [
        site.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, args[0]))
        for name, site in sites.items()
    ]
    predict(imported, images)
    for hook in hooks:
        hook.remove()
    files = {
        kind: torch.load(published(scheme) / f"qs_{kind}_parameters_total.pth", weights_only=True)
        for kind in ("frame", "global")
    }
    off_ties = on_ties = total = 0
    for name, site in sites.items():
        kind, index, layer = name.replace("aggregator.", "").replace("_blocks", "").split(".", 2)
        values = {
            key.removeprefix(f"{layer}."): value
            for key, value in files[kind][int(index)].items()
            if key.startswith(layer)
        }
        weight = model.get_submodule(name).weight
        sides = values["clip_factor_w_max"], values["clip_factor_w_min"]
        want_weight = published_integers(weight, values, int(scheme[1]), sides, clamp=True)
        x = inputs[name]
        q, _ = rotate_quantize(x, site.rotation_signs, site.input_smooth, site.input_clip, int(scheme[3]))
        sides = values["act_quantizer.clip_factor_a_max"], values["act_quantizer.clip_factor_a_min"]
        want_input = published_integers(x, values, int(scheme[3]), sides, clamp=False)
        for have, (want, steps) in ((site.integer_weight(), want_weight), (q, want_input)):
            differ = have != want
            tie = (steps - steps.floor() - 0.5).abs() < TIE
            off_ties += int((differ & ~tie).sum())
            on_ties += int((differ & tie).sum())
            total += have.numel()
            assert (have - want).abs().max() <= 1
    assert off_ties == 0
    assert on_ties < 1e-4 * total


def test_outputs(golden, scheme) -> None:
    recorded, images, _, imported = golden
    error = worst(predict(imported, images), recorded)
    if scheme == "w4a4":
        # 4 bits have few ties; should this machine's arithmetic fall on one, the nudged inputs fall beside it.
        variants = (worst(predict(imported, x), recorded) for x in nudged(images, 6))
        closest = error if max(error.values()) < 1e-5 else min(variants, key=lambda e: max(e.values()))
        assert max(closest.values()) < 1e-5
    else:
        own = predict(imported, images)
        noise = [worst(predict(imported, x), own) for x in nudged(images, 6)]
        for name, value in error.items():
            assert value < 3 * max(n[name] for n in noise), name
            assert value < 0.03, name


def test_the_record_and_the_file(golden, scheme, tmp_path) -> None:
    _, images, model, imported = golden
    assert model.quantization is None
    assert imported.quantization.method == "dsfq-published"
    assert imported.quantization.scheme.name == scheme
    assert imported.aggregator.camera_token.data_ptr() == model.aggregator.camera_token.data_ptr()
    assert not any(isinstance(site, QuantLinear) for site in quantizable_sites(model).values())
    loaded = load(save(imported, tmp_path / "imported"))
    assert loaded.quantization == imported.quantization
    assert_close_answers(*(predict(in_own_memory(model), images) for model in (loaded, imported)))


def test_unclipped_activations_when_they_stay_float(golden, scheme) -> None:
    imported = import_published(golden[2], published(scheme), "w4a16")
    assert all(site.input_clip is None for site in quantizable_sites(imported).values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.pop(3), "is for 3 blocks, but this model has 4; import into the model that was"),
        (lambda file: file.update({"9": file.pop(3)}), "but this model has 4"),
        (lambda file: file[1].pop("mlp.fc1.rotation_matrix"), "1 parameters are missing or unknown .*fc1.rotation"),
        (lambda file: file[1].update({"attn.extra": torch.zeros(1)}), "1 parameters are missing or unknown .*extra"),
        (lambda file: file.update({2: 5}), "is not a file of QuantVGGT parameters"),
        (
            lambda file: file[0].update({"attn.qkv.channel_wise_scale": torch.ones(1, 32)}),
            r"channel_wise_scale has shape \[1, 32\], expected \[1, 64\]",
        ),
        (lambda file: file[0]["attn.qkv.channel_wise_scale"].neg_(), "every number in input_smooth must be positive"),
        (lambda file: file[0]["attn.qkv.rotation_matrix"].normal_(), "is not signs times a Hadamard matrix"),
        (lambda file: file[0]["attn.qkv.clip_factor_w_max"].fill_(float("nan")), "every number in weight_clip"),
        (lambda file: file[0].update({"mlp.fc2.channel_wise_scale": 3.0}), "is not a floating-point tensor"),
    ],
)
def test_wrong_parameter_files(golden, tmp_path, change, words) -> None:
    shutil.copytree(published("w8a8"), tmp_path / "copy")
    path = tmp_path / "copy" / "qs_global_parameters_total.pth"
    file = torch.load(path, weights_only=True)
    change(file)
    torch.save(file, path)
    with pytest.raises(InputError, match=words) as caught:
        import_published(golden[2], tmp_path / "copy", "w8a8")
    assert str(tmp_path) in str(caught.value)


def test_missing_file_and_quantized_model(golden, scheme, tmp_path) -> None:
    with pytest.raises(InputError, match=r"qs_frame_parameters_total.pth is missing"):
        import_published(golden[2], tmp_path, scheme)
    with pytest.raises(InputError, match="already quantized"):
        import_published(golden[3], published(scheme), scheme)
    with pytest.raises(InputError, match="unknown scheme"):
        import_published(golden[2], published(scheme), "four bits")
