"""The chunks in one world as one Scene whose arrays lie on disk."""

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.files import atomic_folder
from quantvggt.core.similarity import Similarity
from quantvggt.reconstruction.geometry import unproject
from quantvggt.reconstruction.long.chunk import Chunk
from quantvggt.reconstruction.long.path import CameraPath
from quantvggt.reconstruction.scene import Scene

Arrays = dict[str, NDArray[Any]]


def owners(chunks: Sequence[Sequence[int]], borrowed: Sequence[Container[int]] | None = None) -> dict[int, list[int]]:
    """Each place of the sequence once, in the chunk in which it has the most frames on either side.

    borrowed: of each chunk the places of frames whose lens is others'. A chunk in which it is a frame's own comes
    first, then the one in which most have their own.
    """
    best: dict[int, tuple[tuple[float, int], int]] = {}
    for number, places in enumerate(chunks):
        lent = borrowed[number] if borrowed else ()
        own = sum(place not in lent for place in places) / max(1, len(places))
        for row, place in enumerate(places):
            rank = own if place in lent else 1.0, min(row, len(places) - 1 - row)
            if place not in best or rank > best[place][0]:
                best[place] = rank, number
    owned: dict[int, list[int]] = {}
    for place in sorted(best):
        owned.setdefault(best[place][1], []).append(place)
    return owned


def moved(chunk: Chunk, rows: Sequence[int], world: Similarity, from_depth: bool) -> Arrays:
    """These frames of a chunk as arrays of a Scene in another world, where lengths are `world.scale` times as large.

    from_depth: points are the depth's; else the chunk's own are moved.
    """
    turn = chunk.extrinsics[rows][:, :, :3].astype(np.float64) @ world.rotation.T
    shift = world.scale * chunk.extrinsics[rows][:, :, 3] - np.einsum("sij,j->si", turn, world.translation)
    extrinsics = np.concatenate([turn, shift[:, :, None]], axis=2).astype(np.float32)
    depth = (chunk.depth[rows] * world.scale).astype(np.float32)
    known = chunk.points_conf[rows] > 0
    if from_depth:
        points = unproject(depth, extrinsics, chunk.intrinsics[rows])
    else:
        points = world.apply(chunk.points[rows].reshape(-1, 3).astype(np.float64)).astype(np.float32)
        points = points.reshape(chunk.points[rows].shape)
    points[~known] = 0
    return {
        "images": chunk.images[rows],
        "extrinsics": extrinsics,
        "intrinsics": chunk.intrinsics[rows],
        "depth": depth,
        "depth_conf": chunk.depth_conf[rows],
        "points": points,
        "points_conf": chunk.points_conf[rows],
    }


def placed(arrays: Arrays, path: CameraPath, rows: NDArray[np.intp]) -> Arrays:
    """Arrays of a Scene with the cameras in these rows of a path, depth brought to them."""
    depth = (arrays["depth"] * path.depth_factors[rows, None, None]).astype(np.float32)
    cameras = (path.extrinsics[rows].astype(np.float32), path.intrinsics[rows].astype(np.float32))
    points = unproject(depth, *cameras)
    points[arrays["points_conf"] <= 0] = 0
    return {**arrays, "extrinsics": cameras[0], "intrinsics": cameras[1], "depth": depth, "points": points}


def assemble(
    chunks: Iterable[Chunk],
    owned: Mapping[int, Sequence[int]],
    worlds: Sequence[Similarity],
    folder: Path,
    provenance: dict[str, Any],
    path: CameraPath | None = None,
) -> Scene:
    """Write the arrays of all frames, in their order, into `folder`, one file each, and open them as a Scene.

    chunks: in order, one in memory at a time; owned, worlds: what each contributes, and where it lies. path: cameras
    that take the place of the chunks' own; points are the depth's then. The Scene's arrays are read from the files when
    somebody looks at them, so keep the folder as long as the Scene.
    """
    position = {place: row for row, place in enumerate(sorted(place for places in owned.values() for place in places))}
    names, about = [""] * len(position), [dict[str, Any]()] * len(position)
    source: dict[str, Any] = {}
    with atomic_folder(folder) as temporary, ExitStack() as stack:
        files: dict[str, tuple[IO[bytes], int]] = {}
        for number, chunk in enumerate(chunks):
            places = owned.get(number, [])
            if not places:
                continue
            rows = [chunk.row(place) for place in places]
            for place, row in zip(places, rows, strict=True):
                names[position[place]], about[position[place]] = chunk.names[row], chunk.about[row]
            if not source:
                source = {**chunk.provenance, **provenance}
            from_depth = chunk.provenance["points"] == "depth"
            arrays = moved(chunk, rows, worlds[number], from_depth)
            for key, values in (arrays if path is None else placed(arrays, path, path.rows(places))).items():
                if key not in files:
                    file = stack.enter_context(open(temporary / f"{key}.npy", "wb"))
                    files[key] = file, _begin(file, values, len(position))
                into, start = files[key]
                for place, value in zip(places, values, strict=True):
                    into.seek(start + position[place] * value.nbytes)
                    into.write(np.ascontiguousarray(value).data)
    if all("scale" in each for each in about):
        source["source"] = {**source["source"], "frames": about}
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in files}
    return Scene(names=names, provenance=source, **arrays)


def _begin(file: IO[bytes], values: NDArray[Any], count: int) -> int:
    """Write the header of an array of `count` such values; where its numbers begin."""
    shape = (count, *values.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    return file.tell()
