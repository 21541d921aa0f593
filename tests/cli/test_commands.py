"""Every command end to end on a tiny model: what is printed where, what is written, what the exit code says."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import quantvggt as qv
from published import published
from quantvggt.cli import doctor, long
from quantvggt.cli.main import COMMANDS, main
from quantvggt.core import memory
from quantvggt.core.limits import Limits
from quantvggt.kernels import measured
from quantvggt.kernels.cpu import build
from quantvggt.models import VGGTConfig
from quantvggt.reconstruction.long import estimate, rate
from quantvggt.scenes.sequence import ClipFrames
from quantvggt.scenes.synthetic import make_path
from tiny import CONFIG, sane_model, tiny_clip, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    qv.save(sane_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (50, 60, 3), np.uint8)).save(folder / f"{index}.jpg")
    return str(folder)


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The one JSON object on stdout of a command that succeeds."""
    assert main([*words, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_quantize_inspect_evaluate_reconstruct_view(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: str
) -> None:
    small = str(tmp_path / "small")
    words = (
        "quantize",
        model,
        small,
        "--calibration",
        photos,
        "--clips",
        "2",
        "--frames",
        "2",
        "--setting",
        "alpha=0.6",
        "--site",
        "*.mlp.fc2=w8a8",
    )
    made = run_json(capsys, *words)
    assert made["scheme"] == "w4a4"
    assert made["clips"] == 2
    assert made["checkpoint_bytes"] == sum(file.stat().st_size for file in Path(small).iterdir())
    assert qv.load(small).quantization.settings["alpha"] == 0.6  # type: ignore[union-attr]

    seen = run_json(
        capsys, "inspect", small, "--reference", model, "--calibration", photos, "--clips", "1", "--frames", "2"
    )
    trunk = [site for site in seen["sites"] if site["outliers_patch"] is not None]
    assert len(trunk) == CONFIG.depth * 8
    for site in trunk:
        assert site["weight_bits"] == (8 if site["name"].endswith("fc2") else 4)
        assert 0 < site["weight_error"] < 0.3
    assert all(site["outliers_special"] >= 1 and site["outliers_patch"] >= 1 for site in trunk)
    assert {site["weight_bits"] for site in seen["sites"] if site not in trunk} == {32}

    words = ("evaluate", small, "--scenes", "1", "--frames", "2")
    row = run_json(capsys, *words)
    assert (row["method"], row["scheme"], row["drift_depth"]) == ("barq-2", "w4a4", None)
    row = run_json(capsys, *words, "--reference", model)
    assert row["drift_depth"] > 0

    scene = tmp_path / "scene"
    made = run_json(capsys, "reconstruct", small, photos, "-o", str(scene))
    assert made["frames"] == 4
    assert {path.name for path in scene.iterdir()} >= {
        "cameras.json", "colmap", "points.ply", "scene.glb", "depth", "scene.npz", "scene.html", "nerfstudio",
        "trajectory.txt",
    }  # fmt: skip
    assert (made["left_out"], made["borrowed_lens"], made["refined"]) == ([], [], None)
    assert {path.name for path in (scene / "colmap" / "images").iterdir()} == {f"{index}.jpg" for index in range(4)}
    page = tmp_path / "page.html"
    assert run_json(capsys, "view", str(scene), "-o", str(page), "--no-open")["page"] == str(page)
    assert page.stat().st_size > 1_000_000


def test_a_static_site_is_calibrated_whatever_the_method(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: str
) -> None:
    words = (
        "--method",
        "rtn",
        "--site",
        "*.proj=w4a4-static",
        "--clips",
        "1",
        "--frames",
        "2",
        "--calibration",
        photos,
    )
    assert run_json(capsys, "quantize", model, str(tmp_path / "small"), *words)["clips"] == 1
    small = qv.load(tmp_path / "small")
    assert small.quantization is not None
    assert len(small.quantization.calibration["clips"]) == 1


def test_reconstruct_with_every_option_about_what_comes_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, photos: str
) -> None:
    words = ("reconstruct", model, photos, "-o", str(tmp_path / "scene"), "--formats", "colmap,nerfstudio,glb,depth")
    options = ("--intrinsics", "70,72,30,25", "--shared-camera", "--colmap", "binary", "--mesh", "--keep-floaters")
    sizes = ("--depth-size", "original", "--voxel", "0", "--refine", "--max-points", "500")
    made = run_json(capsys, *words, *options, *sizes)
    assert made["points"] == 500
    assert made["refined"]["applied"] is False  # noise shares nothing
    assert made["refined"]["reason"]
    model_folder = tmp_path / "scene" / "colmap" / "sparse" / "0"
    assert {path.name for path in model_folder.iterdir()} == {"cameras.bin", "images.bin", "points3D.bin"}
    transforms = json.loads((tmp_path / "scene" / "nerfstudio" / "transforms.json").read_text())
    assert [transforms[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")] == [60, 50, 70, 72, 30, 25]
    assert Image.open(tmp_path / "scene" / "depth" / "0.png").size == (60, 50)


def test_import_published(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = VGGTConfig.from_dict({**CONFIG.to_dict(), "depth": 4, "camera_trunk_depth": 2, "dpt_layers": [0, 1, 2, 3]})
    qv.save(tiny_model(config), tmp_path / "float")
    words = (
        "import-published",
        str(tmp_path / "float"),
        str(published("w4a4")),
        str(tmp_path / "small"),
        "--scheme",
        "w4a4",
    )
    assert run_json(capsys, *words)["scheme"] == "w4a4"
    quantization = qv.load(tmp_path / "small").quantization
    assert quantization is not None
    assert quantization.scheme.name == "w4a4"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "doctor")
    rows = result["kernels"]
    assert {(row["op"], row["backend"]) for row in rows} >= {
        ("rotate_quantize", "reference"),
        ("int_linear", "reference"),
        ("attention", "reference"),
    }
    assert all(set(row) == {"device", "op", "step", "backend", "chosen", "reason"} for row in rows)
    steps = {(row["device"], row["op"], row["step"]) for row in rows}
    chosen = [(row["device"], row["op"], row["step"]) for row in rows if row["chosen"]]
    assert sorted(chosen) == sorted(steps), "each step has one backend"
    # Full precision is what no native attention takes.
    assert {
        row["backend"] for row in rows if row["op"] == "attention" and row["step"] == "float32" and row["chosen"]
    } == {"reference"}


def test_doctor_says_what_a_container_leaves_of_the_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "affinity", lambda: 8)
    monkeypatch.setattr(doctor, "machine_bytes", lambda: 10**11)
    monkeypatch.setattr(doctor, "available_bytes", lambda: 3 * 10**9)
    monkeypatch.setattr(doctor, "limits", lambda: Limits(cpus=2.5, memory=4 * 10**9))
    result = run_json(capsys, "doctor")
    assert (result["cpu"]["affinity"], result["cpu"]["quota"]) == (8, 2.5)
    assert result["memory"] == {"machine_bytes": 10**11, "limit_bytes": 4 * 10**9, "available_bytes": 3 * 10**9}
    assert main(["doctor"]) == 0
    said = capsys.readouterr().err
    assert "8 by affinity, a container's quota of 2.5" in said
    assert "100.0 GB of the machine, 4.0 GB by a container's limit, 3.0 GB available" in said
    monkeypatch.setattr(doctor, "limits", lambda: Limits(memory=1 << 62))
    result = run_json(capsys, "doctor")
    assert result["cpu"]["quota"] is result["memory"]["limit_bytes"] is None


def test_commands_start_no_more_threads_than_there_are_cpus_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr("quantvggt.core.limits.limits", lambda: Limits(cpus=0.7))
    torch.set_num_threads(2)
    try:
        assert run_json(capsys, "doctor")["cpu"]["threads"] == 1
    finally:
        torch.set_num_threads(1)


# What a container gives a user whom its system doesn't know.
NOBODY = """
import pwd, sys, tempfile

def unknown(uid):
    raise KeyError("getpwuid(): uid not found")

pwd.getpwuid = unknown
tempfile.tempdir = sys.argv.pop(1)
from quantvggt.cli import doctor, long
from quantvggt.cli.main import main

sys.exit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="users are those of Unix")
def test_no_home_and_no_name_are_no_reason_to_fail(model: str, photos: str, tmp_path: Path) -> None:
    folder = tmp_path / f"quantvggt-{os.getuid()}"
    folder.mkdir(mode=0o700)
    library, _ = build.library()
    if library is not None:  # so that it isn't built again
        for file in Path(library.native._name).parent.glob(f"{Path(library.native._name).stem}.*"):
            shutil.copy(file, folder)
    names = ("PATH", "PYTHONPATH", "CXX", measured.ENVIRONMENT)
    environment = {name: os.environ[name] for name in names if name in os.environ}
    command = [sys.executable, "-c", NOBODY, str(tmp_path)]
    words = ["quantize", model, str(tmp_path / "small"), "--method", "rtn", "--clips", "1", "--frames", "1", "--json"]
    for more in (words, ["doctor", "--json"]):
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["native_library"]
    if library is not None and library.origin != "prebuilt":
        assert told["file"] == str(folder / Path(library.native._name).name)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_without_json_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "kernels" in output.err


def test_reconstruct_in_chunks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As long as chunks are being made they are kept; when the scene is written they are gone."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, image in enumerate(make_path(5, 9, 0.2).images):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(photos / f"{index}.png")
    command = ["reconstruct", "vggt-nano", str(photos), "--output", str(tmp_path / "scene"), "--formats", "npz,colmap"]
    assert main([*command, "--max-memory", "much"]) == 2
    assert "--max-memory much: write a size" in capsys.readouterr().err
    assert main([*command, "--chunk", "5", "--no-loops", "--refine", "--shared-camera", "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out)
    assert told["refined"]["tracks"] > 50
    assert ("refined with" if told["refined"]["applied"] else "not refined: ") in output.err
    assert told["chunking"] == {"size": 5, "overlap": 2, "loops": 0, "chunks": 3, "left_out": []}
    assert told["estimate"]["bytes"] > 0
    assert told["frames"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scene"]
    scene = qv.Scene.load(tmp_path / "scene")
    assert scene.names == [f"{index}.png" for index in range(9)]
    assert {key: scene.provenance[key] for key in ("chunking", "refined")} == {
        key: told[key] for key in ("chunking", "refined")
    }


def test_max_memory_caps_a_gpu_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    capped = []
    monkeypatch.setattr(memory, "cap_gpu", lambda device, most: capped.append((device, most)))
    monkeypatch.setattr(estimate, "plan", lambda *args: None)
    monkeypatch.setattr(rate, "rate_of", lambda *_: rate.Rate(1e9, True))
    frames = ClipFrames(tiny_clip())
    for device, size, expected in (("cuda", "8GB", [("cuda", 8 * 10**9)]), ("cuda", None, []), ("cpu", "8GB", [])):
        capped.clear()
        args = argparse.Namespace(device=device, max_memory=size, chunk=None, overlap=None, no_loops=False)
        args.cameras = args.refine = None
        long.plan_of(args, tiny_model(), frames, lambda text: None)
        assert capped == expected
