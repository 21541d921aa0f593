"""Small videos for tests."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_video(
    path: Path, count: int, codec: str = "libx264", left_to_right: bool = False, lamp: bool = False
) -> None:
    """`count` frames of 56x28, 10 per second: flat greys (lamp: the lower third brighter by 100), or black and white
    halves."""

    def frame(index: int) -> NDArray[np.uint8]:
        pixels = np.full((28, 56, 3), 0 if left_to_right else 5 * index, np.uint8)
        if left_to_right:
            pixels[:, 28:] = 255
        if lamp:
            pixels[18:] += 100
        return pixels

    write_frames(path, map(frame, range(count)), codec)


def write_frames(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    codec: str = "libx264",
    seconds: Iterable[float] | None = None,
    aspect: tuple[int, int] = (1, 1),
    rotation: int = 0,
    size: tuple[int, int] = (56, 28),
    **options: str,
) -> None:
    """Frames uint8 [H, W, 3], 10 per second or shown at these seconds; rotation: of the display, counterclockwise."""
    container_options = {key: options.pop(key) for key in ("movflags",) if key in options}
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = 7
        stream.codec_context.thread_count = 1
        if aspect != (1, 1):
            stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        if seconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        times = iter(seconds or ())
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if seconds is not None:
                frame.pts, frame.time_base = round(next(times) * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def damage_packets(path: Path, broken: Iterable[int]) -> None:
    """Make these frames undecodable, as a bad sector does."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(container.streams.video[0]) if packet.size]
    data = bytearray(path.read_bytes())
    for index in broken:
        data[places[index] : places[index] + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(data)
