"""Files of datasets, read with care: what is missing, too large or damaged is an InputError that names the file."""

import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.names import natural_order, printable
from quantvggt.scenes.picture import open_image, upright

MOST_TEXT = 2**28
"""Bytes of a text file: the largest that datasets have, CO3D's annotations of one category, stay below."""
MOST_UNPACKED = 2**31
MOST_PIXELS = 2**27
AS_STORED = 1
"""The orientation tag of a picture that needs no turning."""

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]


def unreadable(path: Path, reason: object) -> InputError:
    return InputError(f"cannot read {printable(path)}: {printable(reason)}; fetch it again from the dataset's owners")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """What a file holds, of at most so many bytes."""
    try:
        if path.stat().st_size > most:
            raise unreadable(path, f"it is larger than {most} bytes, too large for what it should be")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise unreadable(path, "there is no such file") from error
    except OSError as error:
        raise unreadable(path, error.strerror) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that aren't empty, without those that begin with #."""
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_numbers(path: Path, *shape: int) -> Matrix:
    """The numbers of a text file, separated by blanks or line ends, in this shape; NaN and infinity are numbers too."""
    return parse_numbers(" ".join(read_lines(path)), path, *shape)


def parse_numbers(text: str, path: Path, *shape: int) -> Matrix:
    """The numbers in a piece of the text file at `path`, in this shape (one side may be -1)."""
    try:
        return np.array(text.split(), np.float64).reshape(shape)
    except ValueError as error:
        raise unreadable(path, f"it should hold {' x '.join(map(str, shape))} numbers ({error})") from error


def read_packed_json(path: Path) -> Any:
    """What a gzipped JSON file holds."""
    packed = io.BytesIO(read_bytes(path))
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            data = file.read(MOST_UNPACKED + 1)
        if len(data) > MOST_UNPACKED:
            raise ValueError(f"it holds more than {MOST_UNPACKED} bytes")
        return json.loads(data)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise unreadable(path, error) from error


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, f"it is not valid JSON ({error})") from error


def read_pixels(path: Path) -> Image.Image:
    """An RGB picture as its pixels lie in the file: cameras of datasets know nothing of orientation tags."""
    with open_image(path) as (image, _):
        return upright(image, AS_STORED).rgb


def read_grey(path: Path) -> NDArray[Any]:
    """The values of a greyscale PNG [H, W]: integers of its own depth, unscaled."""
    read_bytes(path)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"its header says {image.width}x{image.height} pixels")
            grey = image.mode.startswith("I") or image.mode in ("L", "1")
            return np.asarray(image if grey else image.convert("L"))
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise unreadable(path, error) from error


def read_array(path: Path, ndim: int) -> Floats:
    """A .npy file of numbers with so many axes, as float32. Nothing is unpickled."""
    read_bytes(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # so a header can't ask for memory
        if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype.kind not in "fiu":
            raise ValueError(f"it should hold numbers with {ndim} axes")
        return array.astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error


def read_fields(path: Path, value: Any, take: Callable[[Any], Any]) -> Any:
    """`take(value)`, a piece of the file at `path`, whatever that piece lacks."""
    try:
        return take(value)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise unreadable(path, f"{type(error).__name__}: {error}") from error


def listed(folder: Path, *suffixes: str) -> list[str]:
    """The names in a folder that end so, in natural order; none if there is no such folder."""
    try:
        names = [entry.name for entry in folder.iterdir() if entry.name.lower().endswith(suffixes)]
    except OSError:
        return []
    return sorted((name for name in names if not name.startswith(".")), key=lambda name: natural_order(Path(name)))


def inside(root: Path, name: str) -> Path:
    """The file that another file names, relative to `root`. Raises InputError if it points outside."""
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts:
        raise InputError(f"{printable(name)} is named by a file in {root}, but lies outside; fetch that file again")
    return root.joinpath(*parts)
