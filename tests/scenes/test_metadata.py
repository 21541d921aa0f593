"""Damaged metadata doesn't cost a picture, and doesn't turn it the wrong way."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantvggt.scenes.metadata import orientation_in, without_metadata
from quantvggt.scenes.picture import read_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

EXIF = b"Exif\0\0"
BAD_RATIONAL = struct.pack("<HHII", 0x011A, 10, 1, 38)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 5, y * 7, 0 * x + 90], -1).astype(np.uint8))


def tiff(*entries: bytes, tail: bytes = b"") -> bytes:
    """A block of EXIF, little endian, with these entries."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + tail


def orientation(value: int, kind: int = 3) -> bytes:
    return struct.pack("<HHI", 0x0112, kind, 1) + struct.pack("<H" if kind == 3 else "<I", value).ljust(4, b"\0")


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture().save(stream, kind, **options)
    return stream.getvalue()


def jpeg_with(exif: bytes, marker: bytes = b"\xff\xe1") -> bytes:
    jpeg = encoded("JPEG", quality=95)
    return jpeg[:2] + marker + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png_with(*chunks: bytes) -> bytes:
    png = encoded("PNG")
    return png[:33] + b"".join(chunks) + png[33:]


BROKEN = {
    "a rational with a negative denominator": tiff(orientation(6), BAD_RATIONAL, tail=struct.pack("<ii", -1, 0)),
    "cut in the middle": tiff(orientation(6), BAD_RATIONAL)[:24],
    "more entries than there are": tiff(orientation(6)).replace(b"\x01\0\x12\x01", b"\xff\xff\x12\x01", 1),
    "an offset beyond the end": tiff(orientation(6), struct.pack("<HHII", 0x8769, 4, 1, 2**31)),
    "a directory that is its own next": tiff(orientation(6))[:-4] + struct.pack("<I", 8),
    "an entry of an unknown type": tiff(orientation(6), struct.pack("<HHII", 0x0131, 99, 7, 3)),
    "a count that is too large": tiff(orientation(6), struct.pack("<HHII", 0x010F, 2, 2**32 - 1, 26)),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_broken_exif_leaves_the_picture_and_its_orientation(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    exif = BROKEN[name]
    if kind == "jpg":
        file.write_bytes(jpeg_with(EXIF + exif))
    elif kind == "png":
        file.write_bytes(png_with(chunk(b"eXIf", exif)))
    else:
        file.write_bytes(encoded("WEBP", lossless=True, exif=EXIF + exif))
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    got = read_image(file)
    assert got.size == (32, 48)
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(upright), atol=12 if kind == "jpg" else 0)


@pytest.mark.parametrize("value", [0, 1, 9, 65535])
def test_an_absurd_orientation_is_none(tmp_path: Path, value: int) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_with(EXIF + tiff(orientation(value))))
    assert read_image(tmp_path / "a.jpg").size == (48, 32)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(EXIF),
        jpeg_with(EXIF + b"XX*\0\xff\xff\xff\xff" * 3),
        jpeg_with(b"ICC_PROFILE\0\x09\x02" + b"nonsense" * 9, b"\xff\xe2"),
        jpeg_with(b"Photoshop 3.0\x008BIM\xff\xff\xff", b"\xff\xed"),
        jpeg_with(b"MPF\0II*\0\xff\xff\xff\xff", b"\xff\xe2"),
        jpeg_with(b"\xff" * 99, b"\xff\xfe"),
        png_with(chunk(b"iCCP", b"name\0\0not compressed at all")),
        png_with(chunk(b"iCCP", b"no zero byte")),
        png_with(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 80_000_000, 9))),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + zlib.compress(b"x" * 80_000_000, 9))),
        png_with(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) for _ in range(70)]),
        png_with(chunk(b"tEXt", b"Comment\0fine", crc=7)),
        png_with(chunk(b"pHYs", b"short")),
        png_with(chunk(b"gAMA", b"")),
        png_with(chunk(b"cHRM", b"\xff" * 5)),
        encoded("WEBP", lossless=True, icc_profile=b"no profile", xmp=b"<no xml", exif=b"\xff" * 5),
    ],
    ids=range(16),
)
def test_other_broken_metadata(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    got = np.asarray(read_image(tmp_path / "a"), np.float32)
    np.testing.assert_allclose(got, np.asarray(picture()), atol=12 if data[:1] == b"\xff" else 0)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_is_read_in_both_byte_orders(value: int, kind: int) -> None:
    assert orientation_in(EXIF + tiff(orientation(value, kind))) == value
    big = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, kind, 1)
    assert orientation_in(big + struct.pack(">H" if kind == 3 else ">I", value).ljust(4, b"\0")) == value


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_without_metadata_the_pixels_are_the_same(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(kind, exif=exif, icc_profile=b"profile", lossless=True)
    clean, found = without_metadata(data)
    assert len(clean) < len(data)
    assert orientation_in(found) == 6
    with Image.open(io.BytesIO(clean)) as image, Image.open(io.BytesIO(data)) as whole:
        assert "exif" not in image.info
        assert "icc_profile" not in image.info
        np.testing.assert_array_equal(np.asarray(image), np.asarray(whole))


def test_transparency_and_palettes_outlive_stripping(tmp_path: Path) -> None:
    palette = Image.new("P", (28, 28), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    stream = io.BytesIO()
    palette.save(stream, "PNG", transparency=1)
    png = stream.getvalue()
    (tmp_path / "a.png").write_bytes(
        png[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9)) + png[33:]
    )
    assert read_image(tmp_path / "a.png").getpixel((3, 3)) == (255, 255, 255)


def test_random_damage_in_metadata_never_raises(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = tiff(orientation(6), BAD_RATIONAL, struct.pack("<HHII", 0x8769, 4, 1, 26), tail=bytes(40))
    for trial in range(150):
        exif = bytearray(whole)
        for place in rng.integers(0, len(exif), 4):
            exif[place] = rng.integers(256)
        (tmp_path / "a.jpg").write_bytes(jpeg_with(EXIF + exif[: rng.integers(1, len(exif) + 1)]))
        assert sorted(read_image(tmp_path / "a.jpg").size) == [32, 48], trial


def thumbnail() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("length", [2, 30, 400, 60000])
@pytest.mark.parametrize("content", [b"Exif\0\0II*\0", EXIF + tiff(orientation(6)) + thumbnail()])
def test_a_length_of_exif_that_is_wrong(tmp_path: Path, length: int, content: bytes) -> None:
    jpeg = encoded("JPEG", quality=95)
    whole = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", length) + content + jpeg[2:]
    clean, _ = without_metadata(whole)
    with Image.open(io.BytesIO(clean)) as image:
        np.testing.assert_allclose(np.asarray(image, np.float32), np.asarray(picture()), atol=12)
    if length > len(content):  # a shorter one Pillow reads by itself
        (tmp_path / "a.jpg").write_bytes(whole)
        assert read_image(tmp_path / "a.jpg").size == (48, 32)
