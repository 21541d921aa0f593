"""Train vggt-nano, the small VGGT that comes with the package, on freshly rendered synthetic scenes.

    python tools/train_nano.py --out runs/nano --minutes 100            (one process: one GPU)
    torchrun --nproc-per-node 2 tools/train_nano.py --threads 1 ...     (one process per CPU core)

The learning rate follows the clock, not the step count: it warms up, stays, and falls to zero exactly when
--minutes are over, whatever the machine's speed. Everything needed to go on is written to OUT/state.pt every
few minutes; the averaged weights are the checkpoint OUT/vggt-nano (float16). See docs/nano.md.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nano.attention import PlainAttention
from nano.data import Batch, loader
from nano.evaluate import evaluate
from nano.geometry import add_targets
from nano.losses import ReadOut, dense_loss, pose_loss
from nano.parallel import average_gradients, start
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.save import save
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.dpt import activate_depth, activate_points
from quantvggt.scenes.synthetic import HELD_OUT_SEED

NANO = VGGTConfig(
    img_size=112,
    patch_size=14,
    embed_dim=256,
    depth=6,
    num_heads=8,
    patch_embed="conv",
    camera_trunk_depth=2,
    camera_num_heads=8,
    dpt_features=64,
    dpt_out_channels=(64, 64, 128, 128),
    dpt_layers=(1, 2, 4, 5),
    heads=("camera", "depth", "point"),
)
READ_OUT_LAYERS = [2, 4]
LAYERS = sorted({*NANO.layers_read, *READ_OUT_LAYERS})
WEIGHTS = {
    "translation": 1.0, "quaternion": 1.0, "fov": 1.0, "turn": 1.0, "heading": 1.0,
    "depth": 0.5, "points": 0.5, "eye": 0.5, "place": 0.5,
}  # fmt: skip
WARM_UP, HOLD = 0.03, 0.2  # shares of the time: rising until the first, falling from the second
EMA_DECAY, EMA_EVERY = 0.99, 4
LOG_SECONDS, SAVE_SECONDS, EVALUATE_SECONDS = 60, 180, 600
PROBE_SEED = HELD_OUT_SEED + 1000  # first of the scenes looked at while training, not those of the final figures


class Trainer:
    """The model, its average, the optimizers and the clock; `step` takes one batch."""

    lengths: ClassVar = [2, 3, 4, 4, 6, 6, 8, 8]  # frames per clip, one drawn per batch
    probes: ClassVar = {8: 40}  # frames per clip: held-out scenes that the log tells about

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        self.rank, self.world = start(self.device)
        torch.manual_seed(args.seed)
        self.model = self.start()
        self.model.to(self.device, memory_format=torch.channels_last)
        self.read_out = ReadOut(2 * NANO.embed_dim, READ_OUT_LAYERS, NANO.patch_size).to(self.device)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.optimizers = self._optimizers()
        self.steps, self.frames, self.elapsed, self.streams = 0, 0, 0.0, 0

    def start(self) -> VGGT:
        """The model that training starts from; what needs no gradient in it stays as it is."""
        model = VGGT(NANO)
        if self.args.init:
            model.load_state_dict(load(self.args.init, torch.float32).state_dict())
        else:
            for name, parameter in model.named_parameters():
                if name.endswith(".gamma"):
                    nn.init.constant_(parameter, 0.5)  # from scratch, branches must count at once
        return model

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the alternating-attention blocks, AdamW for everything else."""
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        in_blocks = [p for name, p in named.items() if "_blocks." in name and p.ndim == 2]
        taken = {id(p) for p in in_blocks}
        rest = [p for p in (*named.values(), *self.read_out.parameters()) if id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.02},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adam = torch.optim.AdamW(groups, lr=self.args.lr, betas=(0.9, 0.98), fused=True)
        if self.args.optimizer == "adamw":
            adam.add_param_group({"params": in_blocks, "weight_decay": 0.02})
            optimizers: list[torch.optim.Optimizer] = [adam]
        else:
            settings: dict[str, Any] = {"weight_decay": 0.02, "adjust_lr_fn": "match_rms_adamw"}
            optimizers = [adam, torch.optim.Muon(in_blocks, lr=self.args.lr, **settings)]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]
        return optimizers

    @property
    def progress(self) -> float:
        return self.elapsed / (60 * self.args.minutes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; returns the losses, unweighted."""
        factor = schedule(self.progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        losses = self.losses(add_targets({key: value.to(self.device) for key, value in batch.items()}))
        total = sum(WEIGHTS[name] * value for name, value in losses.items())
        assert isinstance(total, Tensor)
        total.backward()
        parameters = [*self.model.parameters(), *self.read_out.parameters()]
        self.elapsed = average_gradients(parameters, self.elapsed)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.frames += self.world * batch["depth"].shape[:2].numel()
        if self.steps % EMA_EVERY == 0:
            decay = min(EMA_DECAY**EMA_EVERY, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(list(self.average.values()), list(self.model.state_dict().values()), 1 - decay)
        return {name: value.detach() for name, value in losses.items()} | {"total": total.detach(), "norm": norm}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The dense heads, the costliest part at this image size, see a random share of the frames."""
        images = batch["images"]
        height, width = images.shape[-2:]
        attention = PlainAttention() if self.device.type == "cpu" else nullcontext()
        with attention, torch.autocast(self.device.type, torch.bfloat16):
            outputs = self.model.aggregator(images, LAYERS)
        last = outputs[NANO.depth - 1]
        losses = pose_loss(self.model.camera_head(last[:, :, 0].float()), batch)
        patch_start = last.shape[2] - (height // NANO.patch_size) * (width // NANO.patch_size)
        losses |= self.read_out(outputs, patch_start, batch)
        count = images.shape[0] * images.shape[1]
        chosen = torch.randperm(count, device=self.device)[: self.args.dense_frames]
        tokens = {layer: outputs[layer].flatten(0, 1)[chosen] for layer in NANO.dpt_layers}
        with torch.autocast(self.device.type, torch.bfloat16):
            raw_depth = self.model.depth_head(tokens, height, width)
            raw_points = self.model.point_head(tokens, height, width)
        valid = batch["valid"].flatten(0, 1)[chosen]
        depth, points = batch["scaled_depth"].flatten(0, 1)[chosen], batch["points"].flatten(0, 1)[chosen]
        losses["depth"] = dense_loss(*activate_depth(raw_depth), depth[..., None], valid)
        losses["points"] = dense_loss(*activate_points(raw_points), points, valid)
        return losses

    def averaged(self, dtype: torch.dtype = torch.float32) -> VGGT:
        """A copy of the model with the averaged weights, rounded through `dtype`."""
        model = VGGT(NANO)
        model.load_state_dict({name: value.to(dtype).float() for name, value in self.average.items()})
        return model.to(self.device).eval()

    def save(self) -> None:
        """The state and the checkpoint, each whole or not at all."""
        out = Path(self.args.out)
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "read_out": self.read_out.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counters": [self.steps, self.frames, self.elapsed, self.streams],
        }
        with atomic_file(out / "state.pt") as path:
            torch.save(state, path)
        self.save_model(out)

    def save_model(self, out: Path) -> None:
        save(self.averaged(torch.float16), out / "vggt-nano", overwrite=True)

    def resume(self) -> None:
        state = torch.load(Path(self.args.out) / "state.pt", map_location=self.device, weights_only=True)
        if list(state["model"]) != list(self.model.state_dict()):
            raise InputError("the model's parameters changed since state.pt was written: start anew with --init")
        self.model.load_state_dict(state["model"])
        self.read_out.load_state_dict(state["read_out"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps, self.frames, self.elapsed, self.streams = state["counters"]


def schedule(progress: float) -> float:
    """Learning-rate factor: linear warm-up, constant, linear down to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP + 1e-3
    return max(0.0, min(1.0, (1 - progress) / (1 - HOLD)))


def train(trainer: Trainer) -> None:
    """Run until the time is up, logging, saving and evaluating by the clock."""
    args = trainer.args
    trainer.streams += 1  # a resumed training draws other scenes, and so does each process
    stream = (args.seed * 100 + trainer.streams) * trainer.world + trainer.rank
    torch.manual_seed(stream)
    batches = iter(loader(args.frames, trainer.lengths, stream, args.workers))
    sums: dict[str, Tensor] = {}
    count, since, logged = 0, time.monotonic(), trainer.elapsed
    saved = evaluated = trainer.elapsed
    while trainer.progress < 1:
        losses = trainer.step(next(batches))
        now = time.monotonic()
        trainer.elapsed, since = trainer.elapsed + now - since, now
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
        count += 1
        if trainer.rank:
            continue
        if trainer.elapsed - logged > LOG_SECONDS:
            rate = count * args.frames * trainer.world / (trainer.elapsed - logged)
            report = " ".join(f"{name} {float(value) / count:.4f}" for name, value in sums.items())
            print(f"{trainer.elapsed / 60:.1f} min, step {trainer.steps}, {rate:.1f} frames/s: {report}")
            sums, count, logged = {}, 0, trainer.elapsed
        if trainer.elapsed - saved > SAVE_SECONDS:
            trainer.save()
            saved = trainer.elapsed
        if trainer.elapsed - evaluated > EVALUATE_SECONDS:
            log_evaluation(trainer)
            evaluated = trainer.elapsed
    if trainer.rank == 0:
        trainer.save()
        log_evaluation(trainer)


def log_evaluation(trainer: Trainer) -> None:
    seen = {"minutes": round(trainer.elapsed / 60, 1), "steps": trainer.steps, "frames": trainer.frames}
    for frames, scenes in trainer.probes.items():
        seeds = list(range(PROBE_SEED, PROBE_SEED + scenes))
        row = evaluate(trainer.averaged(), seeds, frames, trainer.device)
        row = {name: round(value, 4) for name, value in row.items()}
        print(f"held out, {frames} frames:", json.dumps(seen | row))


def options(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for the state and the checkpoint")
    parser.add_argument("--minutes", type=float, default=100, help="training time; the schedule ends with it")
    parser.add_argument("--init", help='start from this model, such as "vggt-nano", not from scratch')
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the training process")
    parser.add_argument("--workers", type=int, default=1, help="rendering processes per training process")
    parser.add_argument("--frames", type=int, default=24, help="frames per batch and process, a multiple of 24")
    parser.add_argument("--dense-frames", type=int, default=6, help="frames of a batch that the dense heads see")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def run(kind: type[Trainer], args: argparse.Namespace) -> None:
    """Train as the options say, from the start or on."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if args.threads:
        torch.set_num_threads(args.threads)
    trainer = kind(args)
    if args.resume:
        trainer.resume()
    train(trainer)


if __name__ == "__main__":
    run(Trainer, options(__doc__).parse_args())
