"""The same weights laid out by others: under a prefix, nested, in shards with an index."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantvggt.checkpoint.layouts import shared_prefixes
from quantvggt.checkpoint.load import infer_config, load
from quantvggt.checkpoint.locate import stored_bytes
from quantvggt.checkpoint.save import save
from quantvggt.checkpoint.weights import TensorInfo
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT, VGGTConfig

State = dict[str, Tensor]


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "wrapped": lambda state: {"model": prefixed(state, "module."), "optimizer": {"step": 3, "lr": [1e-3]}},
    "lightning": lambda state: {"state_dict": prefixed(state, "model."), "epoch": 1},
    "twice": lambda state: {"state_dict": {"model": state}},
    "compiled": lambda state: {"model_state_dict": prefixed(state, "module._orig_mod.")},
    "bare": lambda state: prefixed(state, "vggt."),
}


@pytest.fixture
def config(tiny: VGGT, tmp_path: Path) -> Path:
    """An empty folder but for the config.json of `tiny`."""
    (tmp_path / "theirs").mkdir()
    return (save(tiny, tmp_path / "ours") / "config.json").rename(tmp_path / "theirs" / "config.json")


def same(model: VGGT, state: State) -> bool:
    found = model.state_dict()
    return list(found) == list(state) and all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_torch_files_of_trainers(tiny: VGGT, config: Path, layout: str) -> None:
    path = config.with_name("trained.pt")
    torch.save(LAYOUTS[layout](tiny.state_dict()), path)
    assert same(load(path), tiny.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "a.b.c."])
def test_a_shared_prefix_in_safetensors(tiny: VGGT, config: Path, prefix: str) -> None:
    save_file(prefixed(tiny.state_dict(), prefix), config.with_name("model.safetensors"))
    assert same(load(config.parent), tiny.state_dict())


def test_what_does_not_fit_is_named_without_the_prefix(tiny: VGGT, config: Path) -> None:
    state = prefixed(tiny.state_dict(), "module.")
    token = state.pop("module.aggregator.camera_token")
    torch.save({"model": state | {"module.loss.weight": token}}, config.with_name("model.pt"))
    with pytest.raises(
        InputError, match=r"1 missing tensors \(aggregator.camera_token\) and 1 unexpected tensors \(loss.weight\)"
    ):
        load(config.parent)


def test_a_prefix_that_one_name_lacks_stays(tiny: VGGT, config: Path) -> None:
    state = prefixed(tiny.state_dict(), "module.") | {"epoch": torch.ones(1)}
    save_file(state, config.with_name("model.safetensors"))
    with pytest.raises(InputError, match=r"missing tensors \(aggregator.* unexpected tensors \(.*module.aggregator"):
        load(config.parent)


def test_a_prefix_that_belongs_to_the_names_stays(tiny: VGGT, tmp_path: Path) -> None:
    config = VGGTConfig.from_dict({**tiny.config.to_dict(), "heads": []})
    model = VGGT(config)
    assert all(name.startswith("aggregator.") for name in model.state_dict())
    assert same(load(save(model, tmp_path / "trunk")), model.state_dict())


def test_prefixes_of_names() -> None:
    assert shared_prefixes(["a.b.c", "a.b.d.e", "a.b.cc"]) == ["", "a.", "a.b."]
    assert shared_prefixes(["ab.c", "a.c"]) == [""]
    assert shared_prefixes(["a.b", "a"]) == [""]
    assert shared_prefixes(["a.b"]) == ["", "a."]
    assert shared_prefixes([]) == [""]
    assert len(shared_prefixes(["a." * 10**6])) == 5


def test_vggt_1b_is_recognised_behind_a_prefix() -> None:
    with torch.device("meta"):
        model = VGGT(VGGTConfig.vggt_1b())
    infos = {f"module.model.{name}": TensorInfo(tuple(x.shape), x.dtype) for name, x in model.state_dict().items()}
    assert infer_config(infos) == VGGTConfig.vggt_1b()
    few = {name: info for name, info in infos.items() if "track_head" not in name}
    assert infer_config(few).heads == ("camera", "depth", "point")


def shard(state: State, folder: Path, count: int = 3, torch_files: bool = False) -> Path:
    """Write `state` as transformers does; returns the index."""
    stem, suffix = ("pytorch_model", "bin") if torch_files else ("model", "safetensors")
    where = {name: f"{stem}-{1 + i % count:05d}-of-{count:05d}.{suffix}" for i, name in enumerate(state)}
    for file in set(where.values()):
        part = {name: value for name, value in state.items() if where[name] == file}
        if torch_files:
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


@pytest.mark.parametrize("torch_files", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_shards_read_as_one(tiny: VGGT, config: Path, prefix: str, torch_files: bool) -> None:
    index = shard(prefixed(tiny.state_dict(), prefix), config.parent, torch_files=torch_files)
    for name in (config.parent, index):
        assert same(load(name), tiny.state_dict())
        assert stored_bytes(name) == sum(file.stat().st_size for file in config.parent.iterdir())


def test_a_quantized_model_in_shards(quantized: Callable[..., VGGT], images: Tensor, tmp_path: Path) -> None:
    model = quantized("w4a4-static", everything=True)
    (tmp_path / "theirs").mkdir()
    ours = save(model, tmp_path / "ours")
    (ours / "config.json").rename(tmp_path / "theirs" / "config.json")
    shard(load_file(ours / "model.safetensors"), tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert same(loaded, model.state_dict())
    with torch.inference_mode():
        before, after = model(images), loaded(images)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
@pytest.mark.parametrize("torch_files", [False, True])
def test_shards_behind_a_prefix_are_mapped_not_copied(tiny: VGGT, config: Path, torch_files: bool) -> None:
    shard(prefixed(tiny.state_dict(), "module."), config.parent, torch_files=torch_files)
    loaded = load(config.parent)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "-of-0000" in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    for parameter in loaded.parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges)


def test_missing_shards_are_named(tiny: VGGT, config: Path) -> None:
    shard(tiny.state_dict(), config.parent)
    (config.parent / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"index.json: 1 of its 3 files are missing \(model-00002-of-00003.safetens"):
        load(config.parent)


def test_a_shard_of_another_model(tiny: VGGT, config: Path) -> None:
    index = shard(tiny.state_dict(), config.parent)
    save_file({"other.weight": torch.ones(2)}, config.parent / "model-00003-of-00003.safetensors")
    with pytest.raises(InputError, match=r"00003.safetensors and model.safetensors.index.json disagree about \d+ tens"):
        load(index)
