"""Places that a long sequence comes back to: pairs of frames that look alike, and whether the model agrees."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.models import Model
from quantvggt.reconstruction.depth import sample_depth
from quantvggt.reconstruction.geometry import project
from quantvggt.reconstruction.long.chunk import Chunk

MOST_LOOPS = 32
KEYS_PER_CHUNK = 4
DEPTH_AGREES = 0.1
"""Largest difference of two frames' depths of one point, as a share of the depth, for both to see it."""
LEAST_SHARE = 0.15
"""Of a frame's sure pixels another has to see, for the two to see one place."""
LEAST_LIKENESS = 0.4
"""Correlation of the colours of pixels that two frames see of one place."""
SAMPLES = 2000


def key_places(count: int) -> list[int]:
    """Which of a chunk's `count` frames are looked at alone."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, KEYS_PER_CHUNK)).round()})


def features_of(model: Model, images: torch.Tensor) -> NDArray[np.float32]:
    """What the model sees in each frame [n, 3, H, W] alone: the mean of its patch tokens at the trunk's end [n, D].

    Alone, because among others a frame's tokens also say where it stands relative to the first of them.
    """
    rows = []
    special = model.trunk.special
    with torch.inference_mode():
        for image in images:
            batch = model.checked(image[None].to(model.device)).to(model.dtype)
            tokens = model.last_output(model.encode(batch))[0, 0, special:]
            rows.append(tokens.float().mean(0).cpu().numpy())
    return np.stack(rows)


def likely_loops(chunks: Sequence[tuple[Sequence[int], NDArray[np.float32]]]) -> list[tuple[int, int, int, int]]:
    """Pairs of chunks that may see one place: (chunk, its frame, later chunk, its frame), the likeliest first.

    chunks: of each the places of its key frames, and their features. Features are compared by the cosine between them
    after their mean is taken off. Two chunks that aren't neighbours are a pair if their most similar frames are at
    least as similar as neighbouring key frames are at the median, and no pair of chunks beside them is more so.
    """
    everything = np.concatenate([features for _, features in chunks]).astype(np.float64)
    everything -= everything.mean(0)
    everything /= np.maximum(np.linalg.norm(everything, axis=1, keepdims=True), 1e-12)
    owner = np.concatenate([np.full(len(features), number) for number, (_, features) in enumerate(chunks)])
    place = np.concatenate([np.asarray(frames) for frames, _ in chunks])
    likeness = everything @ everything.T
    beside = np.diag(likeness, 1)
    threshold = float(np.median(beside)) if len(beside) else 1.0
    count = len(chunks)
    best = np.full((count, count), -np.inf)
    pairs: dict[tuple[int, int], tuple[int, int]] = {}
    for a in range(count):
        for b in range(a + 2, count):
            block = likeness[np.ix_(owner == a, owner == b)]
            best[a, b] = block.max()
            i, j = np.unravel_index(block.argmax(), block.shape)
            pairs[a, b] = int(place[owner == a][i]), int(place[owner == b][j])
    found = []
    for a, b in pairs:
        around = best[max(0, a - 1) : a + 2, max(0, b - 1) : b + 2]
        if best[a, b] >= threshold and best[a, b] >= around.max():
            found.append((float(best[a, b]), (a, pairs[a, b][0], b, pairs[a, b][1])))
    return [pair for _, pair in sorted(found, reverse=True)[:MOST_LOOPS]]


def sees(chunk: Chunk, frame: int, other: int) -> bool:
    """Does one frame of a chunk (by their rows) see a good part of what another does, in like colours?

    Its surest points go into the other frame: enough of them must lie on the surface that the other has there, and the
    colours of both must vary together.
    """
    sure = chunk.points_conf[frame] > 0
    if not sure.any():
        return False
    sure &= chunk.points_conf[frame] >= np.median(chunk.points_conf[frame][sure])
    rows, columns = np.nonzero(sure)
    step = max(1, len(rows) // SAMPLES)
    rows, columns = rows[::step], columns[::step]
    xy, z = project(chunk.points[frame][rows, columns], chunk.extrinsics[other], chunk.intrinsics[other])
    height, width = chunk.depth.shape[1:]
    inside = np.flatnonzero((z > 0) & (xy > 0).all(-1) & (xy < (width, height)).all(-1))
    depth = sample_depth(chunk.depth[other], xy[inside])
    agree = inside[(depth > 0) & (np.abs(depth - z[inside]) <= DEPTH_AGREES * z[inside])]
    if len(agree) < max(3, LEAST_SHARE * len(rows)):
        return False
    there = xy[agree].astype(int)
    mine = chunk.images[frame][rows[agree], columns[agree]].astype(np.float64)
    theirs = chunk.images[other][there[:, 1], there[:, 0]].astype(np.float64)
    mine, theirs = mine - mine.mean(0), theirs - theirs.mean(0)
    norm = np.linalg.norm(mine) * np.linalg.norm(theirs)
    return bool(norm > 0 and (mine * theirs).sum() / norm >= LEAST_LIKENESS)
