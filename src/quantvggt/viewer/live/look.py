"""What is set in the live viewer's panel."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """percentile: of confidence, points below are hidden. first, last: frames shown, from 0, both counted. size: of
    points, in widths of a pixel on the surfaces. cameras: are the cameras shown? heat: is the second scene
    coloured by its difference from the first?"""

    percentile: int
    first: int
    last: int
    size: float = 1.0
    cameras: bool = True
    heat: bool = False
