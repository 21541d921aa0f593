"""Photos on disk, and scenes that say they were made from them."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.images import load_images
from truth_scene import small_scene


def write_photo(path: Path, size: tuple[int, int], seed: int = 0, orientation: int | None = None) -> None:
    """A smooth picture of `size` (width, height) as stored; orientation: the EXIF tag."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, exif=exif)


def scene_of_photos(paths: list[Path], size: int = 56, mode: str = "pad") -> Scene:
    """The truth of a synthetic scene as if it had been seen in these photos."""
    clip = load_images(paths, mode=mode, size=size)
    height, width = clip.images.shape[-2:]
    scene = small_scene(frames=len(paths), size=(height, width))
    images = np.round(clip.images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    return dataclasses.replace(scene, names=clip.names, images=images, provenance={"source": clip.source})
