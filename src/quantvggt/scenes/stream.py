"""A video file: its frames' times without decoding, and any of its frames, upright, decoded one at a time."""

import gc
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes import hdr
from quantvggt.scenes.files import content_of
from quantvggt.scenes.names import printable
from quantvggt.scenes.picture import Picture, composed

_WORTH_SEEKING = 2.0  # seconds of video to pass over
_GREY_SIDE = 512
_ASKED_AT_ONCE = 16  # frames that wait for the collector
_FULL = 2  # the range of code values, FFmpeg's AVCOL_RANGE_JPEG
_WIDEST = 8  # a pixel's sides differ by no more, or the header is wrong

# Signs of a, b, c, d in the display matrix x' = ax + cy, y' = bx + dy -> how the picture is turned (and mirrored).
_TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class VideoFile:
    """The frames of a video.

    seconds: when each is shown, from 0, as its packets say; usable: the indices that can be decoded, all until
    `find_usable` has looked; expected: how many there should be; damaged: not all that was tried could be decoded.
    Raises InputError if the file isn't a video or holds no frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = False
        self._turn: Image.Transpose | None = None
        self._asked = 0
        self._stamps: list[int] | None = None
        self._keys: list[int] = []
        with _open(path) as container:
            packets = self._packets(container)
            stream = _main_stream(container, packets, path)
            self._stream = stream.index
            self._base = float(stream.time_base or 0)
            rate = float(stream.guessed_rate or stream.average_rate or 25)
            announced = stream.frames if "mp4" in container.format.name else 0  # others guess
        found = packets[self._stream]
        stamps = sorted({pts for pts, _, _ in found if pts is not None})
        if len(stamps) == len(found) and stamps and self._base and self._first_stamp() in stamps:
            kept = {pts for pts, _, discard in found if not discard}
            self._stamps = [stamp for stamp in stamps if stamp in kept]
            self._keys = sorted(pts for pts, key, _ in found if key and pts is not None)
        if self._stamps:
            self.seconds = [(stamp - self._stamps[0]) * self._base for stamp in self._stamps]
            self._places: dict[int | None, int] = {stamp: index for index, stamp in enumerate(self._stamps)}
        else:  # a bare stream has no time stamps, and some files repeat them: count the frames
            self._stamps = None
            with self._decoding() as decoded:
                self.seconds = [index / rate for index, _ in enumerate(decoded)]
        if not self.seconds and found:
            raise _undecodable(path)
        if not self.seconds:
            raise InputError(f"{printable(path)} has no frames; check that the recording is complete")
        self.usable = list(range(len(self.seconds)))
        discarded = sum(discard for _, _, discard in found)
        self.expected = max(len(self.seconds), len(found) - discarded, announced - discarded)
        self.damaged = self.damaged or announced - discarded > len(self.seconds)

    def find_usable(self) -> None:
        """Decode everything once, to know which frames can be."""
        if self._stamps is not None:
            with self._decoding() as decoded:
                self.usable = sorted({self._places[frame.pts] for frame in decoded if frame.pts in self._places})
        if not self.usable:
            raise _undecodable(self.path)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, "DecodedFrame"]]:
        """The frames with these ascending indices, without those that can't be decoded.

        Long stretches between them are passed over; where that doesn't work, everything is decoded.
        """
        rest = deque(indices)
        for index, frame in self._seeking(indices):
            yield index, frame
            rest.popleft()
        if rest:
            with self._decoding() as decoded:
                for place, picture in self._placed(decoded):
                    while rest and rest[0] < place:
                        rest.popleft()
                        self.damaged = True
                    if rest and rest[0] == place:
                        yield place, picture
                        rest.popleft()
                    if not rest:
                        return
            self.damaged = True

    def _seeking(self, indices: Sequence[int]) -> Iterator[tuple[int, "DecodedFrame"]]:
        """The same as far as key frames lead to these very frames; ends where one of them doesn't."""
        runs = self._runs(indices)
        if len(runs) == 1 and runs[0][0] is None:
            return
        for key, run in runs:
            wanted = deque(run)
            with self._decoding(key) as decoded:
                for place, frame in self._placed(decoded):
                    if place > wanted[0]:
                        return
                    if place == wanted[0]:
                        yield place, frame
                        wanted.popleft()
                    if not wanted:
                        break
            if wanted:
                return

    def _runs(self, indices: Sequence[int]) -> list[tuple[int | None, list[int]]]:
        """Indices that are decoded in one go, each run with the stamp of the key frame where it starts, or None."""
        runs: list[tuple[int | None, list[int]]] = []
        for index in indices:
            key = None
            if self._stamps is not None and (before := bisect_right(self._keys, self._stamps[index])):
                here = self._stamps[runs[-1][1][-1]] if runs else self._stamps[0]
                if (self._keys[before - 1] - here) * self._base > _WORTH_SEEKING:
                    key = self._keys[before - 1]
            if key is None and runs:
                runs[-1][1].append(index)
            else:
                runs.append((key, [index]))
        return runs

    def _placed(self, decoded: Iterator[av.VideoFrame]) -> Iterator[tuple[int, "DecodedFrame"]]:
        """Frames with their indices."""
        for position, frame in enumerate(decoded):
            place = position if self._stamps is None else self._places.get(frame.pts)
            if place is not None:
                yield place, DecodedFrame(frame, self._aspect, self._transfer, self._turn)

    def _first_stamp(self) -> int | None:
        with self._decoding() as decoded:
            first = next(decoded, None)
        return None if first is None else first.pts

    @contextmanager
    def _decoding(self, key: int | None = None) -> Iterator[Iterator[av.VideoFrame]]:
        """All frames that can be decoded, from the key frame with that stamp on."""
        with _open(self.path) as container:
            stream = cast(av.VideoStream, container.streams[self._stream])
            stream.thread_type = "AUTO"
            self._aspect = _pixel_aspect(stream)
            self._transfer = int(getattr(stream.codec_context, "color_trc", 0) or 0)
            if key is not None:
                container.seek(key, stream=stream)
            yield self._decoded(container, stream)

    def _read_turn(self, frame: av.VideoFrame) -> None:
        """A frame that was asked for its side data refers to itself, and stays until the collector comes."""
        self._turn = _turn_of(frame)
        self._asked += 1
        if self._asked % _ASKED_AT_ONCE == 0:
            gc.collect()

    def _decoded(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        first = True
        for packet in self._demuxed(container, stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.damaged = True
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damaged = True
                    continue
                if first or frame.key_frame:
                    self._read_turn(frame)
                    first = False
                yield frame

    def _demuxed(self, container: av.container.InputContainer, *streams: av.VideoStream) -> Iterator[av.Packet]:
        try:
            yield from container.demux(*streams)
        except av.FFmpegError:
            self.damaged = True

    def _packets(self, container: av.container.InputContainer) -> dict[int, list[tuple[int | None, bool, bool]]]:
        """For each video stream its packets: time stamp, whether it is a key frame, whether it is to be discarded."""
        found: dict[int, list[tuple[int | None, bool, bool]]] = {stream.index: [] for stream in container.streams.video}
        for packet in self._demuxed(container, *container.streams.video):
            if packet.size and packet.stream.index in found:
                found[packet.stream.index].append((packet.pts, packet.is_keyframe, packet.is_discard))
        return found


def video_size(path: Path) -> tuple[int, int]:
    """Width and height of the largest video stream as the header says; nothing is decoded.

    Raises InputError if the file isn't a video or has no video stream.
    """
    with _open(path) as container:
        contexts = [stream.codec_context for stream in container.streams.video]
        sizes = [(context.width, context.height) for context in contexts if context is not None]
    if not sizes:
        raise InputError(f"{printable(path)} has no video stream; give a video file such as mp4")
    return max(sizes, key=lambda size: size[0] * size[1])


class DecodedFrame:
    """One frame as it was decoded; nothing is converted before it is asked for."""

    def __init__(self, frame: av.VideoFrame, aspect: Fraction, transfer: int, turn: Image.Transpose | None) -> None:
        self._frame, self._aspect, self._transfer, self._turn = frame, aspect, transfer, turn

    def picture(self) -> Picture:
        """Upright, with square pixels, in sRGB."""
        frame = self._frame
        if self._transfer in (hdr.PQ, hdr.HLG):
            codes = frame.reformat(format="yuv444p16le").to_ndarray().astype(np.uint16, copy=False)
            picture = Picture(Image.fromarray(hdr.to_srgb(codes, self._transfer, frame.color_range == _FULL)))
        elif any(component.is_alpha for component in frame.format.components):
            picture = composed(Image.fromarray(frame.reformat(format="rgba").to_ndarray()))
        else:
            picture = Picture(frame.to_image())
        if self._aspect != 1:
            picture = picture.widened(max(1, round(frame.width * self._aspect)))
        return picture.turned(self._turn)

    def grey(self) -> NDArray[np.uint8]:
        """A small version [h, w], as it lies in the file, to judge its sharpness by."""
        frame = self._frame
        scale = min(1.0, _GREY_SIDE / max(frame.width, frame.height))
        width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        small = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
        return small.to_ndarray().astype(np.uint8, copy=False)


def _undecodable(path: Path) -> InputError:
    return InputError(f"no frame of {printable(path)} can be decoded; convert it to H.264 in mp4")


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        container = av.open(f"file:{path}")  # so that a colon in a name doesn't make it a protocol
    except (av.FFmpegError, OSError) as error:
        remedy = "it is damaged or cut short" if content_of(path) == "video" else "give one such as mp4"
        raise InputError(f"cannot open {printable(path)} as a video: {error.strerror}; {remedy}") from error
    with container:
        yield container


def _main_stream(
    container: av.container.InputContainer, packets: dict[int, list[tuple[int | None, bool, bool]]], path: Path
) -> av.VideoStream:
    """The stream that people mean: no cover art, then the default one, then the largest."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED]
    if not streams:
        what = "only a cover picture" if container.streams.video else "no video stream"
        raise InputError(f"{printable(path)} has {what}; give a video file such as mp4")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise _undecodable(path)
    return max(
        streams,
        key=lambda stream: (
            len(packets[stream.index]) > 1,
            bool(stream.disposition & av.stream.Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
        ),
    )


_ATTACHED = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Width over height of a pixel; 1 where the file says nothing, or nothing sensible."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if Fraction(1, _WIDEST) <= aspect <= _WIDEST else Fraction(1)


def _turn_of(frame: av.VideoFrame) -> Image.Transpose | None:
    """How to turn a frame by its display matrix, which phones write; None: not at all, or by no quarter turns."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", cast(bytes, matrix))  # it has the buffer protocol
    largest = max(map(abs, (a, b, c, d))) or 1
    a, b, c, d = (round(value / largest) for value in (a, b, c, d))
    return _TURNS.get((a, b, c, d))
