"""What running a Depth-Anything-3 takes: memory and operations, from its config."""

from quantvggt.models.cost import block_bytes, block_operations, dense_bytes, dense_operations, seen_by_all
from quantvggt.models.da3.backbone import NUM_SPECIAL
from quantvggt.models.da3.config import DA3Config
from quantvggt.models.dpt import frames_per_chunk
from quantvggt.nn.block import SwiGlu


def working_bytes(config: DA3Config, frames: int, height: int, width: int, kept: int, products: int) -> int:
    """The most that is needed at once beside weights, images and answers: in the last block, which finds all outputs
    but its own and the latest local block's kept, or in the dense head, which reads all of them."""
    dim, one = config.embed_dim, _tokens(config, height, width)
    tokens, at_once = frames * one, min(frames, frames_per_chunk(height, width))
    output = dim * tokens * (2 if config.alternates else 1)
    hidden = 4 * SwiGlu.hidden(dim) if config.swiglu else None
    trunk = (3 * output + dim * tokens) * kept + block_bytes(dim, tokens, kept, products, hidden)
    read = 4 * output * kept + 4 * output // frames * at_once * products
    return max(trunk, read + dense_bytes(config.features, at_once, height, width, products))


def operations(config: DA3Config, frames: int, height: int, width: int, attention: str) -> int:
    """Multiplications and additions of one run."""
    dim, one = config.embed_dim, _tokens(config, height, width)
    tokens, seen = frames * one, seen_by_all(frames, one, NUM_SPECIAL, attention)
    wide = len(range(config.start | 1, config.depth, 2))
    blocks = wide * block_operations(dim, tokens, seen) + (config.depth - wide) * block_operations(dim, tokens, one)
    return blocks + dense_operations(config.features, frames, height, width)


def _tokens(config: DA3Config, height: int, width: int) -> int:
    """Of one frame."""
    return NUM_SPECIAL + (height // config.patch_size) * (width // config.patch_size)
