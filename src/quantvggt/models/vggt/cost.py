"""What running a VGGT takes: memory and operations, from its config."""

from quantvggt.models.cost import block_bytes, block_operations, dense_bytes, dense_operations, seen_by_all
from quantvggt.models.dino import DINO_BACKBONES
from quantvggt.models.dpt import frames_per_chunk
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.models.vggt.config import VGGTConfig


def working_bytes(config: VGGTConfig, frames: int, height: int, width: int, kept: int, products: int) -> int:
    """The most that is needed at once beside weights, images and answers. Blocks and dense heads don't run at once;
    what heads read is there in both."""
    dim, tokens = config.embed_dim, frames * _tokens(config, height, width)
    read = 2 * dim * tokens * (products * (len(config.layers_read) - 1) + kept)
    at_once = min(frames, frames_per_chunk(height, width))
    head = dense_bytes(config.dpt_features, at_once, height, width, products) if _dense(config) else 0
    return read + max(block_bytes(dim, tokens, kept, products), head)


def operations(config: VGGTConfig, frames: int, height: int, width: int, attention: str) -> int:
    """Multiplications and additions of one run."""
    dim, one = config.embed_dim, _tokens(config, height, width)
    tokens, seen = frames * one, seen_by_all(frames, one, NUM_SPECIAL, attention)
    blocks = config.depth * (block_operations(dim, tokens, one) + block_operations(dim, tokens, seen))
    if config.patch_embed != "conv":
        wide, deep, _ = DINO_BACKBONES[config.patch_embed]
        blocks += deep * block_operations(wide, tokens, one)
    return blocks + _dense(config) * dense_operations(config.dpt_features, frames, height, width)


def _tokens(config: VGGTConfig, height: int, width: int) -> int:
    """Of one frame."""
    return NUM_SPECIAL + (height // config.patch_size) * (width // config.patch_size)


def _dense(config: VGGTConfig) -> int:
    """How many dense heads there are."""
    return len({"depth", "point"} & set(config.heads))
