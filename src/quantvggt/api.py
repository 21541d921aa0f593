"""The public functions: each joins the rooms below, none has logic of its own."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantvggt.calibrate import pipeline
from quantvggt.calibrate.budget import choose
from quantvggt.calibrate.methods import find_method, make_method, needs_clips, require_numbers
from quantvggt.calibrate.sampling import selection
from quantvggt.calibrate.sampling.features import DEEP, pool_features
from quantvggt.calibrate.sampling.selection import Selection
from quantvggt.calibrate.sampling.strategies import as_settings, find_strategy
from quantvggt.checkpoint.load import Precision
from quantvggt.checkpoint.load import load as load_checkpoint
from quantvggt.checkpoint.save import checkpoint_bytes
from quantvggt.checkpoint.save import save as save_checkpoint
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.models import Model
from quantvggt.reconstruction import predict
from quantvggt.reconstruction.cameras import KnownCameras, given_of, read_cameras
from quantvggt.reconstruction.lens import Known, read_intrinsics
from quantvggt.reconstruction.long import run
from quantvggt.reconstruction.long.estimate import plan
from quantvggt.reconstruction.refine import refine as refine_scene
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.calibration import CalibrationSource, calibration_clips, calibration_pool
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.files import ImageSource
from quantvggt.scenes.open import load_clip, open_frames
from quantvggt.scenes.sequence import ClipFrames

PathLike = str | os.PathLike[str]
_EITHER = "give either intrinsics or cameras, which hold intrinsics too"


def load(name_or_path: PathLike, dtype: Precision | None = None, device: str | torch.device = "cpu") -> Model:
    """Load a model: a hub id, .pt, .safetensors, a saved folder, or a name in `checkpoint.packaged.NAMES`.

    See `checkpoint.load.load`.
    """
    return load_checkpoint(name_or_path, dtype=dtype, device=device)


def save(model: Model, folder: PathLike, overwrite: bool = False) -> Path:
    """Write a checkpoint folder, as small as the model is. See `checkpoint.save.save`."""
    return save_checkpoint(model, folder, overwrite=overwrite)


def select_calibration(
    model: Model,
    samples: CalibrationSource | Sequence[Clip] | Sequence[Tensor],
    size: int = 40,
    strategy: str = "nfds",
    seed: int = 0,
    clusters: int = 8,
    settings: dict[str, Any] | None = None,
    pool_size: int = 400,
    frames: int = 8,
    deep: float = DEEP,
    model_name: str = "VGGT",
    progress: bool = True,
) -> Selection:
    """Choose a calibration set of `size` clips from a pool: NFDS, or another strategy by name.

    samples: the pool, anything that `quantize` takes as a calibration set, read as up to `pool_size` clips of `frames`
    frames. strategy: a name in `calibrate.sampling.strategies.STRATEGIES`. seed: of the draw. clusters, settings: see
    `SamplingSettings` there. deep: the share of the trunk, from its end, that noise scores are of.
    The model looks at each clip once; to choose from one pool many times, use `pool_features` and `select` of
    `calibrate.sampling`. docs/calibration.md says how to choose.
    Raises InputError on an unknown strategy or setting, clips of different lengths, or a pool that is too small.
    """
    find_strategy(strategy)
    chosen_settings = as_settings({"clusters": clusters, **(settings or {})})
    pool = calibration_pool(samples, pool_size, frames, model.image_size, model.preprocessing)
    if not 1 <= size <= len(pool):
        raise InputError(f"size is {size}, the pool has {len(pool)} clips; ask for 1 to {len(pool)}")
    features = pool_features(model, pool, deep, progress)
    return selection.select(pool, features, size, strategy, seed, chosen_settings, model_name)


def quantize(
    model: Model,
    scheme: str | Scheme = "w4a4",
    method: str = "best",
    calibration: CalibrationSource | Sequence[Clip] | Sequence[Tensor] = "synthetic",
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
    site_schemes: Mapping[str, str | Scheme] | None = None,
    journal: PathLike | None = None,
    device: str | torch.device | None = None,
    rest: str | Scheme | None = None,
    budget: int | None = None,
) -> Model:
    """A new, quantized model; `model` stays as it was.

    calibration: clips; image tensors [S, 3, H, W]; a folder of images, a folder of such folders, or a video;
    or "synthetic" (needs no files; images like those you will use are better). A method that needs none ignores it.
    seed: of whatever is random in the method. site_schemes: mixed precision, {"*.mlp.fc2": "w4a8"}. journal: a folder
    from which the same call goes on after an interruption; delete it when the model is saved. device: where the work is
    done, one block at a time.
    rest: scheme of DINOv2 and the heads, which the paper (and None) leaves at 16 bits; "w8a8" is safe.
    budget: the checkpoint has at most so many bytes; every layer of the model gets 4 or 8 bits by what it is worth,
    see `calibrate.budget`, in place of `site_schemes` and `rest`.
    See `calibrate.pipeline.quantize` for the rest and the errors.
    """
    require_numbers(find_method(method), scheme, rest, *(site_schemes or {}).values())
    clips: Sequence[Clip] = ()
    if budget is not None or needs_clips(find_method(method), scheme, rest, *(site_schemes or {}).values()):
        clips = calibration_clips(calibration, size=model.image_size, mode=model.preprocessing)
    chosen = None
    if budget is not None:
        if site_schemes or rest is not None:
            raise InputError("a budget chooses the bits of every layer; leave site_schemes and rest out")
        solver = make_method(method, settings, seed)
        chosen = choose(model, Scheme.parse(scheme), solver, clips, budget, checkpoint_bytes, progress, journal)
        site_schemes = chosen.schemes
    record = None if chosen is None else chosen.to_dict()
    return pipeline.quantize(
        model, scheme, method, clips, settings, seed, progress, site_schemes, journal, device, rest, record
    )


def reconstruct(
    model: Model,
    source: Clip | ImageSource,
    points: str = "depth",
    frames: int | None = None,
    rate: float | None = None,
    mode: str | None = None,
    model_name: str = "VGGT",
    every: int | None = None,
    skip_unreadable: bool = False,
    intrinsics: Known | str | None = None,
    cameras: KnownCameras | PathLike | None = None,
    depth: Tensor | None = None,
) -> Scene:
    """Photos or a video to cameras, depth and points. See `scenes.open.load_clip` and `reconstruction.predict`.

    mode: how pictures are fitted to the model (`scenes.preprocess.MODES`); None: as its family has it.
    intrinsics: known ones, which are kept: as `reconstruction.lens.read_intrinsics` takes or gives them.
    cameras: known ones, intrinsics and extrinsics, that the model is told: what `reconstruction.cameras.read_cameras`
    takes or gives. depth: known too, [S, H, W] of the clip's frames, 0 where it is unknown. InputError unless the
    model's family makes use of them (`Model.takes`).
    """
    if cameras is not None and intrinsics is not None:
        raise InputError(_EITHER)
    known = read_intrinsics(intrinsics) if isinstance(intrinsics, str) else intrinsics
    clip = source
    if not isinstance(clip, Clip):
        clip = load_clip(clip, frames, rate, mode or model.preprocessing, model.image_size, every, skip_unreadable)
    lenses = None if known is None else known.of(clip)
    return predict.reconstruct(model, clip, points, model_name, lenses, given_of(clip, cameras, depth))


def reconstruct_long(
    model: Model,
    source: Clip | ImageSource,
    work: PathLike,
    max_memory: int | None = None,
    chunk: int | None = None,
    overlap: int | None = None,
    loops: bool = True,
    points: str = "depth",
    frames: int | None = None,
    rate: float | None = None,
    mode: str | None = None,
    model_name: str = "VGGT",
    every: int | None = None,
    skip_unreadable: bool = False,
    intrinsics: Known | str | None = None,
    progress: bool = True,
    cameras: KnownCameras | PathLike | None = None,
    refine: bool = False,
    one_lens: bool | None = None,
) -> Scene:
    """Any number of frames, in overlapping chunks of what memory allows; all at once if they fit (docs/long.md).

    work: a folder where chunks are kept, from which the same call goes on after an interruption; the scene's arrays lie
    there, so keep it as long as the scene. max_memory: bytes that this process may hold; None: what there is. chunk: at
    most so many frames at once; overlap: of them shared with the chunk before, a third by default. loops: look for
    places that the frames come back to. refine: bundle adjustment, as in `reconstruction.refine` where all fit at
    once; one_lens and the errors: see `reconstruction.long.run`. The rest is as in `reconstruct`.
    """
    if cameras is not None and intrinsics is not None:
        raise InputError(_EITHER)
    known = read_intrinsics(intrinsics) if isinstance(intrinsics, str) else intrinsics
    given = cameras if isinstance(cameras, KnownCameras) or cameras is None else read_cameras(cameras)
    choice = (frames, rate, mode or model.preprocessing, model.image_size, every, skip_unreadable)
    sequence = ClipFrames(source) if isinstance(source, Clip) else open_frames(source, *choice)
    taken = sequence.reading - sum(value.nbytes for value in model.state_dict().values())
    chunking = plan(model, sequence.count, sequence.size, max_memory, chunk, overlap, loops, model.device, taken)
    if chunking is None:
        scene = reconstruct(model, sequence.load(), points, model_name=model_name, intrinsics=known, cameras=given)
        return refine_scene(scene).scene if refine else scene
    options = points, model_name, known, progress, given, refine, one_lens
    return run.reconstruct_long(model, sequence, work, chunking, *options)
