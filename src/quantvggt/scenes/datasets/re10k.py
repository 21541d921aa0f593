"""RealEstate10K: homes filmed walking through, poses only.

Its owners give out annotations, one text file a video; frames have to be had from the videos. They are looked for in
`<split>/<video>/images`, `<split>/<video>` and `frames/<split>/<video>`: named by their timestamps, or as many as the
annotation has lines, in order. A file `<split>.list` with names of videos, one a line, says which there are and in what
order, as published lists do; without one all videos count, sorted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.datasets.on_disk import OnDisk
from quantvggt.scenes.datasets.read import Matrix, listed, parse_numbers, read_lines, read_pixels, unreadable
from quantvggt.scenes.datasets.views import View, pinhole

COLUMNS = 19  # timestamp, fx fy cx cy in parts of width and height, two unused, world-to-camera 3x4


class Re10k(OnDisk):
    """A scene is the name of a video, "train/NAME" in the split train."""

    name: ClassVar[str] = "re10k"
    title: ClassVar[str] = "RealEstate10K, walks through homes, poses"
    licence: ClassVar[str] = "annotations CC BY 4.0, videos by their owners"
    source: ClassVar[str] = "google.github.io/realestate10k; frames from the videos"
    splits: ClassVar[dict[str, Sequence[str]]] = {"test": (), "train": ()}

    def __init__(self, root: Path | None) -> None:
        self._known: dict[str, dict[str, tuple[Path, int]]] = {}
        super().__init__(root)

    def official(self, split: str) -> Sequence[str]:
        super().official(split)
        chosen = self.root / f"{split}.list"
        if chosen.is_file():
            names = [line.strip().removesuffix(".txt") for line in read_lines(chosen)]
        else:
            names = sorted(path.stem for path in (self.root / split).glob("*.txt"))
        return names if split == "test" else [f"{split}/{name}" for name in names]

    def looked_for(self) -> str:
        return "test/VIDEO.txt, and frames in test/VIDEO/images or frames/test/VIDEO"

    def parts(self, scene: str) -> Sequence[Path]:
        return [self._annotation(scene), self._folder(scene)]

    def frames(self, scene: str) -> Sequence[str]:
        return list(self._matched(scene))

    def view(self, scene: str, frame: str, picture: Picture) -> View:
        path, line = self._matched(scene)[frame]
        told = self._told(scene)[line]
        image = read_pixels(path)
        fx, fy, cx, cy = told[1:5] * [image.width, image.height, image.width, image.height]
        return View(frame, path, image, pinhole(fx, fy, cx, cy), told[7:].reshape(3, 4))

    def _matched(self, scene: str) -> dict[str, tuple[Path, int]]:
        """The path and the line of each picture. Raises InputError if it can't be told which belongs to which."""
        if scene not in self._known:
            folder = self._folder(scene)
            names = listed(folder, ".png", ".jpg")
            lines = {line.split()[0]: index for index, line in enumerate(read_lines(self._annotation(scene))[1:])}
            if all(Path(name).stem in lines for name in names):
                places = [lines[Path(name).stem] for name in names]
            elif len(names) == len(lines):
                places = list(range(len(names)))
            else:
                raise unreadable(
                    self._annotation(scene),
                    f"it has {len(lines)} frames, {folder} has {len(names)} pictures that aren't named by timestamps",
                )
            pairs = zip(names, places, strict=True)
            self._known[scene] = {name: (folder / name, place) for name, place in pairs}
        return self._known[scene]

    def _told(self, scene: str) -> Matrix:
        path = self._annotation(scene)
        return parse_numbers(" ".join(read_lines(path)[1:]), path, -1, COLUMNS)

    def _annotation(self, scene: str) -> Path:
        return self.root / self._split(scene) / f"{scene.split('/')[-1]}.txt"

    def _folder(self, scene: str) -> Path:
        split, video = self._split(scene), scene.split("/")[-1]
        near = self.root / split / video
        places = (near / "images", near, self.root / "frames" / split / video)
        return next((place for place in places if place.is_dir()), places[0])

    def _split(self, scene: str) -> str:
        return "train" if scene.startswith("train/") else "test"
