"""Known intrinsics, in the forms people have them in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.lens import read_intrinsics
from quantvggt.scenes.clip import Clip


def clip(*sizes: tuple[int, int]) -> Clip:
    frames = [
        {"path": f"{index}.jpg", "width": width, "height": height, "scale": [1, 1], "offset": [0, 0]}
        for index, (width, height) in enumerate(sizes)
    ]
    return Clip(torch.zeros(len(sizes), 3, 28, 28), [f"{index}.jpg" for index in range(len(sizes))], {"frames": frames})


def lens(fx: float, fy: float, cx: float, cy: float) -> list[list[float]]:
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


def test_four_numbers_hold_for_all() -> None:
    known = read_intrinsics("500, 501,300,200").of(clip((640, 480), (640, 480)))
    np.testing.assert_array_equal(known, [lens(500, 501, 300, 200)] * 2)


def test_json_for_all_or_by_name(tmp_path: Path) -> None:
    file = tmp_path / "k.json"
    file.write_text(json.dumps({"fl_x": 500, "fl_y": 501, "cx": 300, "cy": 200}))
    np.testing.assert_array_equal(read_intrinsics(str(file)).of(clip((640, 480))), [lens(500, 501, 300, 200)])
    one, two = ({"fx": f, "fy": f, "cx": 300, "cy": 200} for f in (400, 600))
    file.write_text(json.dumps({"0.jpg": one, "1.jpg": two}))
    known = read_intrinsics(str(file)).of(clip((640, 480), (640, 480)))
    np.testing.assert_array_equal(known[:, 0, 0], [400, 600])
    with pytest.raises(InputError, match=r"none for 2\.jpg \(640x480\)"):
        read_intrinsics(str(file)).of(clip((640, 480), (640, 480), (640, 480)))


def test_colmap_cameras_by_size_and_by_image(tmp_path: Path) -> None:
    cameras = tmp_path / "cameras.txt"
    cameras.write_text("# comment\n1 SIMPLE_PINHOLE 640 480 500 320 240\n2 PINHOLE 480 640 510 511 240 320\n")
    known = read_intrinsics(str(cameras)).of(clip((480, 640), (640, 480)))
    np.testing.assert_array_equal(known, [lens(510, 511, 240, 320), lens(500, 500, 320, 240)])
    cameras.write_text("1 PINHOLE 640 480 500 500 320 240\n2 PINHOLE 640 480 600 600 320 240\n")
    with pytest.raises(InputError, match=r"several cameras of 640x480; put its images\.txt beside it"):
        read_intrinsics(str(cameras))
    (tmp_path / "images.txt").write_text("# c\n1 1 0 0 0 0 0 0 2 0.jpg\n1.0 2.0 -1\n2 1 0 0 0 0 0 0 1 1.jpg\n\n")
    known = read_intrinsics(str(cameras)).of(clip((640, 480), (640, 480)))
    np.testing.assert_array_equal(known[:, 0, 0], [600, 500])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "cannot read intrinsics '1,2,3'; give fx,fy,cx,cy"),
        ("a,b,c,d", "cannot read intrinsics"),
        ("-5,5,1,1", "make no camera"),
        ("5,nan,1,1", "make no camera"),
        ("missing.json", r"cannot read intrinsics missing\.json"),
        ("missing.txt", r"cannot read intrinsics missing\.txt"),
    ],
)
def test_what_is_no_camera(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_intrinsics(text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("k.json", "[1]", "not an object"),
        ("k.json", '{"fx": 1}', "lacks a number"),
        ("k.json", '{"a.jpg": 3}', "lacks a number"),
        ("k.json", "{", "cannot read intrinsics"),
        ("c.txt", "1 OPENCV 640 480 1 1 1 1 0 0 0 0\n", "is OPENCV; undistort"),
        ("c.txt", "1 PINHOLE\n", "cannot read intrinsics"),
        ("c.txt", "# nothing\n", "no camera in it"),
    ],
)
def test_files_that_say_nothing(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_intrinsics(str(tmp_path / name))


def test_a_principal_point_outside_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(300, 200\) lies outside 0\.jpg, 200x480"):
        read_intrinsics("500,500,300,200").of(clip((200, 480)))
