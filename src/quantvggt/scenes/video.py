"""A video to a clip: a few frames of it, decoded one at a time."""

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.preprocess import check_mode, fit, to_common_size, warn_if_single

DEFAULT_FRAMES = 16


def load_video(
    path: str | os.PathLike[str],
    frames: int | None = None,
    rate: float | None = None,
    mode: str = "crop",
    size: int = 518,
) -> Clip:
    """Read frames of a video into a clip.

    frames: how many, evenly spaced from the first frame to the last (16 if neither is given; all of them,
    with a warning, if the video has fewer); or rate: how many per second. mode and size: see `load_images`.
    Only one frame is held at full size at any time, and the same file always gives the same frames. The
    display rotation that phones write is applied.

    Returns a Clip with images float32 [S, 3, H, W], named after the video and the frame's index;
    `source["frames"]` also has its time in seconds. Raises InputError for wrong arguments, a file that isn't
    a video, or one without frames.
    """
    check_mode(mode, size)
    path = Path(path).expanduser()
    if frames is not None and rate is not None:
        raise InputError("give the number of frames or the rate, not both")
    if frames is not None and frames < 1:
        raise InputError(f"frames is {frames}; ask for at least 1")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise InputError(f"rate is {rate}; give a positive number of frames per second")
    if not path.is_file():
        raise InputError(f"no such video: {path}; check the path")

    timeline = _read_timeline(path)
    chosen = _at_rate(timeline, rate) if rate is not None else _by_count(timeline, frames or DEFAULT_FRAMES)
    fitted = [fit(picture, mode, size) for picture in _decode(path, timeline, chosen)]
    if not fitted:
        raise InputError(f"no frame of {path} could be decoded; convert it to H.264 in mp4")
    chosen = chosen[: len(fitted)]  # a file cut short can end before its index does
    fitted = to_common_size(fitted)
    warn_if_single(len(fitted), str(path))
    described = [
        {"path": str(path), "frame": index, "time": round(timeline.seconds[index], 6), **frame.mapping()}
        for index, frame in zip(chosen, fitted, strict=True)
    ]
    return Clip(
        images=torch.stack([frame.pixels for frame in fitted]),
        names=[f"{path.stem}_{index:06d}" for index in chosen],
        source={"kind": "video", "mode": mode, "size": size, "frames": described},
    )


def read_frames(path: Path, indices: list[int]) -> Iterator[Image.Image]:
    """The frames of a video with these ascending indices, upright; fewer if the file is cut short.

    Raises InputError if the file isn't a video, or an index lies beyond its end.
    """
    timeline = _read_timeline(path)
    if indices[-1] >= len(timeline.seconds):
        raise InputError(f"{path} has {len(timeline.seconds)} frames, frame {indices[-1]} was asked for")
    return _decode(path, timeline, indices)


@dataclass(frozen=True)
class _Timeline:
    """When each frame is shown. stamps: the container's own time stamps, None where it has none."""

    seconds: list[float]
    stamps: list[int] | None


def _read_timeline(path: Path) -> _Timeline:
    """Read the packets' time stamps without decoding; headers are often wrong about the number of frames."""
    with _open(path) as container:
        stream = container.streams.video[0]
        try:
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.FFmpegError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; the file is damaged") from error
        rate = float(stream.guessed_rate or stream.average_rate or 25)
        base = float(stream.time_base or 1 / rate)
    if packets and all(packet.pts is not None for packet in packets):
        stamps = sorted({packet.pts for packet in packets})
        return _Timeline([(stamp - stamps[0]) * base for stamp in stamps], stamps)
    # A bare stream without a container has no time stamps: count its frames.
    count = sum(1 for _ in _frames(path))
    if not count:
        raise InputError(f"{path} has no frames; check that the recording is complete")
    return _Timeline([index / rate for index in range(count)], None)


def _by_count(timeline: _Timeline, frames: int) -> list[int]:
    available = len(timeline.seconds)
    if frames > available:
        warnings.warn(f"the video has {available} frames, {frames} were asked for: using all", stacklevel=3)
    return np.linspace(0, available - 1, min(frames, available)).round().astype(int).tolist()


def _at_rate(timeline: _Timeline, rate: float) -> list[int]:
    seconds = np.asarray(timeline.seconds)
    wanted = np.arange(math.floor(seconds[-1] * rate + 1e-6) + 1) / rate
    nearest = np.searchsorted((seconds[1:] + seconds[:-1]) / 2, wanted)
    return np.unique(nearest).tolist()


def _decode(path: Path, timeline: _Timeline, chosen: list[int]) -> Iterator[Image.Image]:
    waiting = iter(chosen)
    index = next(waiting)
    for position, frame in enumerate(_frames(path)):
        if timeline.stamps is None:
            due = position >= index
        else:
            due = frame.pts is not None and frame.pts >= timeline.stamps[index]
        if due:
            yield _upright(frame)
            following = next(waiting, None)
            if following is None:
                return
            index = following


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            yield from container.decode(stream)
        except av.FFmpegError as error:
            raise InputError(f"cannot decode {path}: {error.strerror}; re-encode it") from error


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"cannot open {path} as a video: {error.strerror}; give one such as mp4") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} has no video stream; give a video file such as mp4")
    return container


def _upright(frame: av.VideoFrame) -> Image.Image:
    picture = frame.to_image()
    turn = getattr(frame, "rotation", 0)  # PyAV before 14 doesn't expose it
    return picture.rotate(turn, expand=True) if turn else picture
