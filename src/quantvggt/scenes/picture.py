"""One image file to an upright 8-bit picture, whatever its format, its suffix and its metadata."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.files import check_file, content_of
from quantvggt.scenes.metadata import ORIENTATION, orientation_in, without_metadata
from quantvggt.scenes.names import printable

# Pillow also opens formats that run other programs (EPS) or aren't pictures; these are what cameras and tools write.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "HEIF", "AVIF", "JPEG2000", "PPM", "TGA")
_MOST_PIXELS = 2**29  # a phone's 200 megapixels and a panorama's 500 pass
_LARGE = 2**26  # pixels of pictures that are decoded one at a time: each takes up to half a gigabyte and more
_opening, _decoding_large = threading.Lock(), threading.RLock()

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    rgb: 8 bits, white where the file is transparent; alpha: 8 bits, None if the file is opaque;
    animated: the file holds more frames of this size, and this is its first.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    animated: bool = False

    def turned(self, turn: Image.Transpose | None) -> "Picture":
        if turn is None:
            return self
        return replace(self, rgb=self.rgb.transpose(turn), alpha=self.alpha and self.alpha.transpose(turn))

    def widened(self, width: int) -> "Picture":
        """Resized in that one direction."""
        size, bicubic = (width, self.rgb.height), Image.Resampling.BICUBIC
        return replace(self, rgb=self.rgb.resize(size, bicubic), alpha=self.alpha and self.alpha.resize(size, bicubic))


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """What Pillow thinks of metadata is no concern of the user's. Filters are global: not for use in threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_image(path: Path) -> Image.Image:
    """The colours of `read_picture`."""
    return read_picture(path).rgb


def read_picture(path: Path) -> Picture:
    """Decode one file, its first frame if it has several.

    The content decides the format, not the suffix. Damaged metadata is left aside; the orientation tag is read if that
    is possible. Deep greyscale is scaled by its full range. Raises InputError naming the file if there are no pixels to
    be had, or more than 2^29.
    """
    with open_image(path) as (image, orientation):
        return replace(upright(image, orientation), animated=has_more_frames(image))


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as the header says, before any turn; no pixel is decoded.

    Raises InputError as `read_picture` does.
    """
    with open_image(path, decode=False) as (image, _):
        return image.size


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of the picture that `read_picture` gives, from the header. Raises InputError as it does."""
    with open_image(path, decode=False) as (image, orientation):
        turn = _TURNS.get(_orientation_of(image) if orientation is None else orientation)
        return (image.height, image.width) if turn in _SIDEWAYS else image.size


@contextmanager
def open_image(path: Path, decode: bool = True) -> Iterator[tuple[Image.Image, int | None]]:
    """The opened file, its first frame decoded, and its orientation where Pillow can't tell.

    decode=False: its header alone. Whatever goes wrong inside is an InputError that names the file.
    """
    check_file(path)
    if (kind := content_of(path)) in ("heif", "avif"):
        _prepare_heif(path, kind)
    try:
        with _opened(path, decode) as (image, orientation):
            yield image, orientation
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        reason = "it is no picture of a known format" if path.stat().st_size else "it is empty"
        raise _unreadable(path, reason) from error
    # Pillow's decoders raise whatever their parser stumbles over: there is no narrower common base.
    except Exception as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error


def upright(image: Image.Image, orientation: int | None = None) -> Picture:
    """The frame that an image shows now; orientation: its tag, None: as Pillow reads it."""
    turn = _TURNS.get(_orientation_of(image) if orientation is None else orientation)
    deep = image.mode.startswith(("I", "F"))
    return composed(_to_8_bits(image) if deep else image).turned(turn)


def composed(image: Image.Image) -> Picture:
    """Colours over white, and the transparency, of a picture of at most 8 bits."""
    if image.mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        alpha = clear.getchannel("A")
        opaque = alpha.getextrema() == (255, 255)
        return Picture(Image.alpha_composite(white, clear).convert("RGB"), None if opaque else alpha)
    return Picture(image.convert("RGB"))


def has_more_frames(image: Image.Image) -> bool:
    """Whether a second frame is as large as this one: thumbnails, previews and gain maps are smaller."""
    if getattr(image, "n_frames", 1) < 2:
        return False
    size, position = image.size, image.tell()
    try:
        image.seek(position + 1)
        if image.size != size:  # not decoded: it may be of any size
            return False
        image.load()
        return image.size == size
    except Exception:  # a second frame that can't be read is none, whatever its decoder stumbles over
        return False


@contextmanager
def _opened(path: Path, decode: bool) -> Iterator[tuple[Image.Image, int | None]]:
    with ExitStack() as stack:
        try:
            image, orientation = _load(path, stack, decode), None
        except InputError:
            raise
        except Exception as error:
            data = path.read_bytes()
            clean, exif = without_metadata(data)
            if clean == data:
                raise
            try:
                image, orientation = _load(io.BytesIO(clean), stack, decode), orientation_in(exif)
            except Exception:
                raise error from None
        yield image, orientation


def _load(file: Path | IO[bytes], stack: ExitStack, decode: bool) -> Image.Image:
    """Open, and decode if asked to; the stack closes the image."""
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with _opening:
        # Pillow refuses what it thinks too large, phones' photos included; our limit is below. Its limit is global, so
        # it is lifted only while headers are read.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = stack.enter_context(Image.open(file, formats=formats))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if width * height > _MOST_PIXELS:
        name = printable(file) if isinstance(file, Path) else "the image"
        raise InputError(
            f"cannot read image {name}: its header says {width}x{height} pixels, more than {_MOST_PIXELS // 10**6} "
            "million; scale it down, or leave it out if it is damaged"
        )
    if not decode:
        return image
    if width * height > _LARGE:
        stack.enter_context(_decoding_large)
    image.load()
    return image


def _orientation_of(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's parser raises what it stumbles over, see `open_image`
        value = None
    if isinstance(value, int) and 1 <= value <= 8:
        return value
    exif = image.info.get("exif")
    return orientation_in(exif) if isinstance(exif, bytes) else 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale by the full range of its format; Pillow's own conversion would clip it at 255."""
    values = np.asarray(image).astype(np.float64)
    peak = float(np.max(values))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((limit for limit in ranges if peak <= limit), None)
    if full is None or float(np.min(values)) < 0:
        raise ValueError("its values are outside 0..65535, so white is unknown (convert it to 8 or 16 bits)")
    return Image.fromarray(np.round(values * (255 / full)).astype(np.uint8))


def _prepare_heif(path: Path, kind: str) -> None:
    """Teach Pillow to read HEIC; AVIF most builds of it know."""
    Image.init()
    if kind == "avif" and "AVIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError as error:
        raise InputError(
            f"cannot read image {printable(path)}: {kind.upper()} needs a reader; pip install pillow-heif, or this "
            "package with its extra heic"
        ) from error
    pillow_heif.register_heif_opener()


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"cannot read image {printable(path)}: {printable(reason)}; replace it or leave it out")
