"""Photos to a clip."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantvggt.core.errors import InputError
from quantvggt.core.limits import usable_cpus
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.files import ImageSource, list_images
from quantvggt.scenes.names import image_names, printable
from quantvggt.scenes.picture import quiet_pillow, read_picture
from quantvggt.scenes.preprocess import MODES, Fitted, check_mode, fit, to_clip


def load_images(source: ImageSource, mode: str = "crop", size: int = 518, skip_unreadable: bool = False) -> Clip:
    """Read photos into a clip; in mode "crop" with the same pixels as the published VGGT loader.

    source: a folder, a glob, one image, or a list of images, see `files.list_images`. Folders and globs are read in
    natural order (img2 before img10); a list keeps its order. Content counts, not the suffix.
    mode: how it is resized, see `preprocess.MODES`; size: the side that the model was made for, a multiple of 14.
    skip_unreadable: go on without files that can't be read, with one warning.
    Orientation tags are applied, transparency becomes white, 16-bit greyscale is scaled to its full range. Of an
    animated picture the first frame is read, with a warning, whatever its format.

    Returns a Clip with images float32 [S, 3, H, W]; `source["frames"]` holds for each frame its path, its
    upright size and the mapping to clip pixels; names are printable and differ. Raises InputError if there is nothing
    to read, a file can't be read, or mode or size is wrong. Warns if there is one image only, if shapes differ and are
    padded or cut, or if rows are cut.
    """
    check_mode(mode, size)
    return clip_of_files(list_images(source, skip_unreadable), mode, size, skip_unreadable)


def clip_of_files(paths: Sequence[Path], mode: str, size: int, skip_unreadable: bool = False) -> Clip:
    """Read these image files, in this order."""

    def load(path: Path) -> tuple[Fitted, bool] | InputError:
        try:
            picture = read_picture(path)
            return fit(picture.rgb, mode, size, picture.alpha), picture.animated
        except InputError as error:
            if skip_unreadable:
                return error
            raise

    with quiet_pillow():
        pool = ThreadPoolExecutor(max_workers=min(8, usable_cpus()))
        try:
            loaded = list(pool.map(load, paths))
        finally:
            pool.shutdown(cancel_futures=True)
    lost = [item for item in loaded if isinstance(item, InputError)]
    read = [(path, *item) for path, item in zip(paths, loaded, strict=True) if not isinstance(item, InputError)]
    if not read:
        raise InputError(f"none of {len(paths)} images can be read; the first: {lost[0]}")
    if lost:
        some = "; ".join(str(error).split("; ")[0] for error in lost[:3]) + ("; ..." if lost[3:] else "")
        warnings.warn(f"{len(lost)} of {len(paths)} images are left out: {some}", stacklevel=3)
    if MODES[mode].joint is None:
        read = _as_the_first(read, mode, size)
    animated = sum(more for _, _, more in read)
    if animated:
        warnings.warn(
            f"{animated} of {len(read)} images hold several frames: the first of each is used; give an animated "
            "picture alone to use all of its frames",
            stacklevel=3,
        )
    files = [path for path, _, _ in read]
    return to_clip(
        [frame for _, frame, _ in read],
        image_names(files),
        {"kind": "images", "mode": mode, "size": size},
        [{"path": str(path)} for path in files],
        printable(files[0]),
    )


def _as_the_first(read: list[tuple[Path, Fitted, bool]], mode: str, size: int) -> list[tuple[Path, Fitted, bool]]:
    """The same, the files of other shapes read once more and brought to the first one's."""
    sides = read[0][1].sides
    others = {path for path, frame, _ in read if frame.sides != sides}
    if others:
        warnings.warn(
            f"{len(others)} of {len(read)} images differ in shape from the first: they are stretched to its "
            f"{sides[0]}x{sides[1]}",
            stacklevel=4,
        )
    fitted = []
    with quiet_pillow():
        for path, frame, animated in read:
            if path in others:
                picture = read_picture(path)
                frame = fit(picture.rgb, mode, size, picture.alpha, sides)
            fitted.append((path, frame, animated))
    return fitted
