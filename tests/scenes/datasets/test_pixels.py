"""Truth is carried along with pixels: exactly, or as published loaders do it where a mode is named for them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets import Picture, open_dataset
from quantvggt.scenes.datasets.pixels import place
from quantvggt.scenes.datasets.views import View, clip_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/datasets/resize_and_intrinsics.json").read_text())
CAMERAS = [name for name in GOLDEN if name != "model_input_sizes"]
RESIZED = {
    "uniform_resize_518": Picture(518, "uniform"),
    "crop_resize_512x384": Picture(512, "crop-resize", 384),
    "crop_resize_518x392": Picture(518, "crop-resize", 392),
}


def blank(size: list[int]) -> Image.Image:
    return Image.new("RGB", tuple(size))


@pytest.mark.parametrize(
    ("camera", "way"), [(camera, way) for camera in CAMERAS for way in RESIZED if way in GOLDEN[camera]]
)
def test_published_modes_repeat_published_intrinsics_and_indices(camera: str, way: str) -> None:
    told, wanted = GOLDEN[camera], GOLDEN[camera][way]
    lens = np.array(told["K_in"])
    lens[:2, 2] += 0.5  # published centres are whole numbers
    placed = place(blank(told["input_wh"]), lens, RESIZED[way])
    assert list(placed.pixels.shape[1:]) == wanted["output_hw"]
    found = placed.lens.copy()
    found[:2, 2] -= 0.5
    assert found == pytest.approx(np.array(wanted["K_out"]), abs=1e-6)
    assert placed.columns[:10].tolist() == wanted["source_cols_0_to_9"]
    assert placed.rows[:10].tolist() == wanted["source_rows_0_to_9"]
    assert [placed.columns[0], placed.columns[-1]] == wanted["source_col_first_last"]
    assert [placed.rows[0], placed.rows[-1]] == wanted["source_row_first_last"]
    assert placed.scale == pytest.approx((wanted["true_scale_x"], wanted["true_scale_y"])) if "uniform" in way else True


@pytest.mark.parametrize("told", GOLDEN["model_input_sizes"], ids=lambda told: "x".join(map(str, told["input_wh"])))
def test_model_inputs_have_the_published_sizes(told: dict[str, list[int]]) -> None:
    for mode in ("crop", "pad"):
        placed = place(blank(told["input_wh"]), np.eye(3), Picture(518, mode))
        assert list(placed.pixels.shape[1:]) == told[f"{mode}_mode_hw"]


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64)], ids=str)
@pytest.mark.parametrize(
    "picture", [Picture(70), Picture(70, "pad"), Picture(84, "stretch", 28), Picture(57, "pi3")], ids=str
)
def test_a_point_stays_where_the_picture_shows_it(picture: Picture, size: tuple[int, int]) -> None:
    """A white cross on black moves to where the intrinsics put its centre, and its truth with it."""
    width, height = size
    column, row = width // 2 + 9, height // 2 - 7
    pixels, values = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.float32)
    pixels[row - 2 : row + 3, column - 2 : column + 3] = 255
    values[row - 2 : row + 3, column - 2 : column + 3] = 5
    lens = np.array([[80.0, 0, 40], [0, 75, 33], [0, 0, 1]])
    placed = place(Image.fromarray(pixels), lens, picture)
    ray = np.linalg.inv(lens) @ [column + 0.5, row + 0.5, 1]
    expected = (placed.lens @ ray)[:2]
    inside = placed.pixels.mean(0).numpy() * (placed.sample(np.ones_like(values)) > 0)
    for seen in (inside, placed.sample(values)):
        where = np.indices(seen.shape)[::-1] + 0.5
        centre = (where * seen).sum((1, 2)) / seen.sum()
        assert centre == pytest.approx(expected, abs=0.5)
    assert np.array(placed.scale) * (column + 0.5, row + 0.5) + placed.offset == pytest.approx(expected)


def test_padding_keeps_truth_and_intrinsics_with_the_picture() -> None:
    lens = np.array([[80.0, 0, 40], [0, 75, 33], [0, 0, 1]])
    values = np.arange(1, 29 * 28 + 1, dtype=np.float32).reshape(29, 28)
    placed = place(Image.new("RGB", (28, 29)), lens, Picture(28, "stretch", 28))
    padded = placed.centred(42, 56)
    assert padded.pixels.shape == (3, 42, 56)
    assert np.array_equal(padded.sample(values)[7:35, 14:42], placed.sample(values))
    assert np.count_nonzero(padded.sample(values)) == 28 * 28
    assert padded.lens[:2, 2] == pytest.approx(placed.lens[:2, 2] + (14, 7))
    assert padded.offset == (14, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Picture(518, "squash"), "unknown way to prepare pictures 'squash'; choose one of: crop, pad"),
        (lambda: Picture(500), "picture size 500 is not a positive multiple of 14"),
        (lambda: Picture(0), "picture size 0"),
        (lambda: Picture(518, "stretch", 13), "picture size 13"),
        (lambda: Picture(518, "crop", 392), "have the height that follows"),
    ],
)
def test_pictures_that_cannot_be_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_a_principal_point_outside_is_refused_where_it_is_cut_around() -> None:
    lens = np.array([[80.0, 0, 200], [0, 75, 33], [0, 0, 1]])
    with pytest.raises(InputError, match="lies outside a picture of 90x60"):
        place(Image.new("RGB", (90, 60)), lens, Picture(28, "crop-resize"))


@pytest.mark.parametrize("mode", ["crop", "longest", "area"])
def test_pictures_of_unequal_sides_share_a_size_with_their_truth(mode: str) -> None:
    """Padded, cut, or resized as the first: the depth of each pixel is that of the original pixel under its centre."""
    rows, columns = np.indices((61, 90))
    sides = ((61, 90), (50, 90), (61, 70))
    views = []
    for height, width in sides:
        depth = (1 + rows[:height, :width] + 1000 * columns[:height, :width]).astype(np.float32)
        lens = np.array([[80.0, 0, width / 2], [0, 75, height / 2], [0, 0, 1]])
        image = Image.new("RGB", (width, height), "black")
        views.append(View("a", Path("a.png"), image, lens, np.eye(4)[:3], depth, depth > 0))
    clip = clip_of(open_dataset("synthetic"), "room", views, Picture(70, mode))
    height, width = clip.images.shape[2:]
    y, x = np.indices((height, width)) + 0.5
    for index, frame in enumerate(clip.source["frames"]):
        (scale_x, scale_y), (left, top) = frame["scale"], frame["offset"]
        u, v = np.floor((x - left) / scale_x), np.floor((y - top) / scale_y)
        inside = (u >= 0) & (u < sides[index][1]) & (v >= 0) & (v < sides[index][0])
        assert np.array_equal(clip.truth.depth[index], np.where(inside, 1 + v + 1000 * u, 0))
        assert np.array_equal(clip.truth.valid[index], inside)
        assert not clip.images[index][:, torch.from_numpy(inside)].any()  # black inside, white around
        centre = np.array([sides[index][1] / 2 * scale_x + left, sides[index][0] / 2 * scale_y + top])
        assert clip.truth.intrinsics[index, :2, 2].numpy() == pytest.approx(centre, rel=1e-5)
    assert (mode == "crop") == bool((clip.images == 1).any())
