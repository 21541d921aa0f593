"""One file to one picture: by its content, of any kind of pixels, transparent or not."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes import picture as module
from quantvggt.scenes.picture import read_image, read_picture


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 5, y * 7, 0 * x + 90], -1).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF"])
def test_the_content_decides_whatever_the_suffix(tmp_path: Path, kind: str) -> None:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    for name in ("a.jpg", "a.heic", "a.mp4", "a"):
        gradient().save(tmp_path / name, format=kind, quality=95)
        got = np.asarray(read_image(tmp_path / name), np.float32)
        assert np.abs(got - np.asarray(gradient())).mean() < 8


@pytest.mark.parametrize("name", ["a.heic", "b.jpg"])
def test_without_its_reader_heic_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=rf"{name}: HEIF needs a reader; pip install pillow-heif, or this package"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
def test_transparency_is_white_and_told(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (28, 28), (0, 0, 0, 255))
    clear.paste((255, 255, 255, 0) if mode == "1" else (90, 90, 90, 0), (0, 0, 14, 28))
    file = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        clear.convert(mode).save(file)
    else:  # a colour that stands for transparency
        plain = clear.convert("RGB").quantize(4) if mode == "P" else clear.convert("RGB").convert(mode)
        plain.save(file, transparency=plain.getpixel((0, 0)))
    got = read_picture(file)
    assert got.alpha is not None
    alpha = np.asarray(got.alpha)
    assert (alpha[:, :14] == 0).all()
    assert (alpha[:, 14:] == 255).all()
    assert (np.asarray(got.rgb)[:, :14] == 255).all()
    assert (np.asarray(got.rgb)[:, 14:] == 0).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_alpha_is_none(tmp_path: Path, mode: str) -> None:
    gradient().convert(mode).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").alpha is None


@pytest.mark.parametrize(("mode", "plain"), [("RGBa", "RGBA"), ("La", "LA")])
def test_premultiplied_alpha(mode: str, plain: str) -> None:
    clear = gradient().convert(plain)
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    got, expected = module.composed(clear.convert(mode)), module.composed(clear)
    assert got.alpha is not None
    np.testing.assert_array_equal(np.asarray(got.alpha), np.asarray(clear.getchannel("A")))
    np.testing.assert_allclose(np.asarray(got.rgb, int), np.asarray(expected.rgb), atol=2)


def test_transparency_is_turned_with_the_picture(tmp_path: Path) -> None:
    clear = gradient().convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 48, 8))  # the upper quarter
    exif = Image.Exif()
    exif[0x0112] = 6
    clear.save(tmp_path / "a.png", exif=exif)
    got = read_picture(tmp_path / "a.png")
    assert got.alpha is not None
    assert got.rgb.size == got.alpha.size == (32, 48)
    alpha = np.asarray(got.alpha)
    assert (alpha[:, 24:] == 0).all()  # is on the right when turned clockwise
    assert (alpha[:, :24] == 255).all()


def sixteen_bit_png(mode: str) -> bytes:
    """16-bit colour PNG, which Pillow doesn't write: a filter byte and big-endian samples for each row."""
    import struct
    import zlib

    channels, kind = {"RGB": (3, 2), "RGBA": (4, 6), "LA": (2, 4)}[mode]
    row = b"\0" + struct.pack(">H", 0x80FF) * (channels * 28)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 28, 28, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 28)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_16_bit_colour(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a.png").write_bytes(sixteen_bit_png(mode))
    got = read_picture(tmp_path / "a.png")
    if mode == "RGB":
        assert got.rgb.getpixel((5, 5)) in ((128,) * 3, (129,) * 3)
    else:
        assert got.alpha is not None
        assert got.alpha.getpixel((5, 5)) in (128, 129)


def test_files_that_hold_no_picture(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "page.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
    )  # Pillow would run a program
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "film.jpg").write_bytes(b"\0\0\0\x18ftypisom\0\0\x02\0isomavc1")
    for name, reason in {
        "empty": "it is empty",
        "text": "it is no picture of a known format",
        "page": "it is no picture of a known format",
        "film": "it is no picture of a known format",
        "gone": "is a link to nothing",
    }.items():
        with pytest.raises(InputError, match=rf"{name}\.jpg.*{reason}") as caught:
            read_image(tmp_path / f"{name}.jpg")
        assert "\n" not in str(caught.value)


def test_names_in_messages_are_one_printable_line(tmp_path: Path) -> None:
    import os

    file = os.fsencode(tmp_path) + b"/caf\xe9\nau lait.jpg"
    with open(file, "wb") as stream:
        stream.write(b"no photo")
    with pytest.raises(InputError, match=r"caf__au lait\.jpg") as caught:
        read_image(Path(os.fsdecode(file)))
    assert str(caught.value).isprintable()


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient().save(tmp_path / "a.png")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refused)
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match=r"cannot read image .*a\.png: Permission denied; replace it"):
        read_image(tmp_path / "a.png")


def test_large_photos_are_legal_and_bombs_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient(100, 50).save(tmp_path / "large.png")
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if it were 200 megapixels where Pillow ends at 90
    monkeypatch.setattr(module, "_LARGE", 1000)
    assert read_image(tmp_path / "large.png").size == (100, 50)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", before)

    stream = io.BytesIO()
    gradient().save(stream, "PNG")
    import struct
    import zlib

    header = struct.pack(">II", 40000, 40000) + stream.getvalue()[24:29]
    bomb = stream.getvalue()[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + stream.getvalue()[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(
        InputError, match=r"bomb\.png: its header says 40000x40000 pixels, more than 536 million; scale"
    ):
        read_image(tmp_path / "bomb.png")
