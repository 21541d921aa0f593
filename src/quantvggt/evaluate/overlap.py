"""Whether a model was calibrated on frames that it is judged on: told by what the files hold, not by their names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from quantvggt.models.quantization import Quantization


@dataclass(frozen=True)
class Seen:
    """What a model was calibrated on. clips: how many, None for a float model; prints: of their frames, as
    `scenes.fingerprint.frame_prints` gives them; unknown: of how many clips the record doesn't say it."""

    clips: int | None = None
    prints: frozenset[str] = frozenset()
    unknown: int = 0

    @classmethod
    def by(cls, quantization: Quantization | None) -> "Seen":
        if quantization is None:
            return cls()
        clips = quantization.calibration.get("clips", [])
        prints = [_prints(clip) for clip in clips]
        found = frozenset(one for clip in prints if clip is not None for one in clip)
        return cls(len(clips), found, sum(clip is None for clip in prints))

    def among(self, frames: Iterable[str]) -> int:
        """How many of these frames it was calibrated on."""
        return sum(frame in self.prints for frame in frames)

    def told(self, frames: int, overlapping: int, unknown_frames: int = 0) -> str:
        """What a report says of `frames` evaluated frames: so many overlap, so many can't be recognised."""
        if self.clips is None:
            return "not calibrated"
        if not self.clips:
            return "calibrated without any clip"
        if overlapping:
            return f"{self.clips} calibration clips, which hold {overlapping} of the {frames} evaluated frames"
        if self.unknown:
            return f"{self.clips} calibration clips; of {self.unknown} it isn't known which files they were"
        if unknown_frames:
            return f"{self.clips} calibration clips; of {unknown_frames} evaluated frames no file is known"
        return f"{self.clips} calibration clips, none among the {frames} evaluated frames"


def _prints(clip: dict[str, Any]) -> list[str] | None:
    """Of a clip in a record; those of before fingerprints were kept have them only if the scene is synthetic."""
    if clip.get("kind") == "synthetic" and "seed" in clip:
        return [f"synthetic {clip['seed']}"]
    return clip.get("fingerprints")
