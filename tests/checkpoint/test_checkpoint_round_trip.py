"""What is saved comes back: every bit of every tensor, every field of the record, the same outputs."""

import json
import math
import struct
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from close import assert_close_answers, in_own_memory
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.save import save
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.kernels.scaled_mm import ScaledMM
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name].flatten().view(torch.uint8), b[name].flatten().view(torch.uint8)), name


def assert_same_outputs(before, after, images) -> None:
    with torch.inference_mode():
        assert_close_answers(*(in_own_memory(model)(images) for model in (after, before)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_float_model_comes_back_bit_for_bit(tiny, images, tmp_path, dtype) -> None:
    tiny.to(dtype)
    folder = save(tiny, tmp_path / "float")
    loaded = load(folder)
    assert loaded.config == tiny.config
    assert loaded.quantization is None
    assert not loaded.training
    assert_same_bits(tiny.state_dict(), loaded.state_dict())
    assert_same_outputs(tiny, loaded, images)


SLOW_HERE = pytest.mark.filterwarnings("ignore:scheme w8a8-fp8 is for NVIDIA GPUs")


@SLOW_HERE
@pytest.mark.parametrize("scheme", ["w8a8", "w6a6", "w4a4", "w3a3", "w2a8", "w4a16", "w8a8-fp8"])
def test_quantized_model_comes_back_bit_for_bit(quantized, images, tmp_path, scheme) -> None:
    model = quantized(scheme)
    loaded = load(save(model, tmp_path / "small"))
    assert loaded.quantization == model.quantization
    assert_same_bits(model.state_dict(), loaded.state_dict())
    for site in quantizable_sites(loaded).values():
        assert isinstance(site, QuantLinear)
        assert site.scheme == model.quantization.scheme
    assert_same_outputs(model, loaded, images)


KINDS = (
    "w4a4",
    "w6a16",
    "w4a4-s8",
    "w4a4-tensor",
    "w4a4-asym-s8",
    "w8a8-static",
    "w3a3-tensor-static-asym",
    "w8a8-fp8",
)


@SLOW_HERE
@pytest.mark.parametrize("scheme", KINDS)
def test_every_kind_of_layer_comes_back_bit_for_bit(quantized, images, tmp_path, scheme) -> None:
    model = quantized(scheme, everything=True)
    folder = save(model, tmp_path / "small")
    loaded = load(folder)
    assert_same_bits(model.state_dict(), loaded.state_dict())
    for site in quantizable_sites(loaded).values():
        assert site.scheme.name == scheme
        assert site.input_left.shape == (4, 4)
    assert_same_outputs(model, loaded, images)
    second = save(loaded, tmp_path / "second")
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (second / name).read_bytes()


def test_site_records_say_what_is_unusual_and_nothing_else(quantized, tmp_path) -> None:
    plain = {
        "weight_bits": 4,
        "act_bits": 4,
        "shape": [96, 32],
        "rotation": True,
        "smoothing": True,
        "input_clip": True,
    }
    name = "aggregator.frame_blocks.0.attn.qkv"
    folder = save(quantized("w4a4"), tmp_path / "plain")
    assert json.loads((folder / "config.json").read_text())["sites"][name] == plain


def test_site_records_name_granularity_and_shapes(quantized, tmp_path) -> None:
    folder = save(quantized("w4a4-static-asym", everything=True), tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    site = config["sites"]["aggregator.frame_blocks.0.attn.qkv"]
    assert site["granularity"] == "-static-asym"
    assert site["tensors"] == {
        "input_shift": [32],
        "input_presmooth": [32],
        "input_left": [4, 4],
        "input_right": [8, 8],
        "input_range": [11, 2],
    }
    flags = {"static": True, "asymmetric": True}
    assert config["quantization"]["scheme"] == {
        **Scheme.preset("w4a4").to_dict(), "name": "w4a4-static-asym", **flags
    }  # fmt: skip
    (group,) = config["quantization_config"]["config_groups"].values()
    activations = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "token", "dynamic": False}
    assert group["input_activations"] == activations


def test_second_generation_writes_the_same_file(quantized, tmp_path) -> None:
    first = save(quantized("w4a4"), tmp_path / "first")
    second = save(load(first), tmp_path / "second")
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_layers_may_differ_in_bits_or_stay_float(quantized, images, tmp_path) -> None:
    model = quantized("w4a4")
    name, wide_name = "aggregator.global_blocks.1.mlp.fc2", "aggregator.frame_blocks.1.mlp.fc2"
    plain = torch.nn.Linear(128, 32)
    model.set_submodule(name, plain)
    model.set_submodule(wide_name, QuantLinear.from_float(plain, Scheme.preset("w8a8")))
    folder = save(model, tmp_path / "mixed")
    loaded = load(folder)
    assert type(loaded.get_submodule(name)) is torch.nn.Linear
    assert loaded.get_submodule(wide_name).scheme.name == "w8a8"
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["format"] == "mixed-precision"
    assert_same_outputs(model, loaded, images)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a4", "w3a3", "w2a8", "w8a8-fp8"])
def test_file_is_as_small_as_the_formula_says(quantized, tmp_path, scheme) -> None:
    model = quantized(scheme)
    path = save(model, tmp_path / "small") / "model.safetensors"
    expected = 0
    sites = quantizable_sites(model)
    for site in sites.values():
        n, k = site.out_features, site.in_features
        bits = int(scheme[1])
        weight = n * k if bits == 8 else 4 * n * math.ceil(bits * k / 32) + 16
        expected += weight + 4 * n + 4 * k + k  # scales, smoothing, signs
        expected += 0 if site.scheme.float8 else 2 * 4  # clip
    others = [x for name, x in model.state_dict().items() if name.rpartition(".")[0] not in sites]
    biases = [site.bias for site in sites.values()]
    expected += sum(2 * x.numel() for x in (*others, *biases))  # float16 holds them exactly
    raw = path.read_bytes()
    (header,) = struct.unpack("<Q", raw[:8])
    assert len(raw) == 8 + header + expected
    assert header % 8 == 0


def test_exact_bytes_of_a_packed_weight(quantized, tmp_path) -> None:
    model = quantized("w4a4")
    name = "aggregator.frame_blocks.0.attn.proj"
    site = model.get_submodule(name)
    # -8 .. 7 in turn: element i of eight lies in bits 4i..4i+3 as value + 8, words little-endian.
    row = torch.arange(32).remainder(16).sub(8)
    words = [sum((v + 8) << (4 * i) for i, v in enumerate(row[j : j + 8].tolist())) for j in range(0, 32, 8)]
    signed = [word - (1 << 32) if word >> 31 else word for word in words]
    site.weight_packed.copy_(torch.tensor(signed, dtype=torch.int32).expand(32, 4))
    path = save(model, tmp_path / "small") / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    entry = header[f"{name}.weight_packed"]
    begin, end = entry["data_offsets"]
    assert entry == {"dtype": "I32", "shape": [32, 4], "data_offsets": [begin, end]}
    assert raw[8 + length + begin : 8 + length + end] == bytes.fromhex("1032547698badcfe") * 64
    assert torch.equal(load(path).get_submodule(name).integer_weight(), row.to(torch.int8).expand(32, 32))
    assert header["__metadata__"] == {"format": "pt"}
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor(f"{name}.weight_shape").tolist() == [32, 32]


@pytest.mark.parametrize("bits", [2, 3])
def test_exact_bytes_of_narrower_weights(quantized, tmp_path, bits) -> None:
    model = quantized(f"w{bits}a8")
    name = "aggregator.frame_blocks.0.mlp.fc1"
    site = model.get_submodule(name)
    q = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (128, 32), generator=torch.Generator().manual_seed(0))
    site.set_weight(q.to(torch.int8), site.weight_scale)
    path = save(model, tmp_path / "small") / "model.safetensors"
    words = load_file(path)[f"{name}.weight_packed"]
    assert words.dtype == torch.int32
    assert words.shape == (128, bits)  # 32 numbers fill as many words as they have bits
    rows = [sum((value + 2 ** (bits - 1)) << bits * i for i, value in enumerate(row)) for row in q.tolist()]
    assert words.numpy().astype("<i4").tobytes() == b"".join(row.to_bytes(4 * bits, "little") for row in rows)
    assert torch.equal(load(path).get_submodule(name).integer_weight(), q.to(torch.int8))


def save_version_1(model, folder) -> Path:
    """As version 1 was written: numbers of 2 and 3 bits in the 4-bit fields that they have in memory."""
    save(model, folder)
    config = json.loads((folder / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["weights"]["num_bits"] = max(4, group["weights"]["num_bits"])
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 1}))
    words = {name: value for name, value in model.state_dict().items() if name.endswith(".weight_packed")}
    save_file(load_file(folder / "model.safetensors") | words, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("scheme", ["w4a4", "w3a3", "w2a8"])
def test_checkpoints_of_version_1_load_with_the_same_bits(quantized, images, tmp_path, scheme) -> None:
    model = quantized(scheme)
    old = save_version_1(model, tmp_path / "old")
    loaded = load(old)
    assert_same_bits(model.state_dict(), loaded.state_dict())
    assert loaded.quantization == model.quantization
    direct, again = save(model, tmp_path / "direct"), save(loaded, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (direct / name).read_bytes() == (again / name).read_bytes()
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (old, again)]
    assert sizes[0] > sizes[1] or scheme == "w4a4"
    assert_same_outputs(model, loaded, images)


def test_numbers_that_do_not_fit_are_refused_and_nothing_is_written(quantized, tmp_path) -> None:
    model = quantized("w3a3")
    model.get_submodule("aggregator.frame_blocks.0.attn.qkv").weight_packed[5, 1] = 0x7FFFFFF0
    with pytest.raises(InputError, match=r"blocks.0.attn.qkv.weight_packed: cannot pack values from -8 to 7 in 3 bits"):
        save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_narrow_weights_may_lie_in_shards_and_torch_files(quantized, tmp_path) -> None:
    model = quantized("w3a3")
    folder = save(model, tmp_path / "small")
    file = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(file, folder / "model.pt")
    assert_same_bits(model.state_dict(), load(folder).state_dict())
    (folder / "model.pt").unlink()
    shards = {"a.safetensors": list(file)[::2], "b.safetensors": list(file)[1::2]}
    for shard, names in shards.items():
        save_file({name: file[name] for name in names}, folder / shard)
    index = {"weight_map": {name: shard for shard, names in shards.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load(folder)
    assert_same_bits(model.state_dict(), loaded.state_dict())
    assert not any(x.is_meta for x in loaded.buffers())


def test_header_tells_other_tools_what_is_packed(quantized, tmp_path) -> None:
    config = json.loads((save(quantized("w3a3"), tmp_path / "small") / "config.json").read_text())
    block = config["quantization_config"]
    assert block["quant_method"] == "compressed-tensors"
    assert block["format"] == "pack-quantized"
    (group,) = block["config_groups"].values()
    assert group["targets"] == list(config["sites"])
    assert group["weights"]["num_bits"] == 3
    assert group["input_activations"]["num_bits"] == 3
    assert config["sites"][group["targets"][0]]["weight_bits"] == 3


@SLOW_HERE
def test_float8_has_a_version_of_its_own_and_integers_keep_theirs(quantized, tmp_path, monkeypatch) -> None:
    model = quantized("w4a4")
    integers = save(model, tmp_path / "integers")
    name = "aggregator.global_blocks.1.mlp.fc2"
    layer = QuantLinear.from_float(torch.nn.Linear(128, 32), Scheme.parse("w8a8-fp8"))
    model.set_submodule(name, layer)
    mixed = save(model, tmp_path / "mixed")
    configs = [json.loads((folder / "config.json").read_text()) for folder in (integers, mixed)]
    assert [config["format_version"] for config in configs] == [2, 3]
    assert configs[1]["sites"][name] == {
        "weight_bits": 8, "act_bits": 8, "shape": [32, 128], "granularity": "-fp8",
        "rotation": False, "smoothing": False, "input_clip": False,
    }  # fmt: skip
    with safe_open(mixed / "model.safetensors", framework="pt") as file:
        assert file.get_slice(f"{name}.weight").get_dtype() == "F8_E4M3"
    assert_same_bits(model.state_dict(), load(mixed).state_dict())
    monkeypatch.setattr("quantvggt.checkpoint.config.FORMAT_VERSION", 2)  # as older releases read them
    load(integers)
    with pytest.raises(InputError, match="format version 3 is newer than the 2 that this quantvggt reads; upgrade"):
        load(mixed)


def test_other_tools_are_told_of_float8(quantized, tmp_path) -> None:
    config = json.loads((save(quantized("w8a8-fp8"), tmp_path / "small") / "config.json").read_text())
    block = config["quantization_config"]
    (group,) = block["config_groups"].values()
    assert block["format"] == group["format"] == "float-quantized"
    assert group["weights"] == {
        "num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False
    }  # fmt: skip
    assert group["input_activations"] == {
        "num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True
    }  # fmt: skip


def test_loading_float8_says_once_where_it_is_slow(quantized, tmp_path, monkeypatch) -> None:
    folder = save(quantized("w8a8-fp8"), tmp_path / "small")
    words = r"w8a8-fp8 is for NVIDIA GPUs with fp8 .* and bfloat16; on cpu in {} it runs slower than the float model"
    for dtype, name in ((None, "float32"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        with pytest.warns(UserWarning, match=words.format(name)) as caught:
            load(folder, dtype=dtype)
        assert len(caught) == 1
    monkeypatch.setattr(ScaledMM, "available", lambda self, device: (True, "as if it were a GPU"))
    with pytest.warns(UserWarning, match=words.format("float32")):
        load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, dtype=torch.bfloat16)


def test_dtype_argument_converts_floats_but_not_the_format(quantized, tmp_path) -> None:
    loaded = load(save(quantized("w8a8"), tmp_path / "small"), dtype=torch.bfloat16)
    site = loaded.get_submodule("aggregator.frame_blocks.0.attn.qkv")
    assert site.weight.dtype == torch.int8
    assert site.weight_scale.dtype == site.input_smooth.dtype == site.input_clip.dtype == torch.float32
    assert site.bias.dtype == loaded.aggregator.camera_token.dtype == torch.bfloat16


def test_float_dtype_stores_smaller_and_loads_as_the_model_was(tiny, tmp_path) -> None:
    folder = save(tiny, tmp_path / "half", float_dtype=torch.float16)
    assert {x.dtype for x in load_file(folder / "model.safetensors").values()} == {torch.float16}
    loaded = load(folder)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, tiny.state_dict()[name].half().float()), name
    with torch.no_grad():
        tiny.aggregator.camera_token.fill_(1e6)
    with pytest.raises(InputError, match=r"aggregator.camera_token holds numbers beyond the range of float16"):
        save(tiny, tmp_path / "overflow", float_dtype=torch.float16)
    assert not (tmp_path / "overflow").exists()


def test_no_tensor_is_left_without_memory(quantized, tmp_path) -> None:
    loaded = load(save(quantized("w4a4"), tmp_path / "small"))
    assert not any(x.is_meta for x in (*loaded.parameters(), *loaded.buffers()))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_unconverted_weights_are_mapped_not_copied(tiny, tmp_path) -> None:
    path = save(tiny, tmp_path / "float") / "model.safetensors"
    torch.save(tiny.state_dict(), tmp_path / "float" / "model.pt")
    for file in (path, path.with_name("model.pt")):
        loaded = load(file)
        lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line]
        ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines]
        for parameter in loaded.parameters():
            assert any(low <= parameter.data_ptr() < high for low, high in ranges)


def test_published_kinds_of_files(tiny, images, tmp_path) -> None:
    """A torch file and a safetensors file by other hands, with our config beside them."""
    config = (save(tiny, tmp_path / "float") / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    torch.save(tiny.state_dict(), tmp_path / "model.pt")
    torch.save({"model": tiny.state_dict(), "epoch": 3}, tmp_path / "trained.pt")
    save_file(tiny.state_dict(), tmp_path / "other.safetensors")
    for name in (tmp_path, tmp_path / "model.pt", tmp_path / "trained.pt", tmp_path / "other.safetensors"):
        loaded = load(name)
        assert_same_bits(tiny.state_dict(), loaded.state_dict())
        assert_same_outputs(tiny, loaded, images)


def test_overwriting_keeps_the_neighbours(tiny, tmp_path) -> None:
    folder = save(tiny, tmp_path / "float")
    (folder / "README.md").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("too")
    with pytest.raises(InputError, match="already holds a checkpoint; pass overwrite=True"):
        save(tiny, folder)
    loaded = load(folder)  # its weights are mapped from the file that is replaced now
    save(loaded, folder, overwrite=True)
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "notes" / "a.txt").read_text() == "too"
    assert_same_bits(tiny.state_dict(), load(folder).state_dict())


def test_other_folders_are_never_replaced(tiny, tmp_path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds something that is no checkpoint; name a new folder"):
            save(tiny, folder, overwrite=overwrite)
    with pytest.raises(InputError, match="it is a file; name a folder"):
        save(tiny, folder / "a.jpg", overwrite=True)
    assert sorted(folder.iterdir()) == [folder / "a.jpg"]
    (tmp_path / "empty").mkdir()
    save(tiny, tmp_path / "empty")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == ["config.json", "model.safetensors"]


def test_failed_save_leaves_the_old_checkpoint(tiny, tmp_path, monkeypatch) -> None:
    folder = save(tiny, tmp_path / "float")
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(*arguments: object, **keywords: object) -> None:
        Path(arguments[0]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quantvggt.checkpoint.save.write_safetensors", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        save(tiny, folder, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["float"]


def test_models_that_cannot_be_stored(tiny, quantized, tmp_path) -> None:
    tiny.aggregator.camera_token.data = tiny.aggregator.camera_token.data.double()
    with pytest.raises(InputError, match=r"mixed types \(float32, float64\)"):
        save(tiny, tmp_path / "mixed")
    tiny.aggregator.float()
    model = quantized("w8a8")
    model.quantization = None
    with pytest.raises(InputError, match=r"model.quantization must be set exactly if"):
        save(model, tmp_path / "unrecorded")
    with pytest.raises(InputError, match="on the meta device"):
        save(type(tiny)(tiny.config).to("meta"), tmp_path / "meta")
    assert list(tmp_path.iterdir()) == []
