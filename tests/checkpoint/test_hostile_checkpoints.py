"""Wrong, damaged and malicious files: one clear line each, nothing run, nothing allocated."""

import io
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantvggt.calibrate.pipeline import quantize
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.save import save
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT, VGGTConfig
from tiny import tiny_clip, tiny_model


def refuse(name, words: str) -> str:
    with pytest.raises(InputError, match=words) as caught:
        load(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(quantized, tmp_path):
    """A good W4A4 checkpoint to spoil."""
    return save(quantized("w4a4"), tmp_path / "small")


def edit_config(folder, change) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_tensors(folder, change) -> None:
    path = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


SITE = "aggregator.frame_blocks.0.attn.qkv"


def test_nothing_there(tmp_path) -> None:
    refuse(tmp_path / "nowhere", "no checkpoint at .*nowhere: give a file, a folder, a hub id")
    refuse(tmp_path, "is not a checkpoint: it holds neither model.safetensors nor model.pt")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    refuse(tmp_path / "photo.jpg", "photo.jpg is no checkpoint: name a .safetensors or .pt file")


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated_safetensors(folder, size) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refuse(folder, "model.safetensors is no whole safetensors file .*truncated or damaged, fetch it again")


def test_header_that_claims_a_giant(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refuse(folder, "is no whole safetensors file")


def test_shape_that_claims_more_than_the_file_holds(folder, raw_safetensors) -> None:
    raw_safetensors(folder / "model.safetensors", {"a": ("F32", [10**9, 10**9], b"\0" * 8)})
    refuse(folder, "is no whole safetensors file")


def test_unknown_tensor_type(folder, raw_safetensors) -> None:
    raw_safetensors(folder / "model.safetensors", {"a": ("F8_E5M2", [4], b"\0" * 4)})
    refuse(folder, "a is of type F8_E5M2, which no VGGT checkpoint uses")


def test_float8_weights_that_cannot_be(quantized, tmp_path) -> None:
    folder = save(quantized("w8a8-fp8"), tmp_path / "float8")
    original = load_file(folder / "model.safetensors")
    name = f"{SITE}.weight"
    for code in (0x7F, 0xFF):
        bytes_ = original[name].view(torch.uint8).clone()
        bytes_[5, 7] = code
        save_file({**original, name: bytes_.view(torch.float8_e4m3fn)}, folder / "model.safetensors")
        refuse(folder, f"{name} holds impossible values, each must be a number, not NaN; the file is damaged")
    for wrong, words in (
        (original[name].view(torch.int8), r"torch.int8, expected torch.float8_e4m3fn"),
        (original[name].to(torch.float16), r"torch.float16, expected torch.float8_e4m3fn"),
        (
            original[name].view(torch.uint8)[:, :31].contiguous().view(torch.float8_e4m3fn),
            r"\[96, 31\], expected \[96, 32\]",
        ),
    ):
        save_file({**original, name: wrong}, folder / "model.safetensors")
        refuse(folder, f"{name} (is|has shape) {words}")


def test_missing_unexpected_and_misshapen_tensors(folder) -> None:
    def rename(tensors):
        tensors["extra.weight"] = tensors.pop("aggregator.camera_token")

    edit_tensors(folder, rename)
    refuse(
        folder,
        r"1 missing tensors \(aggregator.camera_token\) and 1 unexpected tensors \(extra.weight\); the files do",
    )

    def reshape(tensors):
        tensors["aggregator.camera_token"] = tensors.pop("extra.weight")[..., :5].contiguous()

    edit_tensors(folder, reshape)
    refuse(folder, r"aggregator.camera_token has shape \[1, 2, 1, 5\], expected \[1, 2, 1, 32\]")


def test_tensors_of_the_wrong_type(folder) -> None:
    original = load_file(folder / "model.safetensors")
    for name, dtype, words in (
        (f"{SITE}.weight_packed", torch.float32, "torch.float32, expected torch.int32"),
        (f"{SITE}.weight_scale", torch.float16, "torch.float16, expected torch.float32"),
        (f"{SITE}.bias", torch.int32, "torch.int32, expected floating point"),
        (f"{SITE}.bias", torch.float8_e4m3fn, "torch.float8_e4m3fn, expected floating point of 16 to 64 bits"),
    ):
        save_file({**original, name: original[name].to(dtype)}, folder / "model.safetensors")
        refuse(folder, f"{name} is {words}")


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation_signs", 0), ("weight_scale", float("nan")), ("input_smooth", -1.0), ("input_clip", 1.5)],
)
def test_impossible_values(folder, name, value) -> None:
    edit_tensors(
        folder, lambda tensors: tensors[f"{SITE}.{name}"].view(-1)[3 if name != "input_clip" else 1].fill_(value)
    )
    refuse(folder, f"{SITE}.{name} holds impossible values")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_shift", float("nan")),
        ("input_presmooth", 0.0),
        ("input_left", float("inf")),
        ("input_right", -float("inf")),
        ("input_range", -1.0),
        ("input_range", float("inf")),
    ],
)
def test_impossible_values_of_the_rarer_tensors(quantized, tmp_path, name, value) -> None:
    folder = save(quantized("w4a4-static", everything=True), tmp_path / "small")
    load(folder)
    edit_tensors(folder, lambda tensors: tensors[f"{SITE}.{name}"].view(-1)[2].fill_(value))
    refuse(folder, f"{SITE}.{name} holds impossible values")


def test_a_range_must_have_the_shape_that_the_record_says(quantized, tmp_path) -> None:
    folder = save(quantized("w4a4-static"), tmp_path / "small")
    for shape, words in (
        ([12, 2], r"input_range has shape \[11, 2\], expected \[12, 2\]"),
        ([11, 3], r"needs \[11, 2\]"),
    ):

        def change(values, shape=shape):
            values["sites"][SITE]["tensors"]["input_range"] = shape

        edit_config(folder, change)
        refuse(folder, words)


def with_a_branch(tmp_path):
    """A checkpoint whose layers have low-rank branches, and a record and the tensors of one of them to spoil."""
    return save(quantize(tiny_model(), "w4a4", "best", [tiny_clip("a", 2)], progress=False), tmp_path / "small")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("branch_scale"), "a low-rank branch has input_basis, .*branch_scale"),
        (lambda tensors: tensors.pop("input_basis"), "a low-rank branch has input_basis, .*branch_scale"),
        (lambda tensors: tensors.update(input_basis=[64, 8], branch_weight=[192, 8]), "one of the ranks"),
        (lambda tensors: tensors.update(branch_weight=[192, 32]), "branch_weight has shape"),
        (lambda tensors: tensors.update(input_basis=[10**9, 10**9]), "input_basis has shape"),
    ],
)
def test_a_branch_that_is_not_whole(tmp_path, change, words) -> None:
    folder = with_a_branch(tmp_path)
    edit_config(folder, lambda values: change(values["sites"][SITE]["tensors"]))
    refuse(folder, words)


@pytest.mark.parametrize(
    ("name", "value"), [("branch_scale", -1.0), ("branch_scale", torch.nan), ("input_basis_scale", 0.0)]
)
def test_impossible_values_of_a_branch(tmp_path, name, value) -> None:
    folder = with_a_branch(tmp_path)
    edit_tensors(folder, lambda tensors: tensors[f"{SITE}.{name}"].fill_(value))
    refuse(folder, f"{SITE}.{name}|{name}")


def test_weight_shape_must_agree_with_the_config(folder) -> None:
    edit_tensors(folder, lambda tensors: tensors[f"{SITE}.weight_shape"].copy_(torch.tensor([96, 31])))
    refuse(folder, rf"{SITE}.weight_shape is \[96, 31\], but config.json says \[96, 32\]")


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (["format_version"], 4, "format version 4 is newer than the 3 that this quantvggt reads; upgrade"),
        (["format_version"], "1", "format_version must be a whole number"),
        (["dtype"], "int7", "dtype must be one of float32"),
        (["surprise"], 1, r"unknown keys \['surprise'\]"),
        (["model", "depth"], 3, "missing tensors"),
        (["model", "depth"], 10**12, "asks for more blocks than model.safetensors has tensors"),
        (["model", "embed_dim"], 10**15, "make no model|has shape"),
        (["model", "embed_dim"], "wide", "embed_dim must be a positive whole number"),
        (["model", "heads"], ["camera"], "unexpected tensors"),
        (["model", "dpt_out_channels"], [1, 2, "x", 3], "make no model"),
        (["model", "no_such"], 1, "model config has unknown keys: no_such"),
        (["model"], [1], "'model' must be a JSON object"),
        (["quantization"], None, "'quantization' and 'sites' must be given together"),
        (["quantization", "scheme", "version"], 9, "scheme version 9"),
        (["quantization", "scheme", "name"], "w9a9", "w9a9"),
        (["quantization", "method"], 5, "method"),
        (["sites", "camera_head.embed_pose"], "site", "is no quantizable layer of this model"),
        (["sites", SITE, "weight_bits"], 64, "weight_bits is 64"),
        (["sites", SITE, "weight_bits"], 8, f"missing tensors .*{SITE}.weight"),
        (["sites", SITE, "shape"], [95, 32], r"has shape \[95, 32\], but the model's is \[96, 32\]"),
        (["sites", SITE, "shape"], [-96, 32], "shape must be two positive whole numbers"),
        (["sites", SITE, "shape"], 7, "damaged or was edited by hand"),
        (["sites", SITE, "rotation"], False, "unexpected tensors"),
        (["sites", SITE, "rotation"], "yes", "must be true or false"),
        (["sites", SITE, "colour"], "red", r"unknown keys \['colour'\]"),
        (["sites", SITE, "granularity"], "-tensor-s8", "dynamic per-token scales"),
        (["sites", SITE, "granularity"], "-s16", "unknown scheme 'w4a4-s16'"),
        (["sites", SITE, "granularity"], "-fp8", "fp8 is for w8a8 with dynamic per-token scales"),
        (["sites", SITE, "granularity"], "-static", "w4a4-static needs an input range"),
        (["sites", SITE, "granularity"], "8", "granularity must be text like '-static'"),
        (["sites", SITE, "granularity"], ["-static"], "granularity must be text like '-static'"),
        (["sites", SITE, "tensors"], {"input_range": [1, 2]}, "w4a4 has no use for an input range"),
        (["sites", SITE, "tensors"], {"input_smooth": [32]}, "tensors name optional tensors"),
        (["sites", SITE, "tensors"], {"weight": [96, 32]}, "tensors name optional tensors"),
        (["sites", SITE, "tensors"], ["input_shift"], "'tensors' must be a JSON object"),
        (["sites", SITE, "tensors"], {"input_shift": [32]}, rf"missing tensors \({SITE}.input_shift\)"),
        (["sites", SITE, "tensors"], {"input_shift": [31]}, r"input_shift has shape \[31\]; this layer needs \[32\]"),
        (["sites", SITE, "tensors"], {"input_shift": [32, 1]}, "one positive whole numbers"),
        (["sites", SITE, "tensors"], {"input_left": [4, 4]}, "don't make a map of 32 channels"),
        (["sites", SITE, "tensors"], {"input_left": [10**9] * 2, "input_right": [10**9] * 2}, "input_right has shape"),
        (["sites", SITE, "tensors"], {"input_left": [4, True], "input_right": [8, 8]}, "whole numbers"),
    ],
)
def test_config_that_is_wrong(folder, keys, value, words) -> None:
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = {**next(iter(values.values()))} if value == "site" else value

    edit_config(folder, change)
    refuse(folder, words)


@pytest.mark.parametrize("version", [1, 2])
def test_widths_that_the_other_version_has(quantized, tmp_path, version) -> None:
    folder = save(quantized("w3a3"), tmp_path / "small")
    wide = torch.zeros(96, 4, dtype=torch.int32)
    if version == 2:
        edit_tensors(folder, lambda tensors: tensors.update({f"{SITE}.weight_packed": wide}))
    edit_config(folder, lambda values: values.update(format_version=version))
    refuse(folder, r"weight_packed has shape \[96, (3\], expected \[96, 4|4\], expected \[96, 3)\]")


def test_config_that_is_no_json(folder) -> None:
    path = folder / "config.json"
    good = path.read_bytes()
    for text in (good[:-20], b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(text)
        refuse(folder, "config.json is not valid JSON .*fetch it again")


def test_missing_config_asks_for_it(folder) -> None:
    (folder / "config.json").unlink()
    refuse(folder, "only published sizes can be recognised .*: put one there")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    refuse(folder, "only published sizes can be recognised .*: put one there")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_never_runs(tiny, tmp_path) -> None:
    trap = tmp_path / "trap"
    torch.save({**tiny.state_dict(), "x": Bomb(trap)}, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", "holds Python objects beside its tensors, which would run code; it is not loaded")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"x": Bomb(trap)}))
    refuse(tmp_path / "old.pt", "not a PyTorch checkpoint, or one from before PyTorch 1.6")
    (tmp_path / "config.json").write_text("cos\nmkdir\n(S'trap'\ntR.")
    refuse(tmp_path / "model.pt", ".")
    assert not trap.exists()


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_truncated_torch_file(tiny, tmp_path, keep) -> None:
    path = tmp_path / "model.pt"
    torch.save(tiny.state_dict(), path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw))])
    refuse(path, "model.pt is no whole PyTorch checkpoint .*truncated or damaged, fetch it again")


def test_torch_files_that_hold_something_else(tmp_path) -> None:
    path = tmp_path / "x.pt"
    for content in ([1, 2], {}, torch.zeros(3)):
        torch.save(content, path)
        refuse(path, "holds no state dict")
    sparse = torch.eye(3).to_sparse()
    stretched = torch.empty(0).set_(torch.zeros(1).untyped_storage(), 0, (10**6, 10**6), (0, 0))
    for content in (
        {"a": 1},
        {1: torch.zeros(2)},
        {"a": sparse},
        {"a": torch.zeros(2, device="meta")},
        {"a": stretched},
    ):
        torch.save(content, path)
        refuse(path, "is not an ordinary tensor")
    torch.save({"a": torch.zeros(2)}, path)
    refuse(path, "missing tensors .* only published sizes can be recognised")


def test_a_zip_that_is_no_checkpoint(tmp_path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    refuse(tmp_path / "x.pt", "is no whole PyTorch checkpoint")


SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture
def index(folder):
    """The same checkpoint in one shard with an index."""
    path = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / SHARD)
    path.write_text(json.dumps({"weight_map": dict.fromkeys(load_file(folder / SHARD), SHARD)}))
    load(folder)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../small/model-00001-of-00001.safetensors",
        "./model-00001-of-00001.safetensors",
        "/etc/passwd",
        "/dev/zero.safetensors",
        "sub/x.safetensors",
        "sub\\x.safetensors",
        "..",
        "",
        ".safetensors",
        "config.json",
        "model.safetensors.index.json",
        "x.safetensors\n",
        "x\0.safetensors",
        "~root.safetensors",
        "https://example.org/x.safetensors",
        5,
        None,
        ["x.safetensors"],
    ],
)
def test_index_that_names_anything_but_a_file_beside_it(index, name) -> None:
    entries = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": entries | {"a": name}}))
    refuse(index, "index.json: 'a' lies in .* which is not the name of a weights file beside it")
    refuse(index.parent, "which is not the name of a weights file beside it")


@pytest.mark.parametrize("content", [[], {}, {"weight_map": {}}, {"weight_map": [SHARD]}, {"weight_map": SHARD}, 7])
def test_index_without_a_map(index, content) -> None:
    index.write_text(json.dumps(content))
    refuse(index, "is no index of a checkpoint: it has no weight_map")


def test_index_that_is_no_json_or_has_no_bounds(index) -> None:
    good = index.read_bytes()
    for text in (good[:-20], b"\xff\xfe", b"[" * 100_000):
        index.write_bytes(text)
        refuse(index, "index.json is not valid JSON .*fetch it again")
    with index.open("wb") as file:
        file.truncate(2**40)  # a hole, not a terabyte
    refuse(index, "index.json: larger than 16777216 bytes")
    index.write_text(json.dumps({"weight_map": {f"a{i}": f"{i}.safetensors" for i in range(1001)}}))
    refuse(index, "names 1001 files; no checkpoint has more than 1000")


def test_index_and_shard_that_differ(index) -> None:
    entries = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": entries | {"extra.weight": SHARD}}))
    refuse(index, r"00001.safetensors and model.safetensors.index.json disagree about 1 tensors \(extra.weight\)")
    del entries[f"{SITE}.bias"]
    index.write_text(json.dumps({"weight_map": entries}))
    refuse(index, rf"disagree about 1 tensors \({SITE}.bias\)")
    (index.parent / SHARD).write_bytes((index.parent / SHARD).read_bytes()[:5000])
    refuse(index, f"{SHARD} is no whole safetensors file")
    (index.parent / SHARD).unlink()
    (index.parent / SHARD).mkdir()
    refuse(index, rf"1 of its 1 files are missing \({SHARD}\)")


def test_torch_file_that_holds_itself(tmp_path) -> None:
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "x.pt")
    refuse(tmp_path / "x.pt", "'model' is not an ordinary tensor")


def test_unusable_dtype_and_device(folder) -> None:
    with pytest.raises(InputError, match="dtype must be auto, mixed, or one of float32"):
        load(folder, dtype=torch.int8)
    with pytest.raises(InputError, match="device 'abacus' cannot be used here"):
        load(folder, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"device 'cuda' cannot be used here .*; use cpu"):
            load(folder, device="cuda")


def test_vggt_1b_is_recognised_by_its_shapes_alone(tmp_path) -> None:
    """Without reading 5 GB: the header of a file with VGGT-1B's names, but one tensor short."""
    from quantvggt.checkpoint.load import infer_config
    from quantvggt.checkpoint.weights import TensorInfo

    with torch.device("meta"):
        model = VGGT(VGGTConfig.vggt_1b())
    infos = {name: TensorInfo(tuple(x.shape), x.dtype) for name, x in model.state_dict().items()}
    assert infer_config(infos) == VGGTConfig.vggt_1b()
    without = {name: info for name, info in infos.items() if not name.startswith(("track_head", "point_head"))}
    assert infer_config(without).heads == ("camera", "depth")
