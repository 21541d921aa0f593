"""A store gives back what this task has put there, and nothing else."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.jobs.store import Store, discard, read_entry, task_of

TENSORS = {
    "a": torch.arange(6, dtype=torch.int8).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "none": torch.zeros(0, 4),
}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def test_values_and_tensors_come_back_to_their_task_only(tmp_path: Path) -> None:
    store, other = (
        Store(tmp_path / "new" / "folder", "one", "kept-"),
        Store(tmp_path / "new" / "folder", "two", "kept-"),
    )
    assert store.read("x.json") is store.read_tensors("x.safetensors") is None
    store.write("x.json", {"losses": [0.1, 1e-300]})
    store.write_tensors("x.safetensors", TENSORS, {"shape": [1, 2]})
    assert sorted(path.name for path in store.folder.iterdir()) == ["kept-x.json", "kept-x.safetensors"]
    for again in (store, Store(store.folder, "one", "kept-")):
        assert again.read("x.json") == {"losses": [0.1, 1e-300]}
        tensors, values = again.read_tensors("x.safetensors") or ({}, None)
        assert values == {"shape": [1, 2]}
        assert_same(tensors, TENSORS)
    assert other.read("x.json") is other.read_tensors("x.safetensors") is None
    other.write("x.json", 3)
    assert (store.read("x.json"), other.read("x.json")) == (None, 3)
    assert store.read_tensors("x.safetensors") is not None, "entries are replaced one by one"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"task": 1, "values": 2}', b'{"task": "one"}'])
def test_what_is_no_entry_is_passed_over_and_replaced(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path, "one")
    for name in ("x.json", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
    assert read_entry(tmp_path / "x.json") is None
    assert store.read("x.json") is store.read_tensors("x.safetensors") is None
    store.write("x.json", [])
    store.write_tensors("x.safetensors", TENSORS)
    assert store.read("x.json") == []
    assert_same((store.read_tensors("x.safetensors") or ({},))[0], TENSORS)


def test_a_failed_write_leaves_the_old_entry(tmp_path: Path) -> None:
    store = Store(tmp_path, "one")
    store.write("x.json", 1)
    with pytest.raises(TypeError):
        store.write("x.json", object())
    assert store.read("x.json") == 1
    assert os.listdir(tmp_path) == ["x.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose an output path you may write"):
        Store(tmp_path / "file", "one").write("x.json", 1)


def test_tensors_are_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> tuple[dict[str, Tensor], str]:
        made.append(1)
        return TENSORS, "beside"

    for store in (Store(tmp_path, "one"), Store(tmp_path, "one"), Store(tmp_path, "two")):
        tensors, values = store.tensors("x.safetensors", make)
        assert_same(tensors, TENSORS)
        assert values == "beside"
    assert len(made) == 2


def test_discard_removes_what_stores_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    for task in ("one", "two"):
        Store(folder, task, "kept-").write(f"{task}.json", task)
        Store(folder, task, "kept-").write_tensors(f"{task}.safetensors", TENSORS)
    (folder / ".kept-x.json.a1b").write_text("what a killed run was writing")
    for name in ("kept-notes.txt", "mine.json", ".mine.json.a1b"):
        (folder / name).write_text("mine")
    discard(folder, "kept-")
    assert sorted(os.listdir(folder)) == [".mine.json.a1b", "kept-notes.txt", "mine.json"]
    for name in os.listdir(folder):
        (folder / name).unlink()
    discard(folder, "kept-")
    assert not folder.exists()
    discard(folder, "kept-")


def test_tasks_differ_where_anything_differs() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])
    tasks = [
        task_of({"a": 1, "b": 2}),
        task_of({"a": 1, "b": 3}),
        task_of({"a": 1, "b": 2}, [("x", one)]),
        task_of({"a": 1, "b": 2}, [("y", one)]),
        task_of({"a": 1, "b": 2}, [("x", two)]),
        task_of({"a": 1, "b": 2}, [("x", one[None])]),
        task_of({"a": 1, "b": 2}, [("x", one.view(torch.int32))]),
        task_of({"a": 1, "b": 2}, rooms=["core"]),
    ]
    assert len(set(tasks)) == len(tasks)
    assert task_of({"b": 2, "a": 1}) == tasks[0]
    assert task_of(json.loads('{"a": 1, "b": 2}'), [("x", one.clone())]) == tasks[2]
