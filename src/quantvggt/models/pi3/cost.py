"""What running a Pi3 or a Pi3X takes: memory and operations, from its config."""

from quantvggt.models.cost import FLOAT32, block_bytes, block_operations, seen_by_all
from quantvggt.models.dpt import frames_per_chunk
from quantvggt.models.pi3.config import Pi3Config, Pi3XConfig
from quantvggt.models.pi3.heads import HIDDEN
from quantvggt.models.pi3.parts import SPECIAL

_MAPS = 16  # numbers a pixel beside those of a head: points while lenses are found from them
_LINEAR = 10  # numbers a pixel while a linear head writes a map


def working_bytes(config: Pi3Config, frames: int, height: int, width: int, kept: int, products: int) -> int:
    """The most that is needed at once beside weights, images and answers: in the encoder or the trunk, which keeps a
    block's output beside the next one's, or in what reads the last two: a decoder, or a head behind it."""
    dim, one, pixels = config.embed_dim, _tokens(config, height, width), height * width
    tokens, at_once = frames * one, min(frames, frames_per_chunk(height, width))
    beside = max(dim * tokens * kept, 3 * kept * frames * pixels)  # the pictures, normalised, or a block's output
    trunk = beside + block_bytes(dim, tokens, kept, products)
    head = _head_numbers(config) * kept * at_once * pixels + config.point_out * tokens * (kept + products)
    decoder = block_bytes(config.head_dim, tokens, kept, kept)  # that of cameras is never in fewer bits
    return max(trunk, 2 * dim * tokens * kept + _MAPS * FLOAT32 * frames * pixels + max(decoder, head))


def operations(config: Pi3Config, frames: int, height: int, width: int, attention: str) -> int:
    """Multiplications and additions of one run; Pi3X's scale, less than 1 % of it, is left out."""
    dim, one = config.embed_dim, _tokens(config, height, width)
    tokens, seen = frames * one, seen_by_all(frames, one, SPECIAL, attention)
    wide = config.depth // 2
    blocks = wide * block_operations(dim, tokens, seen)
    blocks += (config.encoder_depth + config.depth - wide) * block_operations(dim, tokens, one)
    blocks += 3 * config.head_depth * block_operations(config.head_dim, tokens, one)
    around = (
        3 * 2 * config.embed_dim + 2 * config.point_out + config.camera_out
    )  # of each decoder's first and last layer
    return blocks + 2 * config.head_dim * around * tokens + _head_operations(config, frames, height, width)


def _head_numbers(config: Pi3Config) -> int:
    """Numbers a pixel while a dense head writes its map: the last stage's map, again with places, again framed."""
    if not isinstance(config, Pi3XConfig):
        return _LINEAR
    last = config.head_channels[-1]
    return max(3 * last, 2 * last + 2 * HIDDEN) + 8


def _head_operations(config: Pi3Config, frames: int, height: int, width: int) -> int:
    """Of both dense heads."""
    patches = frames * (height // config.patch_size) * (width // config.patch_size)
    if not isinstance(config, Pi3XConfig):
        return 2 * config.point_out * 4 * config.patch_size**2 * patches
    total, before, cells = 0, config.point_out, patches
    for channels in config.head_channels:
        cells *= 4
        # Behind the enlarging one a convolution, and in each of two residuals two, to twice as many channels and back.
        total += 2 * cells * channels * (before + 9 * channels * (1 + 2 * 2 * 2))
        before = channels
    return 2 * total + 3 * 2 * 9 * before * HIDDEN * frames * height * width


def _tokens(config: Pi3Config, height: int, width: int) -> int:
    """Of one frame."""
    return SPECIAL + (height // config.patch_size) * (width // config.patch_size)
