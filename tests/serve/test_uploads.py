"""Files by strangers: names, types, sizes, zips, each refused for its own reason."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.serve.limits import Limits, frames_that_fit
from quantvggt.serve.uploads import NoRoom, TooLarge, WrongType, check, check_room, distinct, is_zip, safe_name, unpack
from videos import write_video

LIMITS = Limits(files=4, picture_pixels=10_000, pixels=30_000, request_bytes=3 * 2**20)


def photo(path: Path, size: tuple[int, int] = (40, 30), kind: str | None = None) -> Path:
    Image.fromarray(np.zeros((*size[::-1], 3), np.uint8)).save(path, kind)
    return path


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "\\\\server\\share\\a.jpg", "..\\a.jpg", "C:\\a.jpg", "c:a.jpg",
     "a\0.jpg", "..", "/"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="leads out of the folder it is for; send the name alone"):
        safe_name(name)


@pytest.mark.parametrize("name", ["", ".", "...", "photos/", " "])
def test_no_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no name of a file"):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.jpg", "a.jpg"),
        ("holiday/day 1/IMG_1.JPG", "IMG_1.JPG"),
        ("holiday\\IMG_1.JPG", "IMG_1.JPG"),
        ("..a.jpg", "a.jpg"),
        (".hidden.png", "hidden.png"),
        ("Zürich 東京.jpg", "Zürich 東京.jpg"),
        ("gpj.\u202eexe.jpg", "gpj._exe.jpg"),
        ("a\r\nb\x1b[31m.jpg", "a__b_[31m.jpg"),
        ("\ud800.jpg", "_.jpg"),
        ('at 9:30<c>"|?*.jpg', "at 9_30_c_____.jpg"),
        ("NUL.jpg", "_NUL.jpg"),
        ("com1", "_com1"),
        ("console.jpg", "console.jpg"),
    ],
)
def test_other_names_are_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_long_names_keep_their_suffix_and_equal_ones_get_numbers() -> None:
    assert len(safe_name("ü" * 3000 + ".jpg").encode()) <= 240
    assert safe_name("ü" * 3000 + ".jpg").endswith(".jpg")
    assert distinct(["a.jpg", "b.jpg"]) == ["a.jpg", "b.jpg"]
    assert distinct(["a.jpg", "b.jpg", "A.JPG"]) == ["0000_a.jpg", "0001_b.jpg", "0002_A.JPG"]


def test_pictures_or_one_video(tmp_path: Path) -> None:
    pictures = [photo(tmp_path / "a.jpg"), photo(tmp_path / "b", kind="PNG"), photo(tmp_path / "c.txt", kind="WEBP")]
    write_video(tmp_path / "film.mp4", 3)
    (tmp_path / "film.mp4").rename(tmp_path / "film.jpg")
    assert check(pictures, LIMITS) is False
    assert check([tmp_path / "film.jpg"], LIMITS) is True
    with pytest.raises(InputError, match=r"^film.jpg is a video and doesn't come alone"):
        check([*pictures, tmp_path / "film.jpg"], LIMITS)
    with pytest.raises(InputError, match="no files"):
        check([], LIMITS)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile a.mp4\n",
     b"%!PS-Adobe-3.0\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n",
     b"PK\x03\x04" + bytes(60), b"\x7fELF" + bytes(60)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.jpg", "a.mp4"])
def test_what_is_neither_is_refused_whatever_its_name(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WrongType, match=rf"^cannot read image {name}: "):
        check([tmp_path / name], LIMITS)


def test_a_torn_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:200])
    with pytest.raises(WrongType, match=r"^cannot open a.mp4 as a video"):
        check([tmp_path / "a.mp4"], LIMITS)


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes whose header announces that size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_bombs_are_known_by_their_headers(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"^a.png is 20000x20000: more than 0.01 million pixels; scale it down"):
        check([bomb(tmp_path / "a.png", 20000, 20000)], LIMITS)
    with pytest.raises(WrongType, match="its header says 60000x60000"):
        check([bomb(tmp_path / "b.png", 60000, 60000)], LIMITS)
    with pytest.raises(InputError, match=r"c.png is 2x900, which is too long and thin"):
        check([bomb(tmp_path / "c.png", 2, 900)], LIMITS)
    write_video(tmp_path / "film.mp4", 3)
    with pytest.raises(TooLarge, match=r"film.mp4 is 56x28: more than"):
        check([tmp_path / "film.mp4"], Limits(picture_pixels=1000))


def test_too_many(tmp_path: Path) -> None:
    files = [photo(tmp_path / f"{index}.png", (90, 100)) for index in range(5)]
    with pytest.raises(TooLarge, match="5 files, 4 are allowed"):
        check(files, LIMITS)
    with pytest.raises(TooLarge, match=r"36000 pixels|million pixels, 0.03 are allowed"):
        check(files[:4], LIMITS)
    assert check(files[:3], LIMITS) is False


Fill = Callable[[zipfile.ZipFile], None]


def zipped(path: Path, fill: Fill, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        fill(archive)
    return path


def test_a_zip_is_unpacked_flat_in_natural_order(tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        for name in ("p/img10.jpg", "p/img2.jpg", "q/img2.jpg", "__MACOSX/p/._img2.jpg", "p/.DS_Store", "p/sub/"):
            archive.writestr(name, name)

    archive = zipped(tmp_path / "a.zip", fill)
    assert is_zip(archive)
    (tmp_path / "out").mkdir()
    files = unpack(archive, tmp_path / "out", LIMITS)
    assert [file.name for file in files] == ["0000_img2.jpg", "0001_img10.jpg", "0002_img2.jpg"]
    assert [file.read_text() for file in files] == ["p/img2.jpg", "p/img10.jpg", "q/img2.jpg"]


def entry(name: str, **known: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in known.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("fill", "kind", "reason"),
    [
        (lambda a: a.writestr("../../x.jpg", b"x"), InputError, "leads out of the folder"),
        (lambda a: a.writestr("/x.jpg", b"x"), InputError, "leads out of the folder"),
        (lambda a: a.writestr("C:/x.jpg", b"x"), InputError, "leads out of the folder"),
        (lambda a: a.writestr("../", b""), InputError, "leads out of the folder"),
        (lambda a: a.writestr(entry("l.jpg", external_attr=0o120777 << 16), b"/etc"), InputError, "link or a device"),
        (lambda a: a.writestr("x.jpg", b"x", zipfile.ZIP_LZMA), InputError, "packed in a rare way"),
        (lambda a: a.writestr("x.jpg", bytes(2 * 2**20), zipfile.ZIP_DEFLATED), TooLarge, "packed more than 100 times"),
        (lambda a: [a.writestr(f"{i}.jpg", bytes(2**20)) for i in range(4)], TooLarge, "unpacks to 4,194,304 bytes"),
        (lambda a: [a.writestr(f"{i}.jpg", b"x") for i in range(5)], TooLarge, "5 files, 4 are allowed"),
        (lambda a: None, WrongType, "damaged"),
        (lambda a: a.writestr("empty/", b""), InputError, "has no files"),
    ],
)  # fmt: skip
def test_zip_tricks(tmp_path: Path, fill: Fill, kind: type[InputError], reason: str) -> None:
    archive = zipped(tmp_path / "a.zip", fill)
    if reason == "damaged":
        archive.write_bytes(archive.read_bytes()[:-5])
    (tmp_path / "out").mkdir()
    with pytest.raises(kind, match=reason):
        unpack(archive, tmp_path / "out", LIMITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]
    assert not any((tmp_path / "out").iterdir())


def test_encrypted_and_lying_entries(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", lambda a: a.writestr("x.jpg", bytes(range(256)) * 40))
    data = archive.read_bytes()
    central = data.index(b"PK\x01\x02")
    (tmp_path / "out").mkdir()
    archive.write_bytes(data[: central + 8] + b"\x01" + data[central + 9 :])
    with pytest.raises(InputError, match="is encrypted"):
        unpack(archive, tmp_path / "out", LIMITS)
    archive.write_bytes(data[: central + 24] + struct.pack("<I", 5) + data[central + 28 :])  # its size, of 10240 bytes
    with pytest.raises(WrongType, match="damaged"):
        unpack(archive, tmp_path / "out", LIMITS)
    assert (tmp_path / "out" / "x.jpg").stat().st_size <= 5


def test_room_on_the_disk(tmp_path: Path) -> None:
    check_room(tmp_path, 10, Limits(spare_bytes=1))
    with pytest.raises(NoRoom, match="no room on the disk"):
        check_room(tmp_path, 10, Limits(spare_bytes=2**62))


def test_limits_are_above_0_and_fit_the_machine() -> None:
    with pytest.raises(InputError, match="queue is 0; it must be above 0"):
        Limits(queue=0)
    assert [frames_that_fit(memory * 2**30) for memory in (1, 4, 8, 64)] == [8, 16, 32, 64]
    assert 8 <= frames_that_fit() <= 64
