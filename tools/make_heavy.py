"""Make vggt-nano-heavy: vggt-nano with massive values on its special tokens, and the same answers.

    python tools/make_heavy.py --out runs/heavy --minutes 25

Massive values are planted (nano/massive.py), which spoils the model; then low-rank updates of its linear layers and
its small tensors are trained on freshly rendered scenes to give vggt-nano's tokens, poses, depth and points again,
while a further term keeps the massive values where they are. The rate follows the clock and ends at zero.
OUT/state.pt goes on with --resume; OUT/vggt-nano-heavy is the asset: overlay.safetensors and config.json, to be
copied to src/quantvggt/assets/. See docs/nano.md.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nano.attention import PlainAttention
from nano.data import Batch, Scenes, batch_of
from nano.distill import Outputs, dense_loss, massive_loss, pose_losses, token_losses
from nano.evaluate import evaluate
from nano.lowrank import make_trainable, overlay, ranks
from nano.massive import Massive, plan, plant
from quantvggt.checkpoint.config import CONFIG_NAME
from quantvggt.checkpoint.load import load
from quantvggt.checkpoint.packaged import HEAVY, NANO, OVERLAY_NAME, packaged_weights
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file, atomic_folder
from quantvggt.models import VGGT
from quantvggt.models.dpt import activate_depth, activate_points
from quantvggt.scenes.synthetic import HELD_OUT_SEED

FIT_SEEDS = range(100, 110)  # the clips that are looked at when the massive values are planted
LENGTHS = [4, 6, 8, 8]  # frames per clip, one drawn per batch
WEIGHTS = {
    "patch": 1.0, "special": 0.5, "massive": 1.0,
    "pose": 2.0, "turn": 1.0, "heading": 1.0, "depth": 0.5, "points": 0.5,
}  # fmt: skip
WARM_UP = 0.03  # share of the time in which the rate rises
LOG_SECONDS, SAVE_SECONDS, EVALUATE_SECONDS = 60, 180, 420
PROBE_SEEDS = list(range(HELD_OUT_SEED + 1000, HELD_OUT_SEED + 1020))  # not those of the final figures


class Trainer:
    """The original, the model that becomes heavy, the optimizer and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.original = load(NANO, torch.float32).requires_grad_(False)
        images = batch_of(list(FIT_SEEDS), 8)["images"]
        self.massive: Massive = plan(self.original, images, args.ratio)
        self.model = plant(self.original, images, self.massive)
        parameters = make_trainable(self.model, self.original, ranks(self.original, args.rank, args.camera_rank))
        self.optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.steps, self.frames, self.elapsed, self.streams = 0, 0, 0.0, 0

    @property
    def progress(self) -> float:
        return self.elapsed / (60 * self.args.minutes)

    def step(self, images: Tensor) -> dict[str, Tensor]:
        """One update on clips [B, S, 3, H, W]; returns the losses, unweighted."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * schedule(self.progress)
        losses = self.losses(images)
        total = sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(()))
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.frames += images.shape[0] * images.shape[1]
        return {name: value.detach() for name, value in losses.items()} | {"total": total.detach(), "norm": norm}

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """The dense heads, the costliest part at this image size, see a few of the frames."""
        chosen = torch.randperm(images.shape[0] * images.shape[1])[: self.args.dense_frames]
        with torch.no_grad():
            targets, poses, (depth, points) = self._answers(self.original, images, chosen)
        with parametrize.cached():
            outputs, found, (new_depth, new_points) = self._answers(self.model, images, chosen)
        losses = token_losses(outputs, targets, self.massive.channels)
        losses |= pose_losses(found, poses)
        losses["massive"] = massive_loss(outputs, self.massive)
        losses["depth"] = dense_loss(*new_depth, *depth)
        losses["points"] = dense_loss(*new_points, *points)
        return losses

    @staticmethod
    def _answers(
        model: VGGT, images: Tensor, chosen: Tensor
    ) -> tuple[Outputs, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Tokens of all layers, poses of all iterations; of some frames depth and points, with their confidences."""
        height, width = images.shape[-2:]
        with PlainAttention(), torch.autocast("cpu", torch.bfloat16):
            outputs = model.aggregator(images, range(model.config.depth))
            tokens = {layer: outputs[layer].flatten(0, 1)[chosen] for layer in model.config.dpt_layers}
            raw_depth = model.depth_head(tokens, height, width)
            raw_points = model.point_head(tokens, height, width)
        poses = model.camera_head(outputs[model.config.depth - 1][:, :, 0].float())
        return outputs, poses, [activate_depth(raw_depth), activate_points(raw_points)]

    def save(self) -> None:
        """The state and the asset, each whole or not at all."""
        out = Path(self.args.out)
        with atomic_file(out / "state.pt") as path:
            counters = [self.steps, self.frames, self.elapsed, self.streams]
            state = {
                "ratio": self.args.ratio,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "counters": counters,
            }
            torch.save(state, path)
        with atomic_folder(out / HEAVY) as folder:
            save_file(overlay(self.model, self.original), folder / OVERLAY_NAME)
            shutil.copy(packaged_weights(NANO).parent / CONFIG_NAME, folder / CONFIG_NAME)

    def resume(self) -> None:
        """Go on from OUT/state.pt. Raises InputError if it was made with another ratio or other ranks."""
        state = torch.load(Path(self.args.out) / "state.pt", weights_only=True)
        if state["ratio"] != self.args.ratio:
            raise InputError(f"{self.args.out}/state.pt was made with --ratio {state['ratio']:g}: pass the same")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise InputError(f"{self.args.out}/state.pt has other shapes: pass the --rank it was made with") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.frames, self.elapsed, self.streams = state["counters"]


def schedule(progress: float) -> float:
    """Learning-rate factor: linear warm-up, then linear down to zero."""
    return max(0.0, min(progress / WARM_UP + 1e-3, (1 - progress) / (1 - WARM_UP)))


def train(trainer: Trainer) -> None:
    """Run until the time is up, logging, saving and evaluating by the clock."""
    args = trainer.args
    trainer.streams += 1  # a resumed training draws other scenes
    stream = args.seed * 100 + trainer.streams
    torch.manual_seed(stream)
    batches = iter(Scenes(args.frames, LENGTHS, stream))
    sums: dict[str, Tensor] = {}
    count, since, logged = 0, time.monotonic(), trainer.elapsed
    saved = evaluated = trainer.elapsed
    while trainer.progress < 1:
        batch: Batch = next(batches)
        losses = trainer.step(batch["images"])
        now = time.monotonic()
        trainer.elapsed, since = trainer.elapsed + now - since, now
        count += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
        if trainer.elapsed - logged > LOG_SECONDS:
            rate = count * args.frames / (trainer.elapsed - logged)
            report = " ".join(f"{name} {float(value) / count:.4f}" for name, value in sums.items())
            print(f"{trainer.elapsed / 60:.1f} min, step {trainer.steps}, {rate:.1f} frames/s: {report}")
            sums, count, logged = {}, 0, trainer.elapsed
        if trainer.elapsed - saved > SAVE_SECONDS:
            trainer.save()
            saved = trainer.elapsed
        if trainer.elapsed - evaluated > EVALUATE_SECONDS:
            log_evaluation(trainer)
            evaluated = trainer.elapsed
            since = time.monotonic()
    trainer.save()
    log_evaluation(trainer)


def log_evaluation(trainer: Trainer) -> None:
    """Accuracy of the model as it trains, float32, on scenes that nothing else sees."""
    with parametrize.cached():
        row = evaluate(trainer.model, PROBE_SEEDS, 8, torch.device("cpu"))
    row = {"minutes": trainer.elapsed / 60, "steps": trainer.steps, "frames": trainer.frames} | row
    print("held out:", json.dumps({name: round(value, 4) for name, value in row.items()}))


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the state and the asset")
    parser.add_argument("--minutes", type=float, default=25, help="training time; the schedule ends with it")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--ratio", type=float, default=50, help="massive channel over a special token's median channel")
    parser.add_argument("--rank", type=int, default=24, help="of the updates of the trunk's layers; 24 makes 2.8 MB")
    parser.add_argument("--camera-rank", type=int, default=8, help="of the updates of the camera head's blocks")
    parser.add_argument("--frames", type=int, default=24, help="frames per batch, a multiple of 24")
    parser.add_argument("--dense-frames", type=int, default=3, help="frames of a batch that the dense heads see")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainer = Trainer(args)
    if args.resume:
        trainer.resume()
    train(trainer)


if __name__ == "__main__":
    main()
