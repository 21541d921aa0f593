"""The table of a layer's tensors against the specification of the file format, and what it lets pass."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.tensors import FLAGS, OPTIONAL, PARTS, TENSORS, check_shapes

A_BRANCH = {"input_basis": (32, 16), "input_basis_scale": (1,), "branch_weight": (24, 16), "branch_scale": (24, 1)}
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
CODES = {"F32": torch.float32, "I8": torch.int8}


def test_names_types_shapes_and_flags_are_those_of_the_format() -> None:
    rows = re.findall(r"^\| (`.*?) \| (F32|I8) \| (\[.*?) \| (.*?) \| .*\|$", FORMAT.read_text(), re.MULTILINE)
    written = {}
    for names, code, shapes, exists, *_ in rows:
        sizes = re.findall(r"\[(.*?)\]", shapes)
        for name, size in zip(names.replace("`", "").split(", "), sizes, strict=False):
            written[name] = (CODES[code], size, exists)
    del written["weight"]  # integers, which have no rule
    assert written.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        dtype, size, exists = written[name]
        assert tensor.dtype == dtype
        assert ", ".join(map(str, tensor.sizes)) == size
        assert tensor.flag == (exists.strip("`") if exists.startswith("`") else None)
    assert set(FLAGS) == {"rotation", "smoothing", "input_clip"}


def test_every_part_of_a_transform_has_its_tensor() -> None:
    assert PARTS.keys() == {field.name for field in fields(Transform)}


@pytest.mark.parametrize(
    ("name", "legal", "illegal"),
    [
        ("weight_scale", [0.0, 1e30], [-1e-9, torch.inf, torch.nan]),
        ("input_shift", [-3.0, 0.0], [torch.inf, torch.nan]),
        ("input_presmooth", [1e-9], [0.0, -1.0, torch.inf, torch.nan]),
        ("input_left", [-1.0], [torch.nan]),
        ("input_right", [0.0], [-torch.inf]),
        ("rotation_signs", [1, -1], [0, 2, -128]),
        ("input_smooth", [2.0], [0.0, torch.nan]),
        ("input_clip", [1.0, 1e-6], [0.0, 1.0001, torch.nan]),
        ("input_basis_scale", [1e-9], [0.0, -1.0, torch.inf, torch.nan]),
        ("branch_scale", [0.0], [-1.0, torch.inf, torch.nan]),
    ],
)
def test_which_numbers_may_be_in_it(name: str, legal: list[float], illegal: list[float]) -> None:
    tensor = TENSORS[name]
    assert tensor.holds(torch.tensor(legal, dtype=tensor.dtype))
    for number in illegal:
        assert not tensor.holds(torch.tensor([*legal, number], dtype=tensor.dtype))


def test_a_branch_fits_its_layer() -> None:
    check_shapes(A_BRANCH, 24, 32, Scheme.parse("w4a4-asym-s8"))


def test_ranges_hold_zero() -> None:
    ranges = OPTIONAL["input_range"]
    assert ranges.holds(torch.tensor([[2.0, -1.0], [0.0, 0.0]]))
    for row in ([2.0, 1.0], [-2.0, -1.0], [torch.inf, 0.0], [0.0, torch.nan]):
        assert not ranges.holds(torch.tensor([[1.0, -1.0], row]))


@pytest.mark.parametrize(
    ("scheme", "shapes", "words"),
    [
        ("w4a4", {"input_left": (), "input_right": (8, 8)}, r"input_left has shape \[\]"),
        ("w4a4", {"input_left": (5, 5), "input_right": (6, 6)}, "don't make a map of 32 channels"),
        ("w4a4", {"input_right": (32, 32)}, "don't make a map"),
        ("w4a4", {"input_left": (0, 0), "input_right": (32, 32)}, "don't make a map"),
        ("w4a16", {"input_clip": (2,)}, "no input clip"),
        ("w4a4-static", {}, "needs an input range"),
        ("w4a4-static", {"input_range": ()}, r"input_range has shape \[\]; this layer needs \[1, 2\]"),
        ("w4a4-tensor-static", {"input_range": (9, 2)}, r"this layer needs \[1, 2\]"),
        ("w4a4", {"input_basis": (32, 16)}, "a low-rank branch has input_basis, input_basis_scale, branch_weight"),
        (
            "w4a4",
            {**A_BRANCH, "input_basis": (32, 24), "branch_weight": (24, 24)},
            r"one of the ranks \(16, 32, 64\), not 24",
        ),
        ("w4a4", {**A_BRANCH, "branch_weight": (32, 16)}, r"branch_weight .* needs \[24, 16\]"),
        ("w4a4", {**A_BRANCH, "input_basis_scale": (16,)}, r"input_basis_scale .* needs \[1\]"),
        ("w4a16", A_BRANCH, "needs dynamic ranges per token"),
        ("w4a4-tensor", A_BRANCH, "needs dynamic ranges per token"),
        ("w4a4", {**A_BRANCH, "input_left": (4, 4), "input_right": (8, 8)}, "no learned map"),
    ],
)
def test_shapes_that_make_no_layer(scheme: str, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_shapes(shapes, 24, 32, Scheme.parse(scheme))
