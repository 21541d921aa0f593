"""All that the rest of the house asks of a model, and the families of models that there are.

A family is a folder here: a config, a model, and a `Family` that is registered in `models/__init__.py`. Calibration,
checkpoints, reconstruction and evaluation speak to this contract alone.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.core.vector_math import warm_up
from quantvggt.kernels.contract import SCORE_BITS
from quantvggt.models import graphs
from quantvggt.models.answers import Answers
from quantvggt.models.given import Given
from quantvggt.models.quantization import Quantization
from quantvggt.nn.block import LAYERS, Attention
from quantvggt.nn.thinned import STRIDE

Kind = Literal["frame", "global"]
ATTENTION = {"exact": 1, "fast": STRIDE}
HEADS = ("camera", "depth", "point", "track")
Features = Any
"""What a family's heads read; nobody else looks inside."""
M = TypeVar("M", bound="Model")


@dataclass(frozen=True)
class Place:
    """One transformer block: its state-dict name, whether its attention sees one frame or all, its linear layers in the
    order in which they run."""

    name: str
    kind: Kind = "frame"
    layers: tuple[str, ...] = LAYERS

    @property
    def sites(self) -> list[str]:
        """The full names of its layers, "aggregator.frame_blocks.0.attn.qkv"."""
        return [f"{self.name}.{layer}" for layer in self.layers]


class Part(ABC):
    """A run of blocks, each on what the one before it gives: the tokens [S, P, C] of one clip.

    special: how many of a frame's tokens, its first ones, are no patches; 0 where a "frame" is none of a picture's.
    """

    places: tuple[Place, ...]
    special: int

    @abstractmethod
    def start(self, images: Tensor) -> tuple[Tensor, Any]:
        """images [1, S, 3, H, W] -> the tokens in front of the first block, and what else blocks need to know of the
        clip, which `arguments` and `before` are given and `Model.collect` in the end."""

    def arguments(self, place: Place, context: Any, device: torch.device) -> tuple[Any, ...]:
        """What the block takes besides its tokens."""
        return ()

    def before(self, place: Place, tokens: Tensor, context: Any) -> Tensor:
        """What happens to the tokens right before a block."""
        return tokens


def as_sequence(x: Tensor, kind: Kind) -> Tensor:
    """[S, P, C] as a frame block takes it, or [1, S P, C] for a global one."""
    return x if kind == "frame" else x.flatten(0, 1)[None]


@dataclass(frozen=True)
class ModelConfig:
    """Every size that a model's weights depend on; a frozen dataclass whose fields are JSON-able."""

    family: ClassVar[str]

    @property
    def blocks(self) -> int:
        """No more than the model's transformer blocks, each of which has tensors of its own."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` reads it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Raises InputError on unknown keys or impossible values."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"model config has unknown keys: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"model config is malformed: {error}") from error


class Model(nn.Module, ABC):
    """A model of any family. `quantization` is None in full precision; `products` is None unless precision is mixed."""

    products: torch.dtype | None = None
    """What the trunk's products run in if not in the tokens' dtype, see `models.mixed`."""
    preprocessing: ClassVar[str] = "crop"
    """How pictures are fitted to it: a mode of `scenes.preprocess`."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Those fields of `Given` that it makes use of."""
    tells_columns: ClassVar[bool] = False
    """Does `encode` tell its layers how many patches make a row (`nn.quant_linear.mark_frames` with `columns`)? Without
    that global attention is exact, in 16 bits."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Names that files may hold for a tensor a second time, and the one that it has here."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        warm_up()
        self.config = config
        self.quantization: Quantization | None = None

    # Sizes

    @property
    @abstractmethod
    def image_size(self) -> int:
        """The side, in pixels, that pictures are best resized to."""

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Sides of pictures are multiples of it."""

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Those of HEADS that this model has."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that activations run in; of a mixed model what they are summed in."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def can_track(self, height: int, width: int) -> bool:
        """Are frames of this size large enough for the tracker, if there is one?"""
        return False

    # Costs

    def working_bytes(self, frames: int, height: int, width: int) -> int | None:
        """The most memory that so many frames need at once beside weights, images and answers, not counting what an
        allocator holds beyond that; None: unknown."""
        return None

    def operations(self, frames: int, height: int, width: int) -> float | None:
        """Multiplications and additions of a run on so many frames with this `attention`; None: unknown."""
        return None

    # Blocks

    @property
    @abstractmethod
    def trunk(self) -> Part:
        """The blocks that `scheme` is about."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All runs of blocks that methods can quantize, the trunk among them, in the order in which they run."""
        return (self.trunk,)

    # From images to answers

    @abstractmethod
    def encode(self, images: Tensor) -> Features:
        """The trunk on images [B, S, 3, H, W], RGB in [0, 1], in the model's dtype."""

    @abstractmethod
    def collect(self, outputs: Sequence[Tensor], context: Any) -> Features:
        """The same from the output [S, P, C] of every block of the trunk, as they ran on one clip, and the clip's
        context from `Part.start`."""

    @abstractmethod
    def last_output(self, features: Features) -> Tensor:
        """The end of the trunk as one vector a token, special tokens first: [B, S, P, D]."""

    @abstractmethod
    def read(
        self,
        features: Features,
        images: Tensor,
        heads: Sequence[str] | None = None,
        dense: Sequence[int] | None = None,
        queries: Tensor | None = None,
        cut: bool = True,
    ) -> Answers:
        """What the heads make of it.

        heads: only these; None: all. dense: depth and points of these frames only. queries: points to track [B, N, 2],
        x and y in pixels of frame 0; None: no tracks. cut: gradients stop where training stops them.
        """

    def answers(self, images: Tensor, dense: Sequence[int] | None = None, given: Given | None = None) -> Answers:
        """Everything from images [B, S, 3, H, W], RGB in [0, 1].

        given: what is known of them beforehand, of a batch of one clip.
        Raises InputError if a shape doesn't fit, or this model makes no use of what is given.
        """
        images = self.checked(images).to(self.dtype)
        if given is None:
            return self.read(graphs.encode(self, images), images, dense=dense)
        self.require_takes(given.known())
        batch, frames, _, height, width = images.shape
        if batch != 1:
            raise InputError(f"cameras and depth are given for one clip, not for a batch of {batch}")
        return self.answers_given(images, given.checked(frames, height, width, images.device), dense)

    def answers_given(self, images: Tensor, given: Given, dense: Sequence[int] | None = None) -> Answers:
        """`answers` with what is known, checked; of a family that `takes` something."""
        raise NotImplementedError

    def require_takes(self, known: Collection[str]) -> None:
        """Raises InputError, naming the families that do, unless this model makes use of all of `known`."""
        missing = sorted(set(known) - self.takes)
        if missing:
            able = [family.name for family in FAMILIES.values() if family.model.takes >= set(known)]
            raise InputError(
                f"models of family {self.config.family} make no use of given {' and '.join(missing)}; "
                + (f"families that do: {', '.join(able)}" if able else "leave them out")
            )

    def checked(self, images: Tensor) -> Tensor:
        """[S, 3, H, W] or [B, S, 3, H, W] as the latter. Raises InputError if the shape doesn't fit."""
        images = images[None] if images.ndim == 4 else images
        if images.ndim != 5 or images.shape[2] != 3 or not images.is_floating_point():
            raise InputError(f"images must be floating point [B, S, 3, H, W], got {images.dtype} {tuple(images.shape)}")
        patch = self.patch_size
        if images.shape[1] == 0 or min(images.shape[-2:]) < patch or any(side % patch for side in images.shape[-2:]):
            raise InputError(
                f"images need a frame or more, and sides that are multiples of {patch}; got {tuple(images.shape)}"
            )
        return images

    # Layers

    def left_out(self, site: str) -> bool:
        """Is this layer, outside `parts`, never quantized?"""
        return False

    def piece(self, site: str) -> str:
        """The piece of the model that a layer outside `parts` belongs to: a budget gives each its bits."""
        return ".".join(site.split(".")[:2])

    def heads_behind(self, sites: Sequence[str]) -> tuple[str, ...]:
        """Those whose answers depend on these layers."""
        return self.heads

    # Attention

    @property
    def attention(self) -> str:
        """ "exact", or "fast": global attention thinned out, see `nn.thinned`. May be set. A copy has its own;
        calibration is exact."""
        return "fast" if any(layer.stride > 1 for layer in self._global_attention()) else "exact"

    @attention.setter
    def attention(self, kind: str) -> None:
        """Raises InputError if there is none of that name, or this model's can't be thinned out."""
        if kind not in ATTENTION:
            raise InputError(f"unknown attention {kind!r}; use one of: {', '.join(ATTENTION)}")
        for layer in self._global_attention("to be thinned out" if ATTENTION[kind] > 1 else None):
            layer.stride = ATTENTION[kind]

    @property
    def attention_bits(self) -> int:
        """Of queries and keys of global attention: 16, or 8, which is for GPUs that multiply integers faster; see
        `kernels.contract.Attention`. May be set. A copy has its own; calibration has 16. Attention within a frame keeps
        16: of many frames it is a small share of the time, and its drift would be the larger one (docs/speed.md)."""
        return min((layer.score_bits for layer in self._global_attention()), default=16)

    @attention_bits.setter
    def attention_bits(self, bits: int) -> None:
        """Raises InputError if it is neither, or no attention of this model could be in 8 bits."""
        if bits not in SCORE_BITS:
            raise InputError(f"attention_bits is 16 or 8, not {bits!r}")
        for layer in self._global_attention(f"with {bits}-bit queries and keys" if bits != 16 else None):
            layer.score_bits = int(bits)

    def _global_attention(self, wanted: str | None = None) -> list[Attention]:
        """Raises InputError if something is wanted of it that it can't do."""
        blocks = (self.get_submodule(place.name) for place in self.trunk.places if place.kind == "global")
        layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, Attention)]
        if wanted and not layers:
            raise InputError(f"this model of family {self.config.family} has no global attention {wanted}")
        if wanted and not self.tells_columns:
            raise InputError(
                f"models of family {self.config.family} have no global attention {wanted}: they don't tell their "
                "layers how many patches make a row (Model.tells_columns)"
            )
        return layers

    @property
    def switches(self) -> tuple[object, ...]:
        """What a pass of the trunk depends on besides images and weights."""
        return self.attention, self.attention_bits, self.products

    # Precision and copies

    mixes: ClassVar[bool] = False
    """Can precision be mixed?"""

    def mix(self, products: torch.dtype) -> set[str]:
        """Run the trunk's products in this dtype; returns the names of the parameters to be held in it, the others
        stay float32."""
        raise InputError(f"models of family {self.config.family} have no mixed precision; name a dtype")

    def sharing_copy(self: M) -> M:
        """A new model on the same numbers in memory; converting it or replacing its layers leaves this one alone."""
        parameters = {id(p): nn.Parameter(p.data, p.requires_grad) for p in self.parameters()}
        return copy.deepcopy(self, {**parameters, **{id(buffer): buffer.data for buffer in self.buffers()}})


@dataclass(frozen=True)
class Family:
    """name: in config.json. recognise: the config of published weights that lie without a config of ours, from their
    names and shapes; None if they are of another family. licence: of published weights of that config where it forbids
    some uses, which `load` says."""

    name: str
    config: type[ModelConfig]
    model: type[Model]
    recognise: Callable[[Mapping[str, tuple[int, ...]]], ModelConfig | None] = lambda shapes: None
    licence: Callable[[Any], str | None] = lambda config: None


FAMILIES: dict[str, Family] = {}
"""By name; a family registers itself by `FAMILIES[name] = ...`, the package's own in `models/__init__.py`."""


def find_family(name: Any) -> Family:
    """Raises InputError if there is none of that name."""
    if name not in FAMILIES:
        raise InputError(f"unknown model family {name!r}; this release knows {', '.join(FAMILIES)}")
    return FAMILIES[name]


def build(config: ModelConfig) -> Model:
    """A model of that config, its numbers undefined until weights are loaded."""
    return find_family(config.family).model(config)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig | None:
    """The config of published weights of any family, from their names and shapes."""
    found = (family.recognise(shapes) for family in FAMILIES.values())
    return next((config for config in found if config is not None), None)
