"""The hub without a network: what is asked for, in which order, and what a user reads when it fails."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from quantvggt.checkpoint.hub import is_repo_id
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.save import save
from quantvggt.core.errors import InputError


def http_error(kind, message="x"):
    """The hub's HTTP errors want a response; only its fields are read."""
    response = SimpleNamespace(headers={}, request=None, status_code=404, url="")
    return kind(message, response=response)


@pytest.fixture
def hub(monkeypatch):
    """hub(files or error): pretend that the repository holds these files, or always fails so."""

    def pretend(content) -> list[str]:
        asked = []

        def download(repo_id, filename):
            asked.append(filename)
            if isinstance(content, Exception):
                raise content
            if filename not in content:
                raise errors.EntryNotFoundError("no such file")
            return str(content[filename])

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return asked

    return pretend


def test_safetensors_come_before_torch_files(hub, tiny, tmp_path) -> None:
    folder = save(tiny, tmp_path / "snapshot")
    asked = hub({path.name: path for path in folder.iterdir()})
    assert load("somebody/tiny-vggt").config == tiny.config
    assert asked == ["config.json", "model.safetensors"]


def test_torch_file_without_config(hub, tmp_path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    asked = hub({"model.pt": tmp_path / "model.pt"})
    with pytest.raises(InputError, match=r"model.pt is no whole PyTorch checkpoint"):
        load("facebook/VGGT-1B")
    assert asked == ["config.json", "model.safetensors", "model.pt"]


def test_shards_are_fetched_by_their_index(hub, tiny, tmp_path) -> None:
    folder = save(tiny, tmp_path / "snapshot")
    state, files = load_file(folder / "model.safetensors"), [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / "model.safetensors").unlink()
    where = {name: files[i % 2] for i, name in enumerate(state)}
    for file in files:
        save_file({name: value for name, value in state.items() if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    asked = hub({path.name: path for path in folder.iterdir()})
    loaded = load("somebody/tiny-vggt").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in tiny.state_dict().items())
    assert asked == ["config.json", "model.safetensors", "model.pt", "model.safetensors.index.json", *files]

    hub({path.name: path for path in folder.iterdir() if path.name != files[1]})
    with pytest.raises(InputError, match=f"lacks {files[1]}, which its model.safetensors.index.json names"):
        load("somebody/tiny-vggt")


def test_nothing_is_fetched_for_an_index_of_tricks(hub, tmp_path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "../../x.safetensors"}}))
    asked = hub({index.name: index, "x.safetensors": index})
    with pytest.raises(InputError, match="not the name of a weights file beside it"):
        load("somebody/tricks")
    assert "x.safetensors" not in asked


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.LocalEntryNotFoundError("offline"), "the Hugging Face hub cannot be reached .* connect to the network"),
        (errors.OfflineModeIsEnabled("offline"), "the Hugging Face hub cannot be reached"),
        (ConnectionError("no route"), "the Hugging Face hub cannot be reached"),
        (errors.HFValidationError("bad id"), "neither a local path nor a hub repository"),
        (http_error(errors.RepositoryNotFoundError), "neither a local path nor a hub repository .*check the spelling"),
        (http_error(errors.GatedRepoError), "is gated: accept its terms"),
    ],
)
def test_one_clear_line_when_it_fails(hub, error, words) -> None:
    hub(error)
    with pytest.raises(InputError, match=words) as caught:
        load("facebook/VGGT-1B")
    assert "facebook/VGGT-1B" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_repository_without_weights(hub) -> None:
    hub({})
    with pytest.raises(InputError, match=r"holds neither model.safetensors nor model.pt"):
        load("somebody/photos")


def test_what_reads_as_a_hub_id() -> None:
    assert is_repo_id("facebook/VGGT-1B")
    for name in (
        "VGGT-1B",
        "/tmp/x",
        "./a/b",
        "a/b/c",
        "../a",
        "a\\b",
        "runs/model.pt",
        "x/y.safetensors",
        "x/y.index.json",
        "",
    ):
        assert not is_repo_id(name)
