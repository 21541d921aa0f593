"""What the model promises beyond equality with the published one: dtypes, chunks, optional heads, clear refusals."""

from dataclasses import replace

import pytest
import torch

import seeded
from close import assert_close_answers
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT, VGGTConfig, dpt
from quantvggt.models.seeded import seeded_model
from quantvggt.nn import block
from tiny import CONFIG, require_attention, sane_model, tiny_clip, tiny_model

TRACKING = replace(CONFIG, heads=("track",))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype: torch.dtype) -> None:
    require_attention(dtype)
    model, images = sane_model(), tiny_clip().images
    with torch.inference_mode():
        expected = model(images)
        outputs = model.to(dtype)(images)
    for key, value in outputs.items():
        assert value.dtype == torch.float32
        assert relative(value, expected[key]) < (0.1 if dtype == torch.bfloat16 else 0.02), key


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = sane_model(), tiny_clip(frames=5).images
    with torch.inference_mode():
        whole = model(images)
        monkeypatch.setattr(block, "MLP_ROWS_PER_CHUNK", 7)
        monkeypatch.setattr(dpt, "PIXELS_PER_CHUNK", 2 * 70 * 70)
        chunked = model(images)
    assert_close_answers(chunked, whole)


def test_gradients_flow_and_the_result_is_the_same() -> None:
    model, images = sane_model(), tiny_clip().images
    trained = model(images)
    with torch.inference_mode():
        expected = model(images)
    assert_close_answers({key: value.detach() for key, value in trained.items()}, expected)
    sum(value.mean() for value in trained.values()).backward()  # type: ignore[union-attr]
    assert model.aggregator.frame_blocks[0].attn.qkv.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_only_the_layers_that_heads_read_are_kept() -> None:
    config = replace(CONFIG, depth=4, dpt_layers=(0, 1, 1, 2))
    assert config.layers_read == (0, 1, 2, 3)
    assert replace(config, heads=("depth",)).layers_read == (0, 1, 2)
    assert replace(config, heads=("camera",)).layers_read == (3,)
    tokens = tiny_model(config).aggregator(tiny_clip().images[None], [1])
    assert list(tokens) == [1]


@pytest.mark.parametrize("head", ["camera", "depth", "point"])
def test_heads_are_optional(head: str) -> None:
    outputs = {"camera": {"pose_enc"}, "depth": {"depth", "depth_conf"}, "point": {"world_points", "world_points_conf"}}
    config = replace(CONFIG, heads=(head,))
    with torch.inference_mode():
        part, whole = tiny_model(config)(tiny_clip().images), tiny_model()(tiny_clip().images)
    assert set(part) == outputs[head]
    assert_close_answers(part, {key: whole[key] for key in part})


def test_track_head_follows_query_points() -> None:
    model, images = tiny_model(TRACKING), torch.from_numpy(seeded.images("tracks", 1, 3, 140, 154)[0])
    queries = torch.tensor([[10.0, 12.0], [40.0, 33.0]])
    with torch.inference_mode():
        outputs = model(images, queries)
    assert outputs["track"].shape == (1, 3, 2, 2)
    assert outputs["vis"].shape == outputs["conf"].shape == (1, 3, 2)
    torch.testing.assert_close(outputs["track"][0, 0], queries)
    assert ((outputs["vis"] >= 0) & (outputs["vis"] <= 1)).all()
    with pytest.raises(InputError, match="128 pixels"):
        model(images[..., :126], queries)


def test_batches_are_independent() -> None:
    model = sane_model()
    a, b = tiny_clip("a").images, tiny_clip("b").images
    with torch.inference_mode():
        both, alone = model(torch.stack((a, b))), model(b)
    assert_close_answers({key: value[1:] for key, value in both.items()}, alone)


@pytest.mark.parametrize(
    ("images", "points", "message"),
    [
        (torch.zeros(2, 3, 70, 71), None, "multiples of 14"),
        (torch.zeros(0, 3, 70, 70), None, "a frame or more"),
        (torch.zeros(2, 1, 70, 70), None, r"\[B, S, 3, H, W\]"),
        (torch.zeros(2, 3, 70, 70, dtype=torch.uint8), None, "floating point"),
        (torch.zeros(2, 3, 70, 70), torch.zeros(5, 2), "no track head"),
    ],
)
def test_refuses_what_does_not_fit(images: torch.Tensor, points: torch.Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_model()(images, points)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_embed": "resnet"}, "'resnet' is unknown"),
        ({"embed_dim": 1020}, "1024 wide"),
        ({"dpt_layers": (4, 11, 17, 24)}, r"0\.\.23"),
        ({"heads": ("camera", "nose")}, "distinct names"),
        ({"depth": 0}, "depth must be a positive whole number"),
        ({"img_size": 500}, "multiple of patch_size"),
    ],
)
def test_impossible_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VGGTConfig.from_dict({**VGGTConfig.vggt_1b().to_dict(), **change})


def test_config_round_trip_and_unknown_keys() -> None:
    assert VGGTConfig.from_dict(CONFIG.to_dict()) == CONFIG
    with pytest.raises(InputError, match="unknown keys: colour"):
        VGGTConfig.from_dict({"colour": 1})


def test_seeded_weights_keep_activations_sane() -> None:
    config = replace(CONFIG, depth=6, dpt_layers=(1, 2, 4, 5))
    first, second = seeded_model(config, seed=1), seeded_model(config, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with torch.inference_mode():
        tokens = first.aggregator(tiny_clip().images[None], [5])[5]
    assert 0.1 < tokens.std() < 10


def test_a_sharing_copy_shares_numbers_but_neither_layers_nor_conversions() -> None:
    model = tiny_model()
    copy: VGGT = model.sharing_copy()
    assert copy.aggregator.camera_token.data_ptr() == model.aggregator.camera_token.data_ptr()
    copy.set_submodule("aggregator.frame_blocks.0.attn.qkv", torch.nn.Identity())
    assert isinstance(model.aggregator.frame_blocks[0].attn.qkv, torch.nn.Linear)
    copy.to(torch.bfloat16)
    assert (copy.dtype, model.dtype) == (torch.bfloat16, torch.float32)
