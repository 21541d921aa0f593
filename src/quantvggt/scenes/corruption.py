"""Clips that nobody should calibrate on, made on purpose: what a filter of a calibration pool is tested with."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip, GroundTruth
from quantvggt.scenes.labels import label_of
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip, make_clips

KINDS = ("unrelated", "blurred", "black", "repeated")
POOL_SEED = HELD_OUT_SEED + 100_000_000
"""First seed of synthetic pools: neither trained on, nor evaluated on, nor in the "synthetic" calibration set."""

_SEEDS_PER_POOL = 1_000_000
_BLUR = 12  # the blur's standard deviation is a twelfth of the shorter side: no object's outline survives


def corrupt(clip: Clip, kind: str, seed: int = 0, others: Sequence[Clip] = ()) -> Clip:
    """The clip, broken in one of the ways that `KINDS` names; the same arguments give the same bytes.

    unrelated: every frame but the first comes from another scene: the first frame of `others[0]`, `others[1]`, ...
        (S - 1 clips whose frames are as large); no truth is left.
    blurred: every frame is blurred beyond recognition; the truth stays, for the cameras are what they were.
    black: half of the frames, at least one and drawn by `seed`, show nothing; no truth is left.
    repeated: one frame, drawn by `seed`, S times; so is its truth.

    `source["broken"]` names the kind, and with `source["broken_seed"]` the clip can be made again from its source.
    Raises InputError on an unknown kind, a clip that is broken already, or `others` that don't fit.
    """
    if kind not in KINDS:
        raise InputError(f"unknown way to break a clip {kind!r}; choose one of: {', '.join(KINDS)}")
    if "broken" in clip.source:
        raise InputError(f"the clip is broken already ({clip.source['broken']}); start from a sound one")
    rng = np.random.default_rng(seed)
    source = {**clip.source, "broken": kind, "broken_seed": seed}
    count = len(clip.names)
    if kind == "unrelated":
        if len(others) < count - 1 or any(other.images.shape[1:] != clip.images.shape[1:] for other in others):
            raise InputError(f"{count} unrelated frames need {count - 1} other clips whose frames are as large")
        others = others[: count - 1]
        images = torch.cat([clip.images[:1], *(other.images[:1] for other in others)])
        names = [clip.names[0], *(other.names[0] for other in others)]
        return Clip(images, names, {**source, "unrelated": [other.source for other in others]})
    if kind == "blurred":
        return replace(clip, images=_blurred(clip.images), source=source)
    if kind == "black":
        images = clip.images.clone()
        images[rng.permutation(count)[: max(1, count // 2)]] = 0
        return replace(clip, images=images, source=source, truth=None)
    chosen = [int(rng.integers(count))] * count
    truth = clip.truth
    if truth is not None:
        truth = GroundTruth(truth.extrinsics[chosen], truth.intrinsics[chosen], truth.depth[chosen])
    shown = None if clip.shown is None else clip.shown[chosen]
    return Clip(clip.images[chosen], [clip.names[index] for index in chosen], source, truth, shown)


def synthetic_pool(
    count: int, frames: int = 8, broken: float = 0.2, seed: int = 0, size: int | tuple[int, int] = 112
) -> list[Clip]:
    """Candidate clips for calibration, a known share of them broken: what sampling strategies are studied on.

    count: clips; broken: the share, in [0, 1], of broken ones, as evenly over `KINDS` as it goes and scattered by
    `seed`. frames, size: as in `make_clip`. Pools of different seeds share no scene. `source["broken"]` tells which
    clips are broken and how; `source["label"]` is the scene's label (`labels.label_of`).
    Raises InputError on a share outside [0, 1], fewer than one clip, or what `make_clip` refuses.
    """
    if count < 1 or not 0 <= broken <= 1:
        raise InputError(f"a pool needs at least one clip and a broken share in [0, 1], got {count} and {broken}")
    if seed < 0:
        raise InputError(f"seed {seed}: a synthetic pool needs a seed of 0 or more")
    first = POOL_SEED + seed * _SEEDS_PER_POOL
    spare = first + _SEEDS_PER_POOL // 2  # scenes that only lend unrelated frames
    victims = np.random.default_rng(seed).permutation(count)[: round(broken * count)].tolist()
    kinds = {index: KINDS[position % len(KINDS)] for position, index in enumerate(victims)}
    pool = []
    for index in range(count):
        clip = make_clip(first + index, frames, size)
        clip = replace(clip, source={**clip.source, "label": label_of(clip)})
        if index in kinds:
            lenders = range(spare + index * frames, spare + index * frames + frames - 1)
            others = make_clips(lenders, frames=1, size=size) if kinds[index] == "unrelated" else ()
            clip = corrupt(clip, kinds[index], seed=first + index, others=others)
        pool.append(clip)
    return pool


def _blurred(images: Tensor) -> Tensor:
    """Gaussian blur of 8-bit pixels: [S, 3, H, W] in [0, 1] to the same."""
    blur = ImageFilter.GaussianBlur(min(images.shape[-2:]) / _BLUR)
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    frames = [np.array(Image.fromarray(frame).filter(blur)) for frame in pixels]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float().div_(255).contiguous()
