"""Small videos for tests."""

from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path, count: int, codec: str = "libx264", left_to_right: bool = False, lamp: bool = False
) -> None:
    """`count` frames of 56x28, 10 per second: flat greys (lamp: the lower third brighter by 100), or black and white
    halves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 56, 28, "yuv420p"
        stream.codec_context.gop_size = 7
        for index in range(count):
            pixels = np.full((28, 56, 3), 0 if left_to_right else 5 * index, np.uint8)
            if left_to_right:
                pixels[:, 28:] = 255
            if lamp:
                pixels[18:] += 100
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
