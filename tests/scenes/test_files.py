"""What a folder, a glob and a list stand for."""

import os
from pathlib import Path

import pytest
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.files import content_of, is_picture, list_images


def write(path: Path, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, **options)


def listed(source: object, base: Path) -> list[str]:
    return [path.relative_to(base).as_posix() for path in list_images(source)]  # type: ignore[arg-type]


def test_images_that_lie_deeper_are_read_in_order_and_said_so(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/10.png", "a/2.png", "a/deep/er/3.png", ".hidden/4.png", "__MACOSX/a/2.png", "a/._2.png"):
        write(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "a" / "notes.txt").write_text("no photo")
    with pytest.warns(UserWarning, match="only in folders below it: reading all 4 from 3 folders"):
        assert listed(tmp_path, tmp_path) == ["a/2.png", "a/10.png", "a/deep/er/3.png", "b/1.png"]


def test_a_folder_with_images_stands_for_these_and_names_what_is_left_out(tmp_path: Path) -> None:
    for name in ("2.png", "10.png", "thumbnails/2.png"):
        write(tmp_path / name)
    with pytest.warns(UserWarning, match="folders below .* are left out: thumbnails"):
        assert listed(tmp_path, tmp_path) == ["2.png", "10.png"]


@pytest.mark.filterwarnings("ignore:.*holds images only in folders below")
def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "1.png")
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "a" / "back").symlink_to(photos)
    (photos / "a" / "0.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert listed(photos, photos) == ["a/0.png", "linked/1.png"]


def test_content_counts_where_there_is_no_suffix(tmp_path: Path) -> None:
    write(tmp_path / "1", format="JPEG")
    write(tmp_path / "2.png")
    (tmp_path / "README").write_text("no photo")
    write(tmp_path / "raw.cr2", format="TIFF")  # beside its JPEG it would be the same picture once more
    assert listed(tmp_path, tmp_path) == ["1", "2.png"]


def test_what_is_not_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "album.jpg").mkdir(parents=True)
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(InputError, match="no images in folder"):
        list_images(folder)
    with pytest.raises(InputError, match=r"pipe\.jpg is no regular file"):
        list_images(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list_images(folder) == [folder / "gone.jpg"]  # for the reader to complain
    with pytest.raises(InputError, match=r"gone\.jpg is a link to nothing"):
        list_images([folder / "gone.jpg"])
    assert list_images([folder / "gone.jpg", "none.jpg"], skip_unreadable=True) == [
        folder / "gone.jpg",
        Path("none.jpg"),
    ]


def test_a_folder_of_videos_names_one(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    with pytest.raises(InputError, match=r"no images in folder .*; give the video film\.mp4 itself"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"\x1aE\xdf\xa3", "video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "avif"),
        (b"\0\0\0\x18ftypMiHE\0\0\0\0mif1MiHE", "heif"),
        (b"\0\0\0\x18ftypisom\0\0\x02\0isomavc1", "video"),
        (b"text", ""),
        (b"", ""),
    ],
)
def test_content(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "x.jpg").write_bytes(start)
    assert content_of(tmp_path / "x.jpg") == kind
    assert is_picture(tmp_path / "x.jpg") == (kind != "video")
