"""Depth-Anything-3's sizes, files, cameras and settings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import quantvggt as qv
import seeded
from close import assert_close_answers
from da3_recorded import GOLDEN, PREFIX, PRESETS, SMALLEST, sane_model, seeded_model, seeded_state
from quantvggt.checkpoint.load import infer_config
from quantvggt.checkpoint.weights import TensorInfo
from quantvggt.core.errors import InputError
from quantvggt.models import Given
from quantvggt.models.da3 import DA3, DA3Config
from quantvggt.models.da3.cameras import as_trained
from quantvggt.models.da3.config import licence
from quantvggt.models.da3.heads import ALIASES, far_sky
from quantvggt.models.pose import quaternion_to_matrix, scale_between
from quantvggt.scenes.clip import Clip

IMAGES = torch.from_numpy(seeded.images("da3", 1, 4, 56, 42))


def published(size: str) -> dict[str, dict[str, list[int]]]:
    keys: dict[str, dict[str, list[int]]] = json.loads((GOLDEN / f"da3_{size.lower()}_keys.json").read_text())
    return keys


def outline(config: DA3Config) -> DA3:
    with torch.device("meta"):
        return DA3(config)


@pytest.mark.parametrize("size", PRESETS)
def test_keys_and_shapes_equal_the_published_checkpoints(size: str) -> None:
    keys, model = published(size), outline(PRESETS[size]())
    assert {PREFIX + name: list(value.shape) for name, value in model.named_parameters()} == keys["parameters"]
    assert {PREFIX + name: value for name, value in model.named_buffers()} == keys["buffers"]
    assert {PREFIX + alias: PREFIX + name for alias, name in ALIASES.items()} == keys["aliases"]


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("with_aliases", [True, False])
def test_published_sizes_are_recognised(size: str, with_aliases: bool) -> None:
    keys = published(size)
    shapes = dict(keys["parameters"])
    if with_aliases:
        shapes |= {alias: shapes[str(name)] for alias, name in keys["aliases"].items()}
    infos = {name: TensorInfo(tuple(shape), torch.float32) for name, shape in shapes.items()}
    assert infer_config(infos) == PRESETS[size]()


def test_a_monocular_model_is_recognised() -> None:
    infos = {
        PREFIX + name: TensorInfo(tuple(value.shape), value.dtype)
        for name, value in outline(DA3Config.monocular()).state_dict().items()
    }
    assert infer_config(infos) == DA3Config.monocular()


def test_epsilons_are_the_published_ones() -> None:
    """They hide in float32 rounding, so no recording tells."""
    model = outline(DA3Config.giant())
    found = {name: module.eps for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert all(
        (eps == 1e-6) == (".norm1" in name or ".norm2" in name) for name, eps in found.items() if "blocks" in name
    )
    assert {eps for name, eps in found.items() if ".blocks." not in name} == {1e-5}
    assert {name.rpartition(".")[2] for name, eps in found.items() if eps == 1e-5 and ".blocks." in name} == {
        "q_norm",
        "k_norm",
    }
    assert [name for name in found if name.startswith("gs_head")] == []


@pytest.mark.parametrize(("suffix", "names"), [("safetensors", "own"), ("safetensors", "alias"), ("pt", "all")])
def test_files_load_under_all_names_of_a_tensor(tmp_path: Path, suffix: str, names: str) -> None:
    """As the published files are, with a config.json that isn't ours where there is one."""
    config = DA3Config.small()
    state = {PREFIX + name: value.half() for name, value in seeded_state(config).items()}
    written = dict(state)
    if names != "own":
        written |= {PREFIX + alias: state[PREFIX + name] for alias, name in ALIASES.items()}
    if names == "alias":
        for name in {*list(ALIASES)[:4], *ALIASES.values()}:
            del written[PREFIX + name]
    if suffix == "pt":
        torch.save(written, tmp_path / "model.pt")
    else:
        save_file(written, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "da3-small", "config": {}}))
    model = qv.load(tmp_path)
    assert isinstance(model, DA3)
    assert model.config == config
    assert all(torch.equal(value, state[PREFIX + name].float()) for name, value in model.state_dict().items())


def test_what_a_file_lacks_is_said(tmp_path: Path) -> None:
    state = {PREFIX + name: value for name, value in seeded_state(replace(SMALLEST)).items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"only published sizes can be recognised \(VGGT-1B, DA3-SMALL"):
        qv.load(tmp_path)


def test_saved_it_loads_with_its_config(tmp_path: Path) -> None:
    model = sane_model()
    loaded = qv.load(qv.save(model, tmp_path / "model"))
    assert isinstance(loaded, DA3)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 13}, r"start must lie in 0\.\.12"),
        ({"start": -1}, "start must be a whole number from 0"),
        ({"depth": 0}, "depth must be a whole number from 1"),
        ({"embed_dim": 770}, r"4 \* num_heads"),
        ({"embed_dim": 8, "num_heads": 2}, "camera encoder's heads"),
        ({"picture_size": 500}, "multiples of patch_size"),
        ({"layers": (5, 7, 9)}, "four entries"),
        ({"layers": (5, 7, 9, 12)}, r"ascend in 0\.\.11"),
        ({"layers": (5, 9, 7, 11)}, "ascend"),
        ({"out_channels": (96, 192, 384, -1)}, "positive whole numbers"),
        ({"swiglu": 1}, "true or false"),
    ],
)
def test_impossible_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DA3Config.from_dict({**DA3Config.base().to_dict(), **change})
    assert DA3Config.from_dict(DA3Config.giant().to_dict()) == DA3Config.giant()


def test_licences() -> None:
    limited = [
        licence(config) is not None for config in (*(preset() for preset in PRESETS.values()), DA3Config.monocular())
    ]
    assert limited == [False, False, True, True, False]


def test_the_first_camera_is_the_world() -> None:
    model = sane_model()
    with torch.inference_mode():
        told = model.cam_dec(model.last_output(model.encode(IMAGES))[:, :, 0])[0]
        answers = model.answers(IMAGES)
    # What the decoder says is camera-to-world, so seen from camera 0 camera i stands at inverse(0) i.
    poses = square(torch.cat((quaternion_to_matrix(told[:, 3:7]), told[:, :3, None]), dim=-1))
    expected = torch.linalg.inv(torch.linalg.inv(poses[0]) @ poses)[:, :3]
    torch.testing.assert_close(answers.extrinsics[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answers.extrinsics[0, 0], torch.eye(3, 4), atol=1e-5, rtol=0)


def test_the_reference_view_is_a_setting() -> None:
    model = sane_model()
    with torch.inference_mode():
        found = {}
        for strategy in ("first", "middle"):
            model.reference_view = strategy
            found[strategy] = model.answers(IMAGES).extrinsics
        # The middle of four views is the third: in front, it is the first of them.
        model.reference_view = "first"
        order = [2, 0, 1, 3]
        moved = model.answers(IMAGES[:, order]).extrinsics
    assert not torch.allclose(found["first"], found["middle"], atol=1e-4)
    first = torch.linalg.inv(square(found["middle"][0, order[0]]))
    expected = (square(found["middle"][0, order]) @ first)[:, :3]
    torch.testing.assert_close(moved[0], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="unknown reference view 'last'; choose one of: saddle_balanced"):
        model.reference_view = "last"


def square(extrinsics: torch.Tensor) -> torch.Tensor:
    last = torch.tensor([0.0, 0, 0, 1]).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat((extrinsics, last), dim=-2)


def similarity(scale: float) -> torch.Tensor:
    """Some world-to-world [4, 4]."""
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, :3] = scale * quaternion_to_matrix(torch.tensor([0.3, -0.5, 0.2, 0.7], dtype=torch.float64))
    moved[:3, 3] = torch.tensor([3.0, -1.0, 2.0])
    return moved


def in_world(extrinsics: torch.Tensor, scale: float) -> torch.Tensor:
    """The same cameras in a world that is turned, moved and `scale` times as large."""
    rotation, translation = extrinsics.double().split((3, 1), dim=-1)
    world = torch.linalg.inv(similarity(scale))
    turned = rotation @ world[:3, :3] * scale
    return torch.cat((turned, scale * (rotation @ world[:3, 3:] + translation)), dim=-1).float()


def centres(extrinsics: torch.Tensor) -> torch.Tensor:
    return -(extrinsics[:, :, :3].transpose(1, 2) @ extrinsics[:, :, 3:])[..., 0]


def cameras(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    turns = quaternion_to_matrix(torch.randn(count, 4, generator=generator))
    return torch.cat((turns, torch.randn(count, 3, 1, generator=generator)), dim=-1)


def test_cameras_are_told_as_in_training() -> None:
    told = as_trained(in_world(cameras(5), 7.0))
    torch.testing.assert_close(told[0], torch.eye(3, 4), atol=1e-5, rtol=0)
    assert centres(told).norm(dim=1).median() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(told, as_trained(cameras(5)), atol=1e-4, rtol=0)
    small = in_world(cameras(5), 1e-3)
    torch.testing.assert_close(
        centres(as_trained(small)).norm(dim=1), (centres(small) - centres(small)[0]).norm(dim=1) * 10
    )


def test_the_scale_between_two_worlds() -> None:
    for count in (2, 3, 6):
        assert scale_between(cameras(count), in_world(cameras(count), 4.0)) == pytest.approx(4, rel=1e-4)
    one = cameras(1).expand(3, -1, -1)
    assert scale_between(one, cameras(3)) == 1
    assert scale_between(cameras(3), one) == 1
    source, target = cameras(6), in_world(cameras(6), 2.0)
    target[:, :, 3] += 0.3 * cameras(7)[:6, :, 3]
    a, b = (centres(x).double().numpy() for x in (source, target))
    a, b = a - a.mean(0), b - b.mean(0)
    left, _, right = np.linalg.svd(b.T @ a)
    turned = a @ (left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right).T
    scales = np.linspace(0.01, 4, 4000)
    best = scales[np.argmin([np.square(b - scale * turned).sum() for scale in scales])]
    assert scale_between(source, target) == pytest.approx(best, abs=2e-3)


def test_given_cameras_are_kept_and_depth_is_in_their_unit() -> None:
    model = sane_model()
    lens = torch.tensor([[60.0, 0, 21], [0, 60, 28], [0, 0, 1]]).expand(4, 3, 3)
    with torch.inference_mode():
        free = model.answers(IMAGES)
        near, far = (model.answers(IMAGES, given=Given(in_world(cameras(4), scale), lens)) for scale in (1.0, 5.0))
    assert torch.equal(near.extrinsics[0], in_world(cameras(4), 1.0))
    assert torch.equal(near.intrinsics[0], lens)
    assert near.view[0, 0].tolist() == pytest.approx([2 * np.arctan(28 / 60), 2 * np.arctan(21 / 60)])
    torch.testing.assert_close(far.depth, 5 * near.depth, rtol=1e-3, atol=0)
    assert_close_answers({"sure": far.depth_conf}, {"sure": near.depth_conf})
    assert not torch.allclose(free.depth_conf, near.depth_conf, rtol=1e-3)


def test_cameras_that_do_not_fit_are_refused() -> None:
    model = sane_model()
    with pytest.raises(InputError, match="whole cameras, extrinsics and intrinsics"):
        model.answers(IMAGES, given=Given(extrinsics=cameras(4)))
    with pytest.raises(InputError, match="not for a batch of 2"):
        model.answers(IMAGES.repeat(2, 1, 1, 1, 1), given=Given(cameras(4), torch.eye(3).expand(4, 3, 3)))
    with pytest.raises(InputError, match="family da3 make no use of given depth"):
        model.answers(IMAGES, given=Given(depth=torch.ones(4, 56, 42)))
    with pytest.raises(InputError, match="monocular Depth-Anything-3 makes no use of given cameras"):
        outline(DA3Config.monocular()).require_takes({"extrinsics"})


def test_the_sky_is_far() -> None:
    generator = torch.Generator().manual_seed(0)
    depth, sky = torch.rand(2, 1, 40, 50, generator=generator), torch.rand(2, 1, 40, 50, generator=generator)
    far = far_sky(depth, sky)
    assert torch.equal(far[sky < 0.3], depth[sky < 0.3])
    assert far[sky >= 0.3].unique().item() == pytest.approx(np.quantile(depth[sky < 0.3].numpy(), 0.99), rel=1e-5)
    assert torch.equal(far_sky(depth, sky * 0), depth)
    assert torch.equal(far_sky(depth, sky * 0 + 1), depth)
    wide = torch.rand(1, 1, 700, 700, generator=generator)
    sky = torch.zeros_like(wide)
    sky[..., :100, :] = 1
    assert far_sky(wide, sky)[0, 0, 0, 0] == pytest.approx(np.quantile(wide[..., 100:, :].numpy(), 0.99), abs=2e-3)


def test_a_monocular_model_gives_depth_alone() -> None:
    config = replace(SMALLEST, start=4)
    model = seeded_model(config)
    with torch.inference_mode():
        answers = model.answers(IMAGES)
    assert model.heads == ("depth",)
    assert answers.extrinsics is None
    assert answers.depth.shape == (1, 4, 56, 42)
    with pytest.raises(InputError, match="needs a model with a camera head"):
        qv.reconstruct(model, Clip(IMAGES[0], list("abcd")))


def test_batches_are_independent() -> None:
    model = sane_model()
    other = IMAGES.flip(1, 3)
    with torch.inference_mode():
        both, alone = model.answers(torch.cat((IMAGES, other))), model.answers(other)
    for name in ("extrinsics", "depth", "depth_conf"):
        assert_close_answers({name: getattr(both, name)[1:]}, {name: getattr(alone, name)})


def test_dense_frames_alone_answer_as_among_all() -> None:
    model = sane_model()
    with torch.inference_mode():
        whole, part = model.answers(IMAGES), model.answers(IMAGES, dense=[2])
    assert_close_answers({"depth": part.depth}, {"depth": whole.depth[:, 2:3]})


def test_mixed_precision_keeps_cameras_and_sums_in_float32(tmp_path: Path) -> None:
    model = sane_model()
    folder = qv.save(model, tmp_path / "model")
    mixed = qv.load(folder, dtype="mixed")
    kinds = {name: value.dtype for name, value in mixed.state_dict().items()}
    assert {kinds[name] for name in kinds if name.startswith("cam_") or "norm" in name.partition("blocks.")[2]} == {
        torch.float32
    }
    assert {kinds[name] for name in kinds if name.startswith("head.")} == {torch.bfloat16}
    assert kinds["backbone.pretrained.blocks.0.mlp.fc1.weight"] == torch.bfloat16
    with torch.inference_mode():
        exact, rounded = model.answers(IMAGES), mixed.answers(IMAGES)
    assert rounded.depth.dtype == torch.float32
    for name, limit in (("depth", 0.05), ("extrinsics", 0.02)):
        ours, theirs = getattr(rounded, name), getattr(exact, name)
        assert 0 < ((ours - theirs).norm() / theirs.norm()).item() < limit
