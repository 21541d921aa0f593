"""What running a VGGT takes: memory and operations, from its config."""

from quantvggt.models.dino import DINO_BACKBONES
from quantvggt.models.dpt import frames_per_chunk
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.models.vggt.config import VGGTConfig
from quantvggt.nn.block import MLP_ROWS_PER_CHUNK

FLOAT32 = 4
BLOCK = 12  # numbers in a block's matrices, and operations a token and number of width in products, per width
HEAD_MAPS = 2.2  # full-size maps of a dense head's features that are held at once
HEAD_PRODUCTS = 12  # operations of a dense head a pixel, per square of its features


def working_bytes(config: VGGTConfig, frames: int, height: int, width: int, kept: int, products: int) -> int:
    """The most that is held at once beside weights, images and answers; kept, products: bytes of a number in the tokens
    and in products. Blocks and dense heads don't run at once; what heads read is there in both."""
    dim, tokens = config.embed_dim, frames * _tokens(config, height, width)
    read = 2 * dim * tokens * (products * (len(config.layers_read) - 1) + kept)
    rows = min(tokens, MLP_ROWS_PER_CHUNK)
    attention = dim * tokens * (3 * kept + 4 * products + 4 * FLOAT32)
    mlp = dim * (tokens * (2 * kept + products) + 4 * rows * (products + FLOAT32))
    at_once = min(frames, frames_per_chunk(height, width))
    head = int(HEAD_MAPS * config.dpt_features * products * at_once * height * width)
    return read + max(attention, mlp, head if {"depth", "point"} & set(config.heads) else 0)


def operations(config: VGGTConfig, frames: int, height: int, width: int) -> float:
    """Multiplications and additions of one run."""
    dim, one = config.embed_dim, _tokens(config, height, width)
    tokens = frames * one
    blocks = 2 * config.depth * 2 * BLOCK * dim**2 * tokens
    attention = config.depth * 4 * dim * tokens * (one + tokens)
    if config.patch_embed != "conv":
        wide, deep, _ = DINO_BACKBONES[config.patch_embed]
        blocks += deep * 2 * BLOCK * wide**2 * tokens
        attention += deep * 4 * wide * tokens * one
    dense = len({"depth", "point"} & set(config.heads))
    return float(blocks + attention + dense * HEAD_PRODUCTS * config.dpt_features**2 * frames * height * width)


def _tokens(config: VGGTConfig, height: int, width: int) -> int:
    """Of one frame."""
    return NUM_SPECIAL + (height // config.patch_size) * (width // config.patch_size)
