"""A small Depth-Anything-3 is quantized, fitted into a budget, saved, loaded and used by the contract alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import quantvggt as qv
from close import assert_close_answers
from da3_recorded import SMALLEST, sane_model, seeded_model
from quantvggt.calibrate.importance import block_importance
from quantvggt.calibrate.sampling.features import pool_features
from quantvggt.calibrate.stream import Stream
from quantvggt.checkpoint.save import checkpoint_bytes
from quantvggt.cli.main import main
from quantvggt.evaluate.inspection import inspect_sites
from quantvggt.evaluate.run import evaluate, predict
from quantvggt.models import Answers, Model
from quantvggt.models.da3 import DA3
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.scenes.synthetic import make_clips
from reconstruction_photos import write_photo

CLIPS = make_clips([9_400_000, 9_400_001], frames=4, size=56)


@pytest.fixture(scope="module")
def model() -> DA3:
    return sane_model()


def answers(model: Model) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        said: Answers = model.answers(CLIPS[0].images)
    return {name: getattr(said, name) for name in ("extrinsics", "view", "depth", "depth_conf")}


def distance(a: Model, b: Model) -> float:
    pairs = zip(answers(a).values(), answers(b).values(), strict=True)
    return max(((x - y).norm() / y.norm()).item() for x, y in pairs)


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("strategy", ["saddle_balanced", "middle"])
def test_the_stream_between_blocks_is_the_forward_pass(swiglu: bool, strategy: str) -> None:
    """Also where the first block after the alternation begins is read."""
    for start in (0, 1, 2):
        model = seeded_model(replace(SMALLEST, start=start, swiglu=swiglu))
        model.reference_view = strategy
        with torch.inference_mode():
            stream, outputs = Stream.start(model.trunk, model, CLIPS), []
            for place in model.trunk.places:
                stream = stream.after(model.get_submodule(place.name), place)
                outputs.append(stream.tokens[1])
            features = model.encode(CLIPS[1].images[None])
            collected = model.collect(outputs, stream.contexts[1])
        assert collected.keys() == features.keys()
        assert all(torch.allclose(collected[layer], x, atol=1e-5) for layer, x in features.items())


def test_the_camera_encoder_learns_from_cameras_that_the_model_sees(model: DA3) -> None:
    with torch.inference_mode():
        stream = Stream.start(model.parts[1], model, CLIPS)
        for place in model.parts[1].places:
            stream = stream.after(model.get_submodule(place.name), place)
        seen = model.answers(CLIPS[0].images)
        lens, first = seen.intrinsics, torch.linalg.inv(square(seen.extrinsics[0, 0]))
        moved = (square(seen.extrinsics[0]) @ first)[:, :3]
        far = (moved[:, :, :3].transpose(1, 2) @ moved[:, :, 3:]).norm(dim=1).median().clamp(min=0.1)
        moved[:, :, 3] /= far
        tokens = model.cam_enc(moved[None], lens, 56, 56)
        torch.testing.assert_close(model.cam_enc.trunk_norm(stream.tokens[0]), tokens, atol=1e-4, rtol=1e-4)


def square(extrinsics: torch.Tensor) -> torch.Tensor:
    last = torch.tensor([0.0, 0, 0, 1]).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat((extrinsics, last), dim=-2)


@pytest.mark.parametrize(
    ("scheme", "method", "swiglu", "limit"),
    [("w8a8", "rtn", False, 0.02), ("w4a4", "best", False, 0.3), ("w4a4", "best", True, 0.3)],
)
def test_quantized_it_is_saved_and_loaded(tmp_path: Path, scheme: str, method: str, swiglu: bool, limit: float) -> None:
    model = sane_model(replace(SMALLEST, swiglu=swiglu))
    small = qv.quantize(model, scheme, method, CLIPS, rest="w8a8", progress=False)
    quantized = {site for site, layer in all_sites(small).items() if isinstance(layer, QuantWeight)}
    assert quantized == set(all_sites(model))
    assert {"cam_enc.trunk.0.attn.qkv", "backbone.pretrained.blocks.3.attn.qkv"} <= quantized
    assert not any(site.startswith("cam_dec.") for site in quantized)
    assert 1e-5 < distance(small, model) < limit
    folder = qv.save(small, tmp_path / "small")
    loaded = qv.load(folder)
    assert isinstance(loaded, DA3)
    assert loaded.quantization == small.quantization
    state = small.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert_close_answers(answers(loaded), answers(small))


def test_a_budget_is_spent_on_it(model: DA3, tmp_path: Path) -> None:
    budget = checkpoint_bytes(qv.quantize(model, "w8a8", "rtn", rest="w8a8", progress=False), torch.float16) - 20_000
    small = qv.quantize(model, "w4a4", "rtn", CLIPS, budget=budget, progress=False)
    assert small.quantization is not None
    groups = set(small.quantization.settings["budget"]["groups"])
    assert {"backbone.pretrained.blocks.0-3", "cam_enc.trunk.0-3", "head.projects", "head.scratch.layer3_rn"} <= groups
    folder = qv.save(small, tmp_path / "small")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= budget


def test_it_is_looked_into_and_chosen_for(model: DA3) -> None:
    assert next(iter(quantizable_sites(model))) == "backbone.pretrained.blocks.0.attn.qkv"
    reports = {report.name: report for report in inspect_sites(model, CLIPS, progress=False)}
    assert reports["backbone.pretrained.blocks.1.mlp.fc1"].outliers_patch is not None
    assert list(block_importance(model, CLIPS, progress=False)) == [place.name for place in model.trunk.places]
    assert pool_features(model, CLIPS, deep=1.0, progress=False).pooled.shape == (2, 2 * SMALLEST.embed_dim)
    chosen = qv.select_calibration(model, CLIPS * 2, size=2, clusters=1, progress=False)
    assert len(chosen) == 2


def test_it_is_judged(model: DA3) -> None:
    small = qv.quantize(model, "w8a8", "rtn", progress=False)
    labels = {"name": "da3", "method": "rtn", "scheme": "w8a8", "seed": 0, "checkpoint_bytes": 1}
    row = evaluate(small, CLIPS, predict(model, CLIPS, progress=False), **labels, progress=False)  # type: ignore[arg-type]
    assert 0 < row["drift_depth"] < 0.1


def test_photos_become_a_colmap_model_and_its_cameras_are_taken_again(
    model: DA3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        write_photo(tmp_path / "photos" / f"{seed}.jpg", (120, 90), seed)
    folder = str(qv.save(qv.quantize(model, "w8a8", "rtn", rest="w8a8", progress=False), tmp_path / "model"))
    command = ["reconstruct", folder, str(tmp_path / "photos"), "--formats", "colmap,cameras", "--dtype", "float32"]
    assert main([*command, "--json", "-o", str(tmp_path / "free")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["width"], told["height"]) == (56, 42)
    assert len((tmp_path / "free" / "colmap" / "sparse" / "0" / "cameras.txt").read_text().splitlines()) == 4
    given = ["--cameras", str(tmp_path / "free" / "colmap")]
    assert main([*command, "--json", "-o", str(tmp_path / "given"), *given]) == 0
    free, again = (json.loads((tmp_path / name / "cameras.json").read_text()) for name in ("free", "given"))
    assert again["made_by"]["extrinsics"] == "given"
    for before, after in zip(free["frames"], again["frames"], strict=True):
        np.testing.assert_allclose(after["extrinsics"], before["extrinsics"], atol=1e-5)
        np.testing.assert_allclose(after["intrinsics"], before["intrinsics"], rtol=1e-5)
