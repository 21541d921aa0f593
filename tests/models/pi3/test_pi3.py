"""What the models promise beyond equality with the published ones: conventions, conditions, gradients, refusals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from close import assert_close_answers
from pi3_models import CONFIG, CONFIG_X, numbers, pi3_clip, sane_pi3, seeded_pi3
from quantvggt.calibrate.importance import task_outputs
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.models.given import Given
from quantvggt.models.pi3 import heads
from quantvggt.models.pi3.camera import lens, nearest_rotation
from quantvggt.models.pi3.conditions import Conditions, pixel_rays, relative_cameras
from quantvggt.models.pi3.config import Pi3Config, Pi3XConfig
from quantvggt.models.pi3.model import Pi3, Pi3X
from quantvggt.nn import block
from quantvggt.scenes.clip import Clip
from tiny import require_attention

CONFIGS = pytest.mark.parametrize("config", [CONFIG, CONFIG_X], ids=["pi3", "pi3x"])


def turned(angles: Sequence[float]) -> Tensor:
    """Rotations about y, and a translation."""
    a = torch.tensor(angles)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = torch.stack((a.cos(), zero, a.sin(), zero, one, zero, -a.sin(), zero, a.cos()), -1).view(-1, 3, 3)
    return torch.cat((rows, torch.stack((a, one * 0.3, a * a), -1)[..., None]), -1)


def given(frames: int = 3, height: int = 42, width: int = 56) -> Given:
    lenses = torch.tensor([[60.0, 0, width / 2], [0, 55, height / 2], [0, 0, 1]]).expand(frames, 3, 3)
    depth = 1 + torch.rand(frames, height, width, generator=torch.Generator().manual_seed(1))
    depth[:, :10] = 0
    return Given(turned([0.1 * index for index in range(frames)]), lenses, depth)


def told(model: Pi3, known: Given) -> dict[str, Tensor]:
    with torch.inference_mode():
        answers = model.answers(pi3_clip().images, given=known)
    return {name: value for name, value in vars(answers).items() if isinstance(value, Tensor)}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(((a[name] - b[name]).norm() / b[name].norm()).item() for name in b)


# Conventions


@CONFIGS
def test_answers_are_what_the_published_outputs_say(config: Pi3Config) -> None:
    model, images = sane_pi3(config), pi3_clip().images
    with torch.inference_mode():
        answers, said = model.answers(images), model(images)
    assert answers.extrinsics is not None
    assert answers.points is not None
    assert answers.depth is not None
    assert answers.depth_conf is not None
    assert answers.points_conf is not None
    assert answers.metric == (config is CONFIG_X)
    torch.testing.assert_close(answers.extrinsics[0, 0], torch.eye(3, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(answers.depth, said["local_points"][..., 2])
    first = said["camera_poses"][0, 0].double()
    last = torch.tensor([0, 0, 0, 1.0]).expand(1, 3, 1, 4)
    cameras = torch.cat((answers.extrinsics, last), dim=-2).double()
    found = first @ torch.linalg.inv(cameras[0])
    torch.testing.assert_close(found, said["camera_poses"][0].double(), rtol=1e-5, atol=1e-5)
    world = answers.points[0].double() @ first[:3, :3].T + first[:3, 3]
    torch.testing.assert_close(world, said["points"][0].double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answers.depth_conf, said["conf"][..., 0].sigmoid())
    assert torch.equal(answers.depth_conf, answers.points_conf)


@CONFIGS
def test_no_frame_is_special(config: Pi3Config) -> None:
    model, images = sane_pi3(config), pi3_clip().images
    order = [2, 0, 1]
    with torch.inference_mode():
        said, other = model(images), model(images[order])
    said = {name: value if name == "metric" else value[:, order] for name, value in said.items()}
    assert_close_answers(other, said)


@CONFIGS
def test_only_what_is_asked_for(config: Pi3Config) -> None:
    model, images = sane_pi3(config), pi3_clip().images[None]
    whole = numbers(model, images)
    with torch.inference_mode():
        features = model.encode(images)
        dense = model.read(features, images, dense=[2, 0])
        camera = model.read(features, images, heads=["camera"])
        depth = model.read(features, images, heads=["depth"], dense=[1])
        point = model.read(features, images, heads=["point"], dense=[1])
    for name in ("depth", "depth_conf", "points", "points_conf"):
        assert_close_answers({name: getattr(dense, name)}, {name: whole[name][:, [2, 0]]})
    assert_close_answers({"view": dense.view}, {"view": whole["view"]})  # type: ignore[dict-item]
    assert_close_answers({"pose": camera.extrinsics}, {"pose": whole["extrinsics"]})  # type: ignore[dict-item]
    assert camera.depth is camera.points is None
    assert_close_answers({"depth": depth.depth}, {"depth": whole["depth"][:, 1:2]})  # type: ignore[dict-item]
    assert depth.extrinsics is depth.points is depth.points_conf is None
    assert_close_answers({"points": point.points}, {"points": whole["points"][:, 1:2]})  # type: ignore[dict-item]
    assert point.extrinsics is point.depth is None


@CONFIGS
def test_batches_and_chunks_change_nothing(config: Pi3Config, monkeypatch: pytest.MonkeyPatch) -> None:
    model, a, b = sane_pi3(config), pi3_clip("a").images, pi3_clip("b").images
    whole = numbers(model, torch.stack((a, b)))
    monkeypatch.setattr(block, "MLP_ROWS_PER_CHUNK", 7)
    monkeypatch.setattr("quantvggt.models.dpt.PIXELS_PER_CHUNK", 2 * 42 * 56)
    assert_close_answers(numbers(model, b), {name: value[1:] for name, value in whole.items()})


# Rotations and lenses


def test_rotations_have_the_gradient_of_the_nearest_rotation() -> None:
    """Also where singular values are equal, as those of a rotation are, and the decomposition has none."""
    nine = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    nine[4] = torch.linalg.qr(nine[4].view(3, 3))[0].mul_(torch.linalg.qr(nine[4].view(3, 3))[0].det()).flatten()
    nine[5] = torch.eye(3, dtype=torch.float64).flatten() * 2
    nine.requires_grad_()
    assert (torch.linalg.det(nine[:4].detach().view(-1, 3, 3)) < 0).any()
    assert torch.autograd.gradcheck(nearest_rotation, nine, eps=1e-6, atol=1e-5)


def test_rotations_of_numbers_that_are_none() -> None:
    """No error, no infinite gradient, and other frames as they were."""
    nine = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    nine[1, 3], nine[2], nine[3, 3:] = torch.nan, 0, nine[3, :3].repeat(2)
    expected = nearest_rotation(nine[:1])
    nine.requires_grad_()
    rotation = nearest_rotation(nine)
    torch.testing.assert_close(rotation[:1], expected)
    assert rotation[1].isnan().all()
    for frame in (2, 3):
        torch.testing.assert_close(rotation[frame] @ rotation[frame].T, torch.eye(3), atol=1e-5, rtol=0)
    rotation[[0, 2, 3]].sum().backward()
    assert nine.grad is not None
    assert nine.grad[[0, 2, 3]].isfinite().all()


def test_lenses_from_rays() -> None:
    """Exact rays give their lens back, a blind frame gives none, and neither spoils gradients."""
    truth = torch.tensor([[61.0, 0, 28], [0, 47, 21], [0, 0, 1]])
    rays = pixel_rays(truth[None], (42, 56))[0].movedim(0, -1).repeat(3, 1, 1, 1)
    rays[0, :5] = torch.nan
    rays[1] = 0
    rays.requires_grad_()
    found = lens(rays)
    torch.testing.assert_close(found[[0, 2]], truth.expand(2, 3, 3))
    assert (found[1, :2, :2] == 0).all()
    found.sum().backward()
    assert rays.grad is not None
    assert rays.grad[rays.isfinite()].isfinite().all()
    noisy = rays.detach()[2:] + 0.1 * torch.randn(1, 42, 56, 2, generator=torch.Generator().manual_seed(0))
    u = (np.arange(56) - 27.5)[None].repeat(42, 0).ravel()
    expected, *_ = np.linalg.lstsq(noisy[0, ..., 0].double().numpy().reshape(-1, 1), u, rcond=None)
    assert lens(noisy)[0, 0, 0].item() == pytest.approx(expected[0], rel=1e-6)


# Blocks one after the other


def through(model: Pi3, part: Any, clip: Clip) -> Tensor:
    """What comes out behind the last block of a part."""
    stream = Stream.start(part, model, [clip])
    for place in part.places:
        stream = stream.after(model.get_submodule(place.name), place)
    return stream.tokens[0]


@CONFIGS
def test_the_stream_between_blocks_is_the_models_own(config: Pi3Config) -> None:
    model, clip = sane_pi3(config), pi3_clip()
    seen: dict[str, Tensor] = {}
    expected = {"encoder": model.encoder.norm, "trunk": model.decoder[-1]}
    expected |= {
        f"{name}_decoder": getattr(model, f"{name}_decoder").linear_out for name in ("point", "conf", "camera")
    }
    encoder, *between, trunk, point, conf, camera = model.parts
    assert trunk.places == model.trunk.places
    assert len(between) == (config is CONFIG_X)
    handles = [
        expected["encoder"].register_forward_pre_hook(lambda _, args: seen.update(encoder=args[0])),
        expected["trunk"].register_forward_hook(lambda _, __, output: seen.update(trunk=output)),
    ]
    for name in ("point_decoder", "conf_decoder", "camera_decoder"):

        def keep(_: object, args: tuple[Tensor], name: str = name) -> None:
            seen[name] = args[0]

        handles.append(expected[name].register_forward_pre_hook(keep))
    numbers(model, clip.images)
    for handle in handles:
        handle.remove()
    got = {
        "encoder": through(model, encoder, clip)[:, 5:],  # its norm sees patches alone
        "trunk": through(model, trunk, clip).flatten(0, 1)[None],
        "point_decoder": through(model, point, clip),
        "conf_decoder": through(model, conf, clip),
        "camera_decoder": through(model, camera, clip),
    }
    assert_close_answers(got, seen)


def test_the_encoder_of_depths_sees_depths() -> None:
    model, clip = sane_pi3(CONFIG_X), pi3_clip()
    assert isinstance(model, Pi3X)
    seen: list[Tensor] = []
    model.depth_encoder.blocks[-1].register_forward_hook(lambda _, __, output: seen.append(output))
    depth = numbers(model, clip.images)["depth"][0]
    told(model, Given(depth=depth))
    part = model.parts[1]
    assert part.places[0].name == "depth_encoder.blocks.0"
    assert_close_answers({"tokens": through(model, part, clip)}, {"tokens": seen[0]})


# Gradients


@CONFIGS
def test_gradients_flow_from_every_task_and_are_finite(config: Pi3Config) -> None:
    model, images = sane_pi3(config), pi3_clip().images[None]
    tasks = task_outputs(model, model.encode(images), images)
    assert len(tasks) == 5  # rotations, translations, fields of view, depth, points
    for task in tasks:
        (gradient,) = torch.autograd.grad(task.sum(), model.encoder.blocks[0].attn.qkv.weight, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.norm() > 0


# What is known


def test_what_is_told_is_heard_and_units_and_worlds_are_not() -> None:
    model, known = sane_pi3(CONFIG_X), given()
    plain, everything = numbers(model, pi3_clip().images), told(model, known)
    assert plain.keys() == everything.keys()
    for name in ("extrinsics", "intrinsics", "depth"):
        alone = told(model, Given(**{name: getattr(known, name)}))
        assert distance(alone, plain) > 1e-3, name
        assert distance(alone, everything) > 1e-3, name
    assert known.extrinsics is not None
    assert known.depth is not None
    # Answers are the cameras given, in their world and unit; how they lie to one another alone is heard.
    assert torch.equal(everything["extrinsics"][0], known.extrinsics)
    assert torch.equal(everything["intrinsics"][0], given().intrinsics)  # type: ignore[arg-type]
    elsewhere, shift = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), torch.tensor([0.5, -1, 2])
    turn = known.extrinsics[..., :3] @ elsewhere
    for scale in (1.0, 7.0):
        extrinsics = torch.cat((turn, scale * (known.extrinsics[..., 3] + turn @ shift)[..., None]), dim=-1)
        again = told(model, Given(extrinsics, known.intrinsics, known.depth * scale))
        assert torch.equal(again["extrinsics"][0], extrinsics)
        assert distance({"depth": again["depth"] / scale}, {"depth": everything["depth"]}) < 1e-4
        back = (again["points"] / scale + shift) @ elsewhere.T
        assert distance({"points": back}, {"points": everything["points"]}) < 1e-4


def test_points_lie_where_the_cameras_that_are_told_see_them() -> None:
    model, known = sane_pi3(CONFIG_X), given()
    assert known.extrinsics is not None
    with torch.inference_mode():
        answers = model.answers(pi3_clip().images, given=known, dense=[2, 0])
        own = model.answers(pi3_clip().images)
    assert answers.points is not None
    assert answers.depth is not None
    assert (answers.metric, own.metric) == (False, True)
    for frame, points, depth in zip((2, 0), answers.points[0], answers.depth[0], strict=True):
        seen = points @ known.extrinsics[frame, :, :3].T + known.extrinsics[frame, :, 3]
        torch.testing.assert_close(seen[..., 2], depth, rtol=1e-4, atol=1e-4)


def test_cameras_that_hardly_move_keep_their_distances() -> None:
    near = turned([0.0, 0.001, 0.002])
    near[:, :, 3] *= torch.tensor([0.0, 1, 2])[:, None] * 0.001
    assert relative_cameras(near, None)[..., 3].norm(dim=-1).max() < 0.02
    far = relative_cameras(turned([0.0, 0.5, 1.0]), None)[..., 3].norm(dim=-1)
    assert far[0] == 0
    assert far[1:].mean().item() == pytest.approx(1)


def test_frames_of_which_nothing_is_known_hear_nothing() -> None:
    """Numbers, not NaN: whatever stands there has no say."""
    model, images = sane_pi3(CONFIG_X), pi3_clip().images[None]
    whole = Conditions.of(given(), (42, 56))
    assert whole.depth is not None
    assert whole.rays is not None
    assert whole.cameras is not None
    no, some = torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, True])

    def features(known: Tensor, junk: float) -> Tensor:
        parts: dict[str, Any] = {}
        for name in ("depth", "rays", "cameras"):
            value = getattr(whole, name)[0].clone()
            value[~known] = junk
            parts[name] = value, known
        with torch.inference_mode():
            return model.encode(images, Conditions(**parts))

    with torch.inference_mode():
        plain = model.encode(images)
    for junk in (0.0, 3.0):
        assert_close_answers({"x": features(no, junk)}, {"x": plain})
    assert_close_answers({"x": features(some, 0.0)}, {"x": features(some, 3.0)})
    single = Conditions(cameras=(whole.cameras[0], torch.tensor([False, True, False])))
    with torch.inference_mode():
        assert_close_answers({"x": model.encode(images, single)}, {"x": plain})
    assert distance({"x": features(some, 0.0)}, {"x": plain}) > 1e-3


def test_one_frame_with_all_that_is_known() -> None:
    model = sane_pi3(CONFIG_X)
    with torch.inference_mode():
        answers = model.answers(pi3_clip(frames=1).images, given=given(frames=1))
    assert answers.depth is not None
    assert answers.depth.isfinite().all()


@pytest.mark.parametrize(("config", "message"), [
    (CONFIG, "family pi3 make no use of given depth; families that do: .*pi3x"),
    (replace(CONFIG_X, conditions=False), "without what it needs to be told"),
])  # fmt: skip
def test_who_can_be_told_nothing_says_so(config: Pi3Config, message: str) -> None:
    with pytest.raises(InputError, match=message):
        told(seeded_pi3(config), Given(depth=torch.ones(3, 42, 56)))


def test_a_lens_that_is_none_is_refused() -> None:
    lenses = torch.eye(3).repeat(3, 1, 1)
    lenses[1, 0, 0] = 0
    with pytest.raises(InputError, match="fx and fy above 0"):
        told(seeded_pi3(CONFIG_X), Given(intrinsics=lenses))


def test_cameras_are_told_to_a_model_that_sees_none() -> None:
    """Numbers that aren't finite, which reconstruction leaves out; no error of the matrix library."""
    model = seeded_pi3(CONFIG_X)
    model.camera_head.fc_t.bias.data[:] = torch.nan
    answers = told(model, given())
    assert answers["extrinsics"].isfinite().all()
    assert answers["depth"].isnan().all()


# Precision


@CONFIGS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(config: Pi3Config, dtype: torch.dtype) -> None:
    require_attention(dtype)
    model = sane_pi3(config)
    expected = numbers(model, pi3_clip().images)
    known = told(model, given()) if config is CONFIG_X else {}
    model = model.to(dtype)
    outputs = numbers(model, pi3_clip().images)
    assert {value.dtype for value in outputs.values()} == {torch.float32}
    assert distance(outputs, expected) < (0.15 if dtype == torch.bfloat16 else 0.03)
    if known:
        assert distance(told(model, given()), known) < (0.15 if dtype == torch.bfloat16 else 0.03)


@CONFIGS
def test_mixed_precision_is_closer_than_bfloat16(config: Pi3Config) -> None:
    require_attention(torch.bfloat16)
    images = pi3_clip().images
    exact, narrow, mixed = sane_pi3(config), sane_pi3(config).to(torch.bfloat16), sane_pi3(config)
    held = mixed.mix(torch.bfloat16)
    assert {"encoder.blocks.0.attn.qkv.weight", "decoder.1.mlp.fc2.bias", "encoder.patch_embed.proj.weight"} <= held
    assert not any(name.startswith(("camera", "point_head", "conf_head", "metric")) for name in held)
    for name, value in mixed.named_parameters():
        if name in held:
            value.data = value.data.to(torch.bfloat16)
    expected, close, far = numbers(exact, images), numbers(mixed, images), numbers(narrow, images)
    assert {value.dtype for value in close.values()} == {torch.float32}
    assert 0 < distance(close, expected) < distance(far, expected)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be a positive whole number"),
        ({"depth": 1}, "last two blocks"),
        ({"img_size": 500}, "multiple of patch_size"),
        ({"embed_dim": 1000}, "multiple of 1"),
        ({"head_dim": 1000}, "multiple of 4"),
        ({"metric_dim": 500}, "multiple of 4"),
        ({"head_channels": (256, 100)}, "multiples of 16"),
        ({"head_channels": ()}, "multiples of 16"),
        ({"pose_after": (1, 36)}, r"distinct blocks of 0\.\.35"),
        ({"pose_after": (1, 1)}, "distinct blocks"),
        ({"conditions": 1}, "true or false"),
        ({"colour": 1}, "unknown keys: colour"),
    ],
)
def test_impossible_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pi3XConfig.from_dict({**Pi3XConfig().to_dict(), **change})


@pytest.mark.parametrize("config", [CONFIG, CONFIG_X, Pi3XConfig()])
def test_configurations_survive_json(config: Pi3Config) -> None:
    assert type(config).from_dict(config.to_dict()) == config


def test_images_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="multiples of 14"):
        seeded_pi3(CONFIG)(torch.zeros(2, 3, 42, 57))


def test_places_end_at_half_a_cell_from_the_rim() -> None:
    """Of a wide picture's corner cells: the diagonal through all of it is from -1 to 1."""
    u, v = heads._with_places(torch.zeros(1, 0, 2, 4), 2.0)[0]
    torch.testing.assert_close(u[0], torch.tensor([-3, -1, 1, 3]) / 4 * 2 / 5**0.5)
    torch.testing.assert_close(v[:, 0], torch.tensor([-1, 1]) / 2 / 5**0.5)
