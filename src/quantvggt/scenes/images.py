"""Photos to a clip."""

import glob
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.preprocess import Fitted, check_mode, fit, to_common_size, warn_if_single

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
ImageSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load_images(source: ImageSource, mode: str = "crop", size: int = 518) -> Clip:
    """Read photos into a clip, with the same pixels as the published VGGT loader.

    source: a folder, a glob, one image, or a list of images. Folders and globs are read in natural order
    (img2 before img10) and only files with a known suffix count; a list keeps its order.
    mode: "crop" or "pad" (see `preprocess.fit`); size: the target width, a multiple of 14.
    Orientation tags are applied, transparency becomes white, 16-bit greyscale is scaled to its full range.

    Returns a Clip with images float32 [S, 3, H, W]; `source["frames"]` holds for each frame its path, its
    upright size and the mapping to clip pixels. Raises InputError if there is nothing to read, a file can't
    be read, or mode or size is wrong. Warns if there is one image only, or if shapes differ and get padded.
    """
    check_mode(mode, size)
    return clip_of_files(list_images(source), mode, size)


def clip_of_files(paths: list[Path], mode: str, size: int) -> Clip:
    """Read these image files, in this order."""

    def load(path: Path) -> Fitted:
        return fit(read_image(path), mode, size)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        frames = to_common_size(list(pool.map(load, paths)))
    warn_if_single(len(frames), str(paths[0]))
    described = [{"path": str(path), **frame.mapping()} for path, frame in zip(paths, frames, strict=True)]
    return Clip(
        images=torch.stack([frame.pixels for frame in frames]),
        names=_names(paths),
        source={"kind": "images", "mode": mode, "size": size, "frames": described},
    )


def list_images(source: ImageSource) -> list[Path]:
    """The image files a folder, glob, single path or list stands for, in reading order.

    Raises InputError if a path doesn't exist, or if no image is left.
    """
    if not isinstance(source, str | os.PathLike):
        paths = [Path(item).expanduser() for item in source]
        if not paths:
            raise InputError("the list of images is empty; give at least one image")
        for path in paths:
            _check_file(path)
        return paths
    path = Path(source).expanduser()
    if path.is_dir():
        found = _visible_files(path)
        where = f"folder {path}"
    elif glob.has_magic(str(path)) and not path.exists():
        found = [Path(item) for item in glob.glob(str(path), recursive=True)]
        where = f"pattern {path}"
    else:
        _check_file(path)
        return [path]
    images = [item for item in found if item.suffix.lower() in SUFFIXES and item.is_file()]
    if not images:
        raise InputError(f"no images in {where}; looked for {' '.join(SUFFIXES)}")
    return sorted(images, key=_natural_order)


def read_image(path: Path) -> Image.Image:
    """Decode one file to an upright 8-bit RGB picture. Raises InputError naming the file if that fails."""
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright)
    # Pillow's decoders raise whatever their parser stumbles over: there is no narrower common base.
    except Exception as error:
        raise InputError(f"cannot read image {path}: {error}; replace it or leave it out") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale deep greyscale by the full range of its format; Pillow's own conversion would clip it at 255."""
    values = np.asarray(image).astype(np.float64)
    peak = float(np.max(values))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((limit for limit in ranges if peak <= limit), None)
    if full is None or float(np.min(values)) < 0:
        raise ValueError("its values are outside 0..65535, so white is unknown (convert it to 8 or 16 bits)")
    return Image.fromarray(np.round(values * (255 / full)).astype(np.uint8))


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"no such image or folder: {path}; check the path")
    if path.is_dir():
        raise InputError(f"{path} is a folder inside a list of images; give the folder alone, or its files")


def _visible_files(folder: Path) -> list[Path]:
    try:
        return [item for item in folder.iterdir() if not item.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}; check its permissions") from error


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path).lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _names(paths: list[Path]) -> list[str]:
    """File names; with as much of the folder in front as it takes to tell all frames apart."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    base = os.path.commonpath([path.absolute().parent for path in paths])
    names = [Path(os.path.relpath(path.absolute(), base)).as_posix() for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{index:04d}_{name}" for index, name in enumerate(names)]
