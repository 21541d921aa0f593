"""Spots that frames of a chunk share, and those of all chunks as tracks through the whole sequence."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.jobs.store import Store
from quantvggt.reconstruction.long.chunk import Chunk
from quantvggt.reconstruction.matches import match
from quantvggt.reconstruction.points import Tracks
from quantvggt.reconstruction.scene import Scene

PER_FRAME = 12
"""Corners of a frame in each chunk: what many frames share, few corners of each say."""


class Spots(NamedTuple):
    """tracks: their frames are places of the sequence; the first observation of a point is the centre of its pixel.
    depth: of each observation, in the chunk's world [M]; 0 where there is none."""

    tracks: Tracks
    depth: NDArray[np.float64]


def spots_of(chunk: Chunk) -> Spots:
    arrays = (chunk.images, chunk.extrinsics, chunk.intrinsics, chunk.depth, chunk.depth_conf)
    _, tracks = match(Scene(chunk.names, *arrays, chunk.points, chunk.points_conf), PER_FRAME)
    height, width = chunk.depth.shape[1:]
    column, row = np.floor(tracks.xy).astype(np.intp).T
    depth = chunk.depth[tracks.frame, row.clip(0, height - 1), column.clip(0, width - 1)].astype(np.float64)
    return Spots(Tracks(tracks.point, np.asarray(chunk.frames, np.intp)[tracks.frame], tracks.xy), depth)


def kept_spots(store: Store, name: str, chunk: Chunk) -> Spots:
    """Those of a chunk from the entry `name`, which is written if there is none."""

    def found() -> tuple[dict[str, torch.Tensor], None]:
        tracks, depth = spots_of(chunk)
        arrays = {"point": tracks.point, "frame": tracks.frame, "xy": tracks.xy, "depth": depth}
        return {key: torch.from_numpy(values) for key, values in arrays.items()}, None

    tensors, _ = store.tensors(name, found)
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    return Spots(Tracks(arrays["point"], arrays["frame"], arrays["xy"]), arrays["depth"])


def joined(parts: Iterable[Spots]) -> Spots:
    """All as one: points that start in the same pixel are one point, which a frame sees once, where the first says."""
    whole = list(parts)
    starts, points, offset = list[NDArray[np.float64]](), list[NDArray[np.intp]](), 0
    for tracks, _ in whole:
        first = np.flatnonzero(np.diff(tracks.point, prepend=-1))
        starts.append(np.column_stack([tracks.frame[first], tracks.xy[first]]))
        points.append(tracks.point + offset)
        offset += len(first)
    _, same = np.unique(np.concatenate(starts), axis=0, return_inverse=True)
    point = same.ravel()[np.concatenate(points)]
    frame = np.concatenate([tracks.frame for tracks, _ in whole])
    # Sorted by point, and of each point its frames; of one frame that several chunks have, the first.
    order = np.lexsort((np.arange(len(point)), frame, point))
    new = np.diff(point[order], prepend=-1).astype(bool) | np.diff(frame[order], prepend=-1).astype(bool)
    order = order[new]
    xy, depth = (np.concatenate(each) for each in ([t.xy for t, _ in whole], [d for _, d in whole]))
    return Spots(Tracks(point[order], frame[order], xy[order]), depth[order])
