"""quantvggt select --workers, --ray: the pass over a pool, shared; clips that were looked at are kept until all are."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quantvggt.calibrate.sampling.features import PoolFeatures, pool_features
from quantvggt.checkpoint.load import outline
from quantvggt.checkpoint.locate import content_digest
from quantvggt.cli.common import load_model
from quantvggt.cli.scenes import pictures_in
from quantvggt.core.errors import QuantVGGTError
from quantvggt.jobs.executor import Place
from quantvggt.jobs.store import Store, discard, task_of
from quantvggt.scenes.calibration import calibration_pool

ROOMS = ("calibrate", "checkpoint", "core", "jobs", "kernels", "models", "nn", "scenes")
PREFIX = "clip-"


def shared_features(args: argparse.Namespace, count: int, place: Place, folder: Path) -> PoolFeatures:
    """`pool_features` of all `count` clips of the pool that `args` name.

    folder: where they are kept meanwhile; it goes when all are done. Raises QuantVGGTError if one fails.
    """
    source = Path(args.pool).expanduser().absolute()
    of = pictures_in(str(source)) if source.exists() else args.pool
    inputs = [content_digest(args.model), str(source), of, args.pool_size, args.frames, args.deep, args.dtype]
    store = Store(folder, task_of(inputs, rooms=ROOMS), PREFIX)
    found: dict[int, PoolFeatures] = {}
    for index in range(count):
        kept = store.read_tensors(_file(index))
        if kept is not None:
            found[index] = PoolFeatures.of_parts(*kept)
    missing = {str(index): index for index in range(count) if index not in found}
    bar = tqdm(total=count, initial=len(found), desc="looking at the pool", unit="clip")
    if missing:
        with bar, place.open(partial(looking, args), len(missing)) as executor:
            for name, result, error in executor.run(iter(missing.items())):
                if error:
                    reason = error.partition("\n")[0]
                    raise QuantVGGTError(
                        f"clip {name} of the pool: {reason}; the same command goes on after the others"
                    )
                store.write_tensors(_file(int(name)), *result)
                found[int(name)] = PoolFeatures.of_parts(*result)
                bar.update()
    features = PoolFeatures.joined([found[index] for index in range(count)])
    discard(folder, PREFIX)
    return features


def looking(args: argparse.Namespace) -> Callable[[int], Any]:
    """What a worker does: the model is loaded once, and each clip is opened where it is looked at."""
    return partial(_look, load_model(args), pool_of(args), args.deep)


def pool_of(args: argparse.Namespace) -> Any:
    """The clips, opened when asked for."""
    model = outline(args.model)
    return calibration_pool(args.pool, args.pool_size, args.frames, model.image_size, model.preprocessing)


def _look(model: Any, pool: Any, deep: float, index: int) -> Any:
    return pool_features(model, [pool[index]], deep, progress=False).parts()


def _file(index: int) -> str:
    return f"{index}.safetensors"
