"""Make vggt-nano-long: vggt-nano trained on to clips of 24 frames, kept as low-rank updates.

    torchrun --nproc-per-node 2 tools/make_long.py --device cpu --threads 1 --out runs/long --minutes 95

Data, losses and schedule are those of train_nano.py. What trains are low-rank updates of the linear layers of the
trunk and of the camera head's blocks, and their small tensors; the rest stays. OUT/state.pt goes on with --resume;
OUT/vggt-nano-long is the asset: overlay.safetensors and config.json, to be copied to src/quantvggt/assets/. See
docs/nano.md.
"""

import copy
import shutil
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import parametrize

from nano.data import Batch
from nano.lowrank import make_trainable, overlay, ranks, truncated
from quantvggt.checkpoint.config import CONFIG_NAME
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.packaged import LONG, NANO, OVERLAY_NAME, packaged_weights
from quantvggt.core.files import atomic_folder
from quantvggt.models import VGGT
from train_nano import Trainer, options, run


class LongTrainer(Trainer):
    """vggt-nano with factors beside its matrices; only they and the small tensors learn."""

    lengths: ClassVar = [4, 6, 8, 12, 16, 24, 24, 24]
    probes: ClassVar = {8: 20, 32: 10}

    def start(self) -> VGGT:
        self.original = load(NANO, torch.float32).requires_grad_(False)
        model = copy.deepcopy(self.original)
        make_trainable(model, self.original, ranks(self.original, self.args.rank, self.args.camera_rank))
        return model

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        with parametrize.cached():
            return super().losses(batch)

    def averaged(self, dtype: torch.dtype = torch.float32) -> VGGT:
        model = copy.deepcopy(self.model)
        model.load_state_dict({name: value.to(dtype).float() for name, value in self.average.items()})
        return model.eval()

    def save_model(self, out: Path) -> None:
        with atomic_folder(out / LONG) as folder:
            tensors = overlay(self.averaged().cpu(), self.original)
            save_file(truncated(tensors, self.args.kept_rank), folder / OVERLAY_NAME)
            shutil.copy(packaged_weights(NANO).parent / CONFIG_NAME, folder / CONFIG_NAME)


if __name__ == "__main__":
    parser = options(__doc__)
    parser.set_defaults(optimizer="adamw", lr=1e-3, dense_frames=4)
    parser.add_argument("--rank", type=int, default=32, help="of the updates of the trunk's layers")
    parser.add_argument("--camera-rank", type=int, default=16, help="of the updates of the camera head's blocks")
    parser.add_argument("--kept-rank", type=int, default=5, help="of the updates in the asset; 5 makes 0.8 MB")
    run(LongTrainer, parser.parse_args())
