"""Names that every terminal, JSON file and export can have, from names in any bytes."""

import os
from pathlib import Path

import pytest

from quantvggt.scenes.names import frame_names, image_names, natural_order, printable


def path(name: bytes) -> Path:
    return Path(os.fsdecode(b"/photos/" + name))


def test_names_are_printable_and_ordinary_ones_stay() -> None:
    names = image_names([path(name) for name in (b"a b.jpg", b"caf\xe9.jpg", "写真.jpg".encode(), b'it\'s "x".jpg')])
    assert names == ["a b.jpg", "caf_.jpg", "写真.jpg", 'it\'s "x".jpg']
    assert image_names([path(b"two\nlines\t.jpg"), path(b"\x1b[31mred.jpg")]) == ["two_lines_.jpg", "_[31mred.jpg"]
    assert printable(path(b"\xff\n")) == "/photos/__"


@pytest.mark.parametrize(
    "names",
    [
        [b"\xe9.jpg", b"\xe8.jpg", b"_.jpg"],
        [b"a/x.jpg", b"b/x.jpg"],
        [b"a/\xe9.jpg", b"a/\xe8.jpg", b"b/\xe9.jpg"],
        [b"x.jpg", b"x.jpg"],
        [b"a/../x.jpg", b"a/x.jpg"],
        [b"d" * 250 + b"/" + b"x" * 251 + b".jpg"] * 2,
    ],
)
def test_names_differ_and_stay_inside_their_folder(names: list[bytes]) -> None:
    got = image_names([path(name) for name in names])
    assert len(set(got)) == len(names)
    for name in got:
        assert name.isprintable()
        assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in name.split("/"))
        assert name.endswith(".jpg")


def test_long_names_keep_their_beginning_and_their_suffix() -> None:
    long = "写" * 83 + ".jpg"  # 253 bytes
    (name,) = image_names([Path(long)])
    assert len(name.encode()) <= 240
    assert name.startswith("写写")
    assert name.endswith("写.jpg")
    (frame,) = frame_names(Path("x" * 251 + ".mp4"), [7])
    assert frame.endswith("x_000007")
    assert len(frame) <= 251
    assert frame_names(path(b"caf\xe9.mp4"), [0, 12]) == ["caf__000000", "caf__000012"]


def test_natural_order() -> None:
    names = ["b/1.jpg", "a/10.jpg", "a/2.jpg", "a/img1b.jpg", "a/img01a.jpg", "a b/3.jpg", "a/2.JPG"]
    ordered = sorted(map(Path, names), key=natural_order)
    assert [str(item) for item in ordered] == [
        *("a/2.JPG", "a/2.jpg", "a/10.jpg", "a/img01a.jpg", "a/img1b.jpg", "a b/3.jpg", "b/1.jpg"),
    ]
