"""A family that the package doesn't know, a model of two blocks: everything is done to it by the contract alone."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantvggt as qv
from quantvggt.calibrate.importance import block_importance
from quantvggt.calibrate.sampling.features import pool_features
from quantvggt.checkpoint.save import checkpoint_bytes
from quantvggt.core.errors import InputError
from quantvggt.evaluate.inspection import inspect_sites
from quantvggt.evaluate.run import evaluate, predict
from quantvggt.models import FAMILIES, Answers, Given, Model, ModelConfig
from quantvggt.models.family import Family, Part, Place
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn.block import Block, PatchEmbed
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.reconstruction.lens import clip_lens
from quantvggt.scenes.preprocess import MODES
from quantvggt.scenes.synthetic import make_clips
from reconstruction_photos import write_photo

PATCH, SPECIAL = 14, 1
CLIPS = make_clips([9_400_000, 9_400_001], frames=3, size=56)


@dataclass(frozen=True)
class ToyConfig(ModelConfig):
    family: ClassVar[str] = "toy"

    width: int = 32

    @property
    def blocks(self) -> int:
        return 2


class ToyTrunk(Part):
    """A block within frames and one over all of them, without positions; the first camera's token is told apart
    between the two."""

    special = SPECIAL
    places = (Place("blocks.0", "frame"), Place("blocks.1", "global"))

    def __init__(self, model: "Toy") -> None:
        self.model = model

    def start(self, images: Tensor) -> tuple[Tensor, None]:
        patches = self.model.embed(images[0])
        return torch.cat((self.model.token.expand(len(patches), -1, -1), patches), dim=1), None

    def before(self, place: Place, tokens: Tensor, context: None) -> Tensor:
        if place.kind == "frame":
            return tokens
        first = torch.zeros_like(tokens)
        first[0, 0] = self.model.first
        return tokens + first


class Toy(Model):
    """A camera in each frame's first token, a depth in each patch."""

    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embed = PatchEmbed(PATCH, config.width)
        self.token = nn.Parameter(torch.zeros(1, SPECIAL, config.width))
        self.first = nn.Parameter(torch.ones(config.width))
        self.blocks = nn.ModuleList(Block(config.width, 2) for _ in range(2))
        self.camera = nn.Linear(config.width, 16)
        self.depth = nn.Linear(config.width, PATCH**2)

    image_size, patch_size, heads = 56, PATCH, ("camera", "depth")

    @property
    def trunk(self) -> Part:
        return ToyTrunk(self)

    def encode(self, images: Tensor) -> Tensor:
        mark_frames(self, SPECIAL + images.shape[-1] * images.shape[-2] // PATCH**2, SPECIAL)
        ends = []
        for clip in images.split(1):
            x, _ = self.trunk.start(clip)
            x = self.blocks[0](x)
            x = self.trunk.before(self.trunk.places[1], x, None)
            ends.append(self.blocks[1](x.flatten(0, 1)[None]).view(x.shape))
        return torch.stack(ends)

    def collect(self, outputs: Sequence[Tensor], context: None) -> Tensor:
        return outputs[-1][None]

    def last_output(self, features: Tensor) -> Tensor:
        return features

    def read(
        self,
        features: Tensor,
        images: Tensor,
        heads: Sequence[str] | None = None,
        dense: Sequence[int] | None = None,
        queries: Tensor | None = None,
        cut: bool = True,
    ) -> Answers:
        heads, (height, width) = self.heads if heads is None else heads, images.shape[-2:]
        known: dict[str, Any] = {}
        if "camera" in heads:
            moved, view = self.camera(features[:, :, 0])[..., :5].float().tanh().split((3, 2), dim=-1)
            view = 1 + 0.2 * view
            focal = torch.tensor([height, width]) / 2 / torch.tan(view / 2)
            intrinsics = torch.diag_embed(nn.functional.pad(focal.flip(-1), (0, 1), value=1.0))
            intrinsics[..., 0, 2], intrinsics[..., 1, 2] = width / 2, height / 2
            turns = torch.eye(3).expand(*moved.shape[:2], 3, 3)
            known |= {"extrinsics": torch.cat((turns, moved[..., None]), -1), "intrinsics": intrinsics, "view": view}
        if "depth" in heads:
            frames = list(range(images.shape[1])) if dense is None else list(dense)
            cells = self.depth(features[:, frames, SPECIAL:]).unflatten(2, (height // PATCH, -1))
            depth = cells.unflatten(-1, (PATCH, PATCH)).transpose(3, 4).flatten(4, 5).flatten(2, 3).float().exp()
            known |= {"depth": depth, "depth_conf": 1 + depth}
        return Answers((height, width), **known)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A toy model with its family registered."""
    monkeypatch.setitem(FAMILIES, "toy", Family("toy", ToyConfig, Toy, lambda shapes: None))
    torch.manual_seed(0)
    model = Toy(ToyConfig())
    for name, value in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(value, 0.5)
    return model.eval()


def numbers(model: Model) -> list[Tensor]:
    with torch.inference_mode():
        answers = model.answers(CLIPS[0].images)
    return [x for x in (answers.extrinsics, answers.intrinsics, answers.depth) if x is not None]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", ["rtn", "best", "brecq"])
def test_it_is_quantized_saved_and_loaded(toy: Toy, tmp_path: Path, method: str) -> None:
    settings = {"epochs": 1} if method == "brecq" else None
    small = qv.quantize(toy, "w4a4", method, CLIPS, settings=settings, rest="w8a8", progress=False)
    assert {site for site, layer in all_sites(small).items() if isinstance(layer, QuantWeight)} == set(all_sites(toy))
    assert 1e-5 < distance(numbers(small), numbers(toy)) < 0.2
    loaded = qv.load(qv.save(small, tmp_path / "small"))
    assert isinstance(loaded, Toy)
    assert loaded.quantization == small.quantization
    states = loaded.state_dict(), small.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_what_happens_between_blocks_happens_in_the_stream(toy: Toy) -> None:
    """Wide integers change next to nothing, so layers that saw the wrong inputs would show."""
    eight = qv.quantize(toy, "w8a8", "best", CLIPS, progress=False)
    assert distance(numbers(eight), numbers(toy)) < 0.01


def test_a_budget_is_spent_on_it(toy: Toy, tmp_path: Path) -> None:
    whole = qv.quantize(toy, "w8a8", "rtn", rest="w8a8", progress=False)
    budget = checkpoint_bytes(whole, torch.float16) - 8000
    small = qv.quantize(toy, "w4a4", "rtn", CLIPS, budget=budget, progress=False)
    assert small.quantization is not None
    assert set(small.quantization.settings["budget"]["groups"]) == {"blocks.0-3", "camera", "depth"}
    folder = qv.save(small, tmp_path / "small")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= budget


def test_it_is_looked_into(toy: Toy) -> None:
    assert next(iter(quantizable_sites(toy))) == "blocks.0.attn.qkv"
    reports = {report.name: report for report in inspect_sites(toy, CLIPS, progress=False)}
    assert reports["blocks.1.mlp.fc1"].outliers_patch is not None
    assert reports["camera"].outliers_patch is None
    weights = block_importance(toy, CLIPS, progress=False)
    assert list(weights) == ["blocks.0", "blocks.1"]
    features = pool_features(toy, CLIPS, progress=False)
    assert features.layers == ["blocks.0", "blocks.1"]
    assert features.pooled.shape == (2, 32)


def test_it_reconstructs_and_is_judged(toy: Toy, tmp_path: Path) -> None:
    scene = qv.reconstruct(toy, CLIPS[0])
    scene.export(tmp_path / "scene", formats=("colmap",))
    assert list((tmp_path / "scene").rglob("cameras.txt"))
    small = qv.quantize(toy, "w4a4", "rtn", progress=False)
    labels = {"name": "toy", "method": "rtn", "scheme": "w4a4", "seed": 0, "checkpoint_bytes": 1}
    row = evaluate(small, CLIPS, predict(toy, CLIPS, progress=False), **labels, progress=False)  # type: ignore[arg-type]
    assert row["drift_depth"] > 0


class Told(Toy):
    """Puts cameras that it is given in the place of its own."""

    takes = frozenset({"extrinsics", "intrinsics"})
    preprocessing = "longest"

    def answers_given(self, images: Tensor, given: Given, dense: Sequence[int] | None = None) -> Answers:
        answers = self.read(self.encode(images), images, dense=dense)
        assert given.extrinsics is not None
        assert given.intrinsics is not None
        return replace(answers, extrinsics=given.extrinsics[None], intrinsics=given.intrinsics[None], metric=True)


def test_cameras_are_given_to_a_family_that_takes_them(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2):
        write_photo(tmp_path / "photos" / f"{seed}.jpg", (90, 120), seed)
    scene = qv.reconstruct(toy, tmp_path / "photos")
    assert scene.size == (56, 56)
    assert "scale" not in scene.provenance
    scene.export(tmp_path / "scene", formats=("cameras",))
    with pytest.raises(InputError, match=r"family toy make no use of given extrinsics and intrinsics; "):
        qv.reconstruct(toy, tmp_path / "photos", cameras=tmp_path / "scene")
    monkeypatch.setitem(FAMILIES, "told", Family("told", ToyConfig, Told))
    with pytest.raises(InputError, match=r"families that do: .*told"):
        qv.reconstruct(toy, tmp_path / "photos", cameras=tmp_path / "scene")
    told = Told(ToyConfig())
    told.load_state_dict(toy.state_dict())
    again = qv.reconstruct(told, tmp_path / "photos", cameras=tmp_path / "scene")
    assert again.size == (56, 42)
    assert again.provenance["extrinsics"] == again.provenance["intrinsics"] == "given"
    assert again.provenance["scale"] == "metric"
    assert torch.allclose(torch.from_numpy(again.extrinsics), torch.from_numpy(scene.extrinsics), atol=1e-6)
    lens = {"scale": [42 / 90, 56 / 120], "offset": [0, 0]}
    original = np.array(
        json.loads((tmp_path / "scene" / "cameras.json").read_text())["frames"][0]["original"]["intrinsics"]
    )
    np.testing.assert_allclose(again.intrinsics[0], clip_lens(original, lens), rtol=1e-5)
    with pytest.raises(InputError, match="either intrinsics or cameras"):
        qv.reconstruct(told, tmp_path / "photos", cameras=tmp_path / "scene", intrinsics="1,1,1,1")
    with pytest.raises(InputError, match="no use of given depth"):
        qv.reconstruct(told, CLIPS[0], depth=torch.ones(3, 56, 56))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Given(extrinsics=torch.zeros(2, 3, 4)), r"extrinsics must be a tensor \[3, 3, 4\] for these frames, got \[2"),
        (Given(depth=torch.full((3, 56, 56), -1.0)), "depth must be finite, 0 where it is unknown"),
        (Given(intrinsics=torch.full((3, 3, 3), torch.nan)), "intrinsics must be finite"),
        (Given(depth=np.zeros(3)), "depth must be a tensor .*, got ndarray"),  # type: ignore[arg-type]
    ],
)
def test_what_is_given_is_checked(given: Given, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given.checked(3, 56, 56, torch.device("cpu"))


def test_a_licence_that_forbids_uses_is_named(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = qv.save(toy, tmp_path / "toy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qv.load(folder)
    limited = Family("toy", ToyConfig, Toy, licence=lambda config: f"no sale above {config.width}")
    monkeypatch.setitem(FAMILIES, "toy", limited)
    with pytest.warns(UserWarning, match="published under no sale above 32"):
        qv.load(folder)


def test_pictures_can_be_fitted_to_every_family() -> None:
    assert {family.model.preprocessing for family in FAMILIES.values()} <= set(MODES)


def test_what_it_lacks_is_said(toy: Toy, tmp_path: Path) -> None:
    folder = qv.save(toy, tmp_path / "toy")
    with pytest.raises(InputError, match="family toy have no mixed precision"):
        qv.load(folder, dtype="mixed")
    assert qv.load(folder, dtype="auto").products is None
    with pytest.raises(InputError, match="needs a model with a point head, this one has none"):
        qv.reconstruct(toy, CLIPS[0], points="pointmap")
    with pytest.raises(InputError, match="family toy have no global attention to be thinned out: they don't tell"):
        toy.attention = "fast"
    FAMILIES.pop("toy")
    with pytest.raises(InputError, match=r"unknown model family 'toy'; this release knows vggt"):
        qv.load(folder)
