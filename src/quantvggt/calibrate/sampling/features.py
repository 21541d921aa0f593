"""One pass of the trunk over each clip of a pool: all that any sampling strategy needs to know of it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.models import Model
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.labels import label_of

Floats = NDArray[np.float64]

DEEP = 1 / 6
"""The share of the trunk, counted from its end, that is deep: blocks 20..23 of VGGT-1B's 24, as published."""

_ARRAYS = ("means", "variances", "flattened", "tokenwise", "pooled")
_TEXTS = ("labels", "layers")


@dataclass(frozen=True, eq=False)
class PoolFeatures:
    """What the trunk makes of n clips of f frames each; all arrays are float64.

    means, variances: [n, L], of the input of each of the L deep blocks named by `layers`, over frames,
    tokens and channels (the variance is the population's).
    flattened, tokenwise: [n, f - 1], how much each later frame resembles the first (see `first_frame_correlations`).
    pooled: [n, 2C], the trunk's last output averaged over frames and tokens: a plain feature vector.
    labels: what each clip shows. layers: "frame_blocks.20", "global_blocks.20", ... in the order they run.
    """

    means: Floats
    variances: Floats
    flattened: Floats
    tokenwise: Floats
    pooled: Floats
    labels: list[str]
    layers: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """All arrays by name, and all texts by name: `of_parts` puts them together again."""
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
        return arrays, {name: getattr(self, name) for name in _TEXTS}

    @classmethod
    def of_parts(cls, arrays: Mapping[str, Tensor], texts: Mapping[str, list[str]]) -> "PoolFeatures":
        """Raises KeyError if there is one missing, ValueError if they are of different lengths."""
        parts: dict[str, Any] = {name: arrays[name].numpy() for name in _ARRAYS} | {
            name: texts[name] for name in _TEXTS
        }
        features = cls(**parts)
        clips = {len(parts[name]) for name in (*_ARRAYS, "labels")}
        if len(clips) != 1 or features.means.shape != features.variances.shape:
            raise ValueError("its arrays are of different lengths")
        return features

    @classmethod
    def joined(cls, parts: Sequence["PoolFeatures"]) -> "PoolFeatures":
        """Several pools' as one's, by the same model. Raises InputError if their clips differ in length."""
        lengths = sorted({one.flattened.shape[1] + 1 for one in parts})
        if len(lengths) > 1:
            raise InputError(f"the clips of the pool have {lengths} frames; give clips of equally many frames")
        arrays = {name: np.concatenate([getattr(one, name) for one in parts]) for name in _ARRAYS}
        return cls(**arrays, labels=[label for one in parts for label in one.labels], layers=parts[0].layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one small safetensors file. Raises InputError if that is impossible."""
        arrays, texts = self.parts()
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, {name: json.dumps(text) for name, text in texts.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PoolFeatures":
        """Raises InputError if `path` doesn't exist or holds something else."""
        if not Path(path).is_file():
            raise InputError(f"no such pool features: {path}; write them with PoolFeatures.save")
        try:
            with safe_open(path, "pt") as file:
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                texts = {name: json.loads((file.metadata() or {})[name]) for name in _TEXTS}
            return cls.of_parts(arrays, texts)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} holds no pool features ({error}); write them with PoolFeatures.save") from error


def deep_blocks(depth: int, share: float = DEEP) -> range:
    """The last blocks of a trunk of `depth` (frame, global) pairs: `share` of them, rounded, at least one.

    Raises InputError if the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise InputError(f"the deep share of the trunk is {share}; give one above 0 and up to 1")
    return range(depth - max(1, round(share * depth)), depth)


@torch.inference_mode()
def pool_features(model: Model, pool: Sequence[Clip], deep: float = DEEP, progress: bool = True) -> PoolFeatures:
    """Run the trunk, without the heads, over one clip at a time.

    pool: clips of equally many frames, two or more; their sizes may differ. It is read in order, each clip once, so
    one that opens its clips when asked needs the memory of one clip. deep: see `deep_blocks`. progress: a bar on
    stderr. Raises InputError on an empty pool, clips whose number of frames doesn't fit, or numbers that overflow.
    """
    trunk = model.trunk
    deepest = trunk.places[2 * deep_blocks(len(trunk.places) // 2, deep).start :]
    blocks = {_short(place.name): model.get_submodule(place.name) for place in deepest}
    names = list(blocks)
    moments: dict[str, tuple[float, float]] = {}
    handles = [block.register_forward_pre_hook(partial(_note_moments, moments, name)) for name, block in blocks.items()]
    rows: dict[str, list[Floats]] = {name: [] for name in _ARRAYS}
    labels: list[str] = []
    frames = 0
    try:
        for clip in tqdm(pool, desc="looking at the pool", unit="clip", disable=not progress):
            frames = frames or len(clip.names)
            _check_frames(clip, len(labels), frames)
            images = clip.images[None].to(model.device, model.dtype)
            output = model.last_output(model.encode(images))[0].float().cpu()
            if not output.isfinite().all():
                raise InputError(
                    f"clip {len(labels)} of the pool ({clip.names[0]}, ...): the model's numbers aren't finite; "
                    "load it in float32, or leave the clip out"
                )
            rows["means"].append(np.array([moments[name][0] for name in names]))
            rows["variances"].append(np.array([moments[name][1] for name in names]))
            rows["flattened"].append(first_frame_correlations(output, "flattened", trunk.special))
            rows["tokenwise"].append(first_frame_correlations(output, "tokenwise", trunk.special))
            rows["pooled"].append(output.mean((0, 1)).double().numpy())
            labels.append(label_of(clip))
    finally:
        for handle in handles:
            handle.remove()
    if not labels:
        raise InputError("the pool of candidates is empty; give it at least one clip")
    arrays = {name: np.stack(values) for name, values in rows.items()}
    return PoolFeatures(**arrays, labels=labels, layers=names)


def first_frame_correlations(output: Tensor, variant: str, special: int) -> Floats:
    """How much each later frame resembles the first: float64 [S - 1], each in [-1, 1].

    output: [S, P, D], the trunk's last output, a frame's `special` tokens first.
    variant: "flattened" (paper): the cosine of the two frames' features, all P * D numbers as one vector.
    "tokenwise" (published code): patch tokens only, averaged over neighbouring pairs of tokens and of channels (an
    odd one out is dropped); the cosine of each token with the one at its place in frame 0, averaged over tokens.
    """
    if variant == "flattened":
        frames = output.flatten(1)
    else:
        patches = output[:, special:]
        frames = F.avg_pool2d(patches, kernel_size=(min(2, patches.shape[1]), 2))
    first = frames[0].double()
    cosines = [F.cosine_similarity(first, later.double(), dim=-1).mean().item() for later in frames[1:]]
    return np.array(cosines)


def _short(name: str) -> str:
    """ "aggregator.frame_blocks.20" -> "frame_blocks.20"."""
    return ".".join(name.split(".")[-2:])


def _note_moments(
    moments: dict[str, tuple[float, float]], name: str, module: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    variance, mean = torch.var_mean(inputs[0].float(), correction=0)
    moments[name] = (mean.item(), variance.item())


def _check_frames(clip: Clip, index: int, frames: int) -> None:
    """Correlation vectors are as long as clips, less one: all clips must be of one length."""
    if len(clip.names) != frames:
        raise InputError(
            f"clip {index} of the pool ({clip.names[0]}, ...) has {len(clip.names)} frames, those before it {frames}; "
            "give clips of equally many frames"
        )
    if frames < 2:
        raise InputError(f"clip {index} of the pool ({clip.names[0]}) is a single frame; sampling needs two or more")
