"""`quantvggt datasets`: what there is, and whether one is all there."""

import json
from pathlib import Path

import pytest

from dataset_minis import write_mini
from quantvggt.cli.main import main
from quantvggt.scenes.datasets import DATASETS


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict, str]:
    assert main(["datasets", *words, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_lists_every_dataset_with_its_licence_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    result, text = said(capsys)
    assert [told["name"] for told in result["datasets"]] == list(DATASETS)
    assert all(told["licence"] and told["source"] and told["title"] for told in result["datasets"])
    assert "CC BY-NC 4.0" in text
    assert "github.com/facebookresearch/co3d" in text


def test_says_what_is_missing_and_what_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = write_mini("scannet", tmp_path, scenes=2)
    (root / "scene0708_00/depth/0.png").write_bytes(b"no picture")
    result, text = said(capsys, "--check", "scannet", "--root", str(root))
    assert (result["dataset"], result["split"], result["scenes"], result["complete"]) == ("scannet", "test", 2, False)
    assert len(result["missing"]) == 98
    assert result["missing"][0].startswith("scene0709_00: no scene0709_00/color")
    assert len(result["unreadable"]) == 1
    assert "scene0708_00/depth/0.png" in result["unreadable"][0]
    assert "can't be read: scene0708_00" in text
    assert "and 78 more" in text
    assert "warning" not in text


def test_a_complete_dataset_is_said_to_be_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = write_mini("colmap", tmp_path, scenes=2, frames=2)
    result, text = said(capsys, "--check", "colmap", "--root", str(root))
    assert (result["scenes"], result["missing"], result["unreadable"], result["complete"]) == (2, [], [], True)
    assert "colmap, split test: 2 scenes, complete" in text
    result, _ = said(capsys, "--check", "synthetic")
    assert (result["scenes"], result["complete"]) == (100, True)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, part in (
        (("--check", "imagenet"), "unknown dataset 'imagenet'; use one of: synthetic, co3d"),
        (("--check", "dtu"), "dataset dtu needs --root"),
        (("--check", "dtu", "--root", str(tmp_path)), "no scene of it in"),
    ):
        assert main(["datasets", *words]) == 2
        text = capsys.readouterr().err
        assert part in text
        assert text.count("\n") == 1
