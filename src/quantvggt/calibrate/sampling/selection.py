"""A chosen calibration set: clips, and why these."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

from quantvggt.calibrate.sampling.features import PoolFeatures
from quantvggt.calibrate.sampling.strategies import Choice, SamplingSettings, as_settings, choose
from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.recorded import save_set


@dataclass(frozen=True, eq=False)
class Selection(Sequence[Clip]):
    """A sequence of clips, so it can be given wherever a calibration set can.

    indices: each clip's place in the pool, ascending. scores: its noise score. clusters: the group it was drawn from,
    -1 where the strategy has none. pool: how many candidates there were. model: the name of the model that looked;
    layers: its blocks that the scores are of.
    """

    clips: tuple[Clip, ...]
    indices: tuple[int, ...]
    scores: tuple[float, ...]
    clusters: tuple[int, ...]
    strategy: str
    settings: SamplingSettings
    seed: int
    pool: int
    model: str
    layers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | Sequence[Clip]:
        return self.clips[index]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the small JSON that `quantize` reads: where the clips come from, but no pixels.

        Raises InputError if a clip didn't come from files or the synthetic generator, or the file can't be written.
        """
        chosen = [
            {"index": index, "score": score, "cluster": cluster}
            for index, score, cluster in zip(self.indices, self.scores, self.clusters, strict=True)
        ]
        about = {
            "model": self.model,
            "layers": list(self.layers),
            "strategy": self.strategy,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "pool": self.pool,
        }
        save_set(path, self.clips, about, chosen)


def select(
    pool: Sequence[Clip],
    features: PoolFeatures,
    size: int = 40,
    strategy: str = "nfds",
    seed: int = 0,
    settings: SamplingSettings | dict[str, Any] | None = None,
    model: str = "VGGT",
) -> Selection:
    """Choose `size` clips of the pool that `features` are of; see `strategies.choose`. model: its name, for the record.

    Raises InputError as `choose` does, or if the features are of another pool.
    """
    if len(features) != len(pool):
        raise InputError(f"the features are of {len(features)} clips, the pool has {len(pool)}; compute them anew")
    return gather(pool, features, choose(features, size, strategy, seed, settings), strategy, seed, settings, model)


def gather(
    pool: Sequence[Clip],
    features: PoolFeatures,
    choice: Choice,
    strategy: str,
    seed: int,
    settings: SamplingSettings | dict[str, Any] | None,
    model: str,
) -> Selection:
    """The chosen clips of a pool, opened, with what is known of them."""
    indices = choice.indices.tolist()
    return Selection(
        clips=tuple(pool[index] for index in indices),
        indices=tuple(indices),
        scores=tuple(choice.scores[choice.indices].tolist()),
        clusters=tuple(choice.clusters[choice.indices].tolist()),
        strategy=strategy,
        settings=as_settings(settings),
        seed=seed,
        pool=len(pool),
        model=model,
        layers=tuple(features.layers),
    )
