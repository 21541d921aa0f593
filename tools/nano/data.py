"""An endless stream of freshly rendered training batches."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip

Batch = dict[str, Tensor]


class Scenes(IterableDataset[Batch]):
    """Batches of `frames_per_batch` frames: the clips of one batch share a length drawn from `lengths`.

    Seeds are drawn uniformly below `HELD_OUT_SEED`; each worker of each `stream` draws its own.
    """

    def __init__(self, frames_per_batch: int, lengths: list[int], stream: int) -> None:
        self.frames_per_batch, self.lengths, self.stream = frames_per_batch, lengths, stream

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index = worker.id if worker else 0
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(self.stream * 100 + index)
        while True:
            length = self.lengths[int(torch.randint(len(self.lengths), (), generator=generator))]
            seeds = torch.randint(HELD_OUT_SEED, (self.frames_per_batch // length,), generator=generator)
            yield batch_of(seeds.tolist(), length)


def batch_of(seeds: list[int], frames: int) -> Batch:
    """images [B, S, 3, H, W], extrinsics [B, S, 3, 4], intrinsics [B, S, 3, 3], depth [B, S, H, W]."""
    clips = [make_clip(seed, frames) for seed in seeds]
    return {
        "images": torch.stack([clip.images for clip in clips]),
        "extrinsics": torch.stack([clip.truth.extrinsics for clip in clips if clip.truth]),
        "intrinsics": torch.stack([clip.truth.intrinsics for clip in clips if clip.truth]),
        "depth": torch.stack([clip.truth.depth for clip in clips if clip.truth]),
    }


def loader(frames_per_batch: int, lengths: list[int], stream: int, workers: int) -> DataLoader[Batch]:
    """Rendered by `workers` processes, a few batches ahead."""
    scenes = Scenes(frames_per_batch, lengths, stream)
    return DataLoader(scenes, batch_size=None, num_workers=workers, prefetch_factor=6)
