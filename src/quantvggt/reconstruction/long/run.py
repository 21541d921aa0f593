"""Any number of frames to one Scene: chunks, their motions, loops, and all of it resumable."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.core.similarity import IDENTITY, Similarity
from quantvggt.jobs.store import Store, task_of
from quantvggt.models import Model
from quantvggt.reconstruction import predict
from quantvggt.reconstruction.bundle import Verdict, require_pycolmap
from quantvggt.reconstruction.cameras import KnownCameras
from quantvggt.reconstruction.lens import Known
from quantvggt.reconstruction.long.assemble import assemble, owners
from quantvggt.reconstruction.long.chunk import NO_FEATURES, Chunk, read_chunk, write_chunk
from quantvggt.reconstruction.long.graph import Edge, solve
from quantvggt.reconstruction.long.loops import features_of, key_places, likely_loops
from quantvggt.reconstruction.long.mixed import Mix, agreeing, clip_of, loop, overview
from quantvggt.reconstruction.long.path import CameraPath, path_of, straightened
from quantvggt.reconstruction.long.rate import remember_rate
from quantvggt.reconstruction.long.shared import edge_between
from quantvggt.reconstruction.long.spots import Spots, joined, kept_spots
from quantvggt.reconstruction.long.windows import Numbered, ahead, how_many, windows
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.picture import quiet_pillow
from quantvggt.scenes.sequence import Frames

Lens = NDArray[np.float32]
SMALLEST = 3
ROOMS = ("core", "kernels", "models", "nn", "reconstruction", "scenes")
"""Whose code a chunk depends on: what other code has finished isn't used."""


@dataclass(frozen=True)
class Chunking:
    """size: frames that the model sees at once; overlap: of them with the chunk before; loops: are places looked for
    that the sequence comes back to? Raises InputError if they don't fit together."""

    size: int
    overlap: int
    loops: bool = True

    def __post_init__(self) -> None:
        if self.size < SMALLEST:
            raise InputError(f"a chunk of {self.size} frames is too small; give {SMALLEST} or more")
        if not 1 <= self.overlap < self.size:
            raise InputError(f"an overlap of {self.overlap} frames doesn't fit chunks of {self.size}; give less")


def overlap_for(size: int) -> int:
    """A third of a chunk, at least two frames."""
    return max(2, size // 3) if size > 2 else 1


def reconstruct_long(
    model: Model,
    frames: Frames,
    work: str | os.PathLike[str],
    chunking: Chunking,
    points: str = "depth",
    model_name: str = "VGGT",
    intrinsics: Known | None = None,
    progress: bool = True,
    cameras: KnownCameras | None = None,
    refine: bool = False,
    one_lens: bool | None = None,
) -> Scene:
    """The scene of a sequence, chunk by chunk; what is held in memory doesn't grow with their number.

    work: a folder for what is finished. The same call goes on from there after an interruption, with the same result;
    the Scene's arrays lie there too, so delete it when you are done with them. cameras: known ones, which the model is
    told; all chunks are then in their world, and nothing is joined. refine: adjust all cameras to what the frames share
    (`path.straightened`), which provenance["refined"] tells of. one_lens: one camera has taken all frames, and refining
    finds its focal length (None: so it is with a video's). The rest is as in `predict.reconstruct`.
    Raises InputError as it does, or if the folder can't be written; QuantVGGTError if chunks can't be joined.
    """
    predict.check_request(model, points)
    if cameras is not None:
        model.require_takes(cameras.gives)
        cameras.require(frames.names)
        chunking = replace(chunking, loops=False)
    if refine:
        require_pycolmap()
    one_lens = frames.source.get("kind") == "video" if one_lens is None else one_lens
    one_lens = one_lens and intrinsics is None and cameras is None
    known = intrinsics, cameras
    return _Run(model, frames, Path(work), chunking, points, model_name, *known, progress, refine, one_lens).scene()


class _Chain(NamedTuple):
    """Chunks and their neighbours. owned: what each contributes; edges: the motions along the chain, none where cameras
    are known; described: key frames and their features; left_out: names of frames that no chunk could say anything of;
    borrowed: names, by their places, of those whose lens is that of others."""

    owned: dict[int, list[int]]
    edges: list[Edge]
    described: list[tuple[list[int], Any]]
    left_out: list[str]
    borrowed: dict[int, str]


class _Run:
    def __init__(
        self,
        model: Model,
        frames: Frames,
        work: Path,
        chunking: Chunking,
        points: str,
        model_name: str,
        intrinsics: Known | None,
        cameras: KnownCameras | None,
        progress: bool,
        refine: bool,
        one_lens: bool,
    ) -> None:
        self.model, self.frames, self.chunking = model, frames, chunking
        self.points, self.model_name, self.intrinsics = points, model_name, intrinsics
        self.work, self.progress, self.cameras = work, progress, cameras
        self.refine, self.one_lens = refine, one_lens
        inputs: dict[str, Any] = {"frames": frames.key, "chunking": asdict(chunking), "points": points}
        inputs["known"] = None if intrinsics is None else intrinsics.key
        inputs["cameras"] = None if cameras is None else cameras.key
        inputs["precision"] = [str(model.products), model.attention, model.attention_bits]
        self.store = Store(work, task_of(inputs, model.state_dict().items(), ROOMS))

    def scene(self) -> Scene:
        count = how_many(self.frames.count, self.chunking.size, self.chunking.overlap)
        total = count + (count > 1) * self.chunking.loops
        with tqdm(total=total, desc="chunks", unit="chunk", disable=not self.progress) as bar:
            count = self._chunks(bar)
            chain = self._neighbours(count)
            owned, edges, accepted = chain.owned, chain.edges, list[tuple[str, list[int]]]()
            if self.chunking.loops and count > 1:
                edges, accepted = self._loops(chain, count, bar)
        predict.tell_left_out(chain.left_out, self.frames.count)
        predict.tell_borrowed(list(chain.borrowed.values()), self.frames.count)
        worlds = solve(edges, count + len(accepted)) if self.cameras is None else [IDENTITY] * count
        about = {**asdict(self.chunking), "chunks": count, "loops": len(accepted), "left_out": chain.left_out}
        path, refined = None, None
        if self.refine:
            path, verdict = self._straightened(owned, worlds, accepted, count)
            refined = verdict.record()
        provenance: dict[str, Any] = {"chunking": about} | ({} if refined is None else {"refined": refined})
        if chain.borrowed:
            provenance["borrowed_lens"] = list(chain.borrowed.values())
        return assemble(self._each(count), owned, worlds, self.work / "scene", provenance, path)

    def _straightened(
        self,
        owned: dict[int, list[int]],
        worlds: list[Similarity],
        accepted: list[tuple[str, list[int]]],
        count: int,
    ) -> tuple[CameraPath | None, Verdict]:
        """The cameras of all frames after bundle adjustment, None if that can't be shown to be better."""
        spots = list[Spots]()
        with tqdm(total=count + len(accepted), desc="spots", unit="chunk", disable=not self.progress) as bar:
            for number, chunk in enumerate(self._each(count)):
                found = kept_spots(self.store, f"spots_{_name(number)}", chunk)
                here = np.isin(found.tracks.frame, owned.get(number, []))
                spots.append(Spots(found.tracks, np.where(here, found.depth * worlds[number].scale, 0)))
                bar.update()
            for name, places in accepted:
                mixed = read_chunk(self.store, name)
                if mixed is not None:
                    found = kept_spots(self.store, f"spots_{name}", mixed.only(places))
                    spots.append(Spots(found.tracks, np.zeros(len(found.depth))))
                bar.update()
        path = path_of(self._each(count), owned, worlds)
        return straightened(path, joined(spots), self.one_lens)

    def _chunks(self, bar: Any) -> int:
        """Run the model on each chunk that isn't finished; returns how many chunks there are."""
        number, lens = 0, None
        with quiet_pillow():
            for window in ahead(windows(self.frames, self.chunking.size, self.chunking.overlap)):
                lens = self._finish(number, window, lens)
                number += 1
                bar.update()
        if not number:
            raise InputError("no frame could be read; check the pictures or the video")
        return number

    def _finish(self, number: int, window: Numbered[Any], spare: Lens | None) -> Lens:
        """Run the model on a chunk if it isn't finished; returns the median of its intrinsics [3, 3]."""
        chunk = read_chunk(self.store, _name(number))
        if chunk is None:
            clip = self.frames.clip([frame for _, frame in window])
            chunk = self._predicted(clip, [place for place, _ in window], True, spare)
            write_chunk(self.store, _name(number), chunk)
        return np.asarray(np.median(chunk.intrinsics, axis=0))

    def _predicted(self, clip: Clip, places: list[int], described: bool, spare: Lens | None = None) -> Chunk:
        """described: with features of key frames; spare: see `predict.reconstruct`."""
        lenses = None if self.intrinsics is None else self.intrinsics.of(clip)
        given = None if self.cameras is None else self.cameras.of(clip)
        start = time.perf_counter()
        scene = predict.reconstruct(self.model, clip, self.points, self.model_name, lenses, given, spare, tell=False)
        remember_rate(self.model, len(clip.names), scene.size, time.perf_counter() - start)
        kept = [places[clip.names.index(name)] for name in scene.names]
        keys = key_places(len(clip.names)) if described and self.chunking.loops else []
        features = features_of(self.model, clip.images[keys]) if keys else NO_FEATURES
        left_out = [name for name in clip.names if name not in scene.names]
        return Chunk.of(scene, kept, left_out, [places[key] for key in keys], features)

    def _neighbours(self, count: int) -> _Chain:
        edges, places, described = list[Edge](), list[list[int]](), list[tuple[list[int], Any]]()
        before, names, left_out = None, set[str](), list[str]()
        borrowed = list[dict[int, str]]()
        for number, chunk in enumerate(self._each(count)):
            if before is not None and self.cameras is None:
                edges.append(edge_between(before, chunk, (number - 1, number)))
            places.append(chunk.frames)
            described.append((chunk.keys, chunk.features))
            names |= set(chunk.names)
            left_out += chunk.left_out
            borrowed.append({place: chunk.names[chunk.row(place)] for place in chunk.borrowed})
            before = chunk
        owned = owners(places, borrowed)
        lent = {
            place: borrowed[number][place] for number in owned for place in owned[number] if place in borrowed[number]
        }
        left_out = [name for name in dict.fromkeys(left_out) if name not in names]
        return _Chain(owned, edges, described, left_out, dict(sorted(lent.items())))

    def _loops(self, chain: _Chain, count: int, bar: Any) -> tuple[list[Edge], list[tuple[str, list[int]]]]:
        """The edges, and those of chunks mixed from different parts, as far as the model sees these parts in one place;
        and the name of each such chunk, with the places of these parts. Frames without a lens of their own hold nothing
        together."""
        size, edges = self.chunking.size, chain.edges
        own = {each: [place for place in places if place not in chain.borrowed] for each, places in chain.owned.items()}
        mixes = [overview(own, size)]
        for a, frame_a, b, frame_b in likely_loops(chain.described)[: max(4, count // 2)]:
            first, second = self._chunk(a).own, self._chunk(b).own
            if first and second:
                mixes.append(loop((a, first, frame_a), (b, second, frame_b), size))
        bar.total += len(mixes) - 1
        accepted = list[tuple[str, list[int]]]()
        for number, mix in enumerate(mixes):
            name = f"mixed_{number:05d}.safetensors"
            chunks = {each: self._chunk(each).only(places) for each, places in mix.frames.items()}
            result = self._mixed(name, mix, chunks)
            bar.update()
            if result is None:
                continue
            found = list[Edge]()
            parts = agreeing(mix, result)
            for each in parts:
                try:
                    found.append(edge_between(chunks[each], result, (each, count + len(accepted))))
                except QuantVGGTError:  # these frames have no points in common: they say nothing
                    continue
            if len(found) > 1:
                places = {place for each in parts for place in mix.frames[each]}
                edges = edges + found
                accepted.append((name, [place for place in result.frames if place in places]))
        return edges, accepted

    def _mixed(self, name: str, mix: Mix, chunks: Mapping[int, Chunk]) -> Chunk | None:
        """Frames with a camera of their own; None if the model has none for any of them."""
        result = read_chunk(self.store, name)
        if result is None:
            try:
                result = self._predicted(clip_of(mix, chunks), mix.places, False)
            except QuantVGGTError:
                return None
            write_chunk(self.store, name, result)
        return result.only(result.own) if result.own else None

    def _each(self, count: int) -> Iterator[Chunk]:
        return map(self._chunk, range(count))

    def _chunk(self, number: int) -> Chunk:
        chunk = read_chunk(self.store, _name(number))
        if chunk is None:
            raise QuantVGGTError(f"{self.work / _name(number)} is gone; run the same command again")
        return chunk


def _name(number: int) -> str:
    return f"chunk_{number:05d}.safetensors"
