"""What the ops take and what a backend is.

A step is one call of an op as a frozen value: constructing it checks every argument once, so a backend may trust it.
Its tensors are strided, contiguous and on one device; vectors are flat. Anything else raises InputError.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8
from quantvggt.core.packing import packed_width
from quantvggt.core.rotation import inner_order

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FLOAT32, INT8 = (torch.float32,), (torch.int8,)
RANKS = (16, 32, 64)  # of a low-rank branch
SCORE_BITS = (16, 8)  # of queries and keys
LARGEST = torch.finfo(torch.float32).max
MOST_CHANNELS = (1 << 17) - 1  # of an integer product: 2^17 times (-128)^2 doesn't fit into 32 bits


@dataclass(frozen=True, eq=False, slots=True)
class RotateQuantize:
    """Normalise, rotate, smooth and quantize every token: (q int8 [.., K], row_scale float32 [.., 1]).

    With a `basis` int8 [K, R] and its `basis_scale` float32 [1] the token's part in R directions goes into 8 bits of
    its own first: (q int8 [.., K + R], row_scale float32 [.., 2]), the second scale for the last R integers; see below.

    In float32 whatever the dtype of `x` [.., K]: `reference.layer_norm` where `norm_weight` [K] is given, with
    `norm_bias` [K] or without, each of any float dtype; less `shift`, divided by `presmooth`, rotated by `signs` int8
    [K] as in `core.rotation.rotate`, divided by `smooth`, each float32 [K]; then `core.affine.quantize_rows` to `bits`
    (2 to 8) with `clip` float32 [2], `asymmetric` or not. The first `special_tokens` rows of every `frame_tokens` get
    `special_bits`. A row with an infinity or a NaN has a defined scale, but its integers may be any.
    With `signs`, `smooth` and `clip` this is the activation side of QuantVGGT (arXiv 2509.21302).
    The basis U takes its part out of what would be rotated, X. All sums are of integers, so any order of them gives
    the same bits: X rounded to 8 bits times U, rounded to 8 bits again, is z; z_scale z U^T basis_scale is taken out of
    X, whatever z is, and so nothing is lost by its rounding. With a basis a row with an infinity or a NaN may have any
    scales, too.
    Raises InputError if K has no Hadamard matrix or the rows are no whole frames.
    """

    OP: ClassVar = "rotate_quantize"

    x: Tensor
    signs: Tensor | None
    smooth: Tensor | None
    clip: Tensor | None
    bits: int
    shift: Tensor | None = None
    presmooth: Tensor | None = None
    frame_tokens: int = 1
    special_tokens: int = 0
    special_bits: int = 8
    asymmetric: bool = False
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    norm_eps: float = 1e-5
    basis: Tensor | None = None
    basis_scale: Tensor | None = None

    def __post_init__(self) -> None:
        x = _tensor("x", self.x, FLOATS)
        if x.ndim == 0 or not x.shape[-1]:
            raise InputError(f"x is [.., K] with at least one channel, not {list(x.shape)}")
        if x.dtype is torch.float64:
            x = x.float()
        _set(self, "x", x)
        k, device = x.shape[-1], x.device
        _vectors(self, ("smooth", "shift", "presmooth"), FLOAT32, k, device)
        _vectors(self, ("clip",), FLOAT32, 2, device)
        if self.signs is not None:
            _vectors(self, ("signs",), INT8, k, device)
            inner_order(int(k))  # a graph of any size has a number here, too
        if self.norm_weight is not None:
            _vectors(self, ("norm_weight", "norm_bias"), FLOATS, k, device)
        elif self.norm_bias is not None:
            raise InputError("norm_bias comes with a norm_weight only")
        if (self.basis is None) != (self.basis_scale is None):
            raise InputError("basis and basis_scale are both given or both None")
        if self.basis is not None:
            basis = _tensor("basis", self.basis, INT8, device)
            if basis.ndim != 2 or basis.shape[0] != k or basis.shape[1] not in RANKS:
                raise InputError(f"basis for {k} channels is [{k}, R], R one of {RANKS}, not {list(basis.shape)}")
            if k > MOST_CHANNELS:
                raise InputError(f"x with a basis has up to {MOST_CHANNELS} channels, not {k}")
            _set(self, "basis", basis)
            _vectors(self, ("basis_scale",), FLOAT32, 1, device)
        _eps("norm_eps", self.norm_eps)
        _flag("asymmetric", self.asymmetric)
        _integer("bits", self.bits, 2, 8)
        _integer("special_bits", self.special_bits, 2, 8)
        rows = x.numel() // k
        frame = self.frame_tokens
        if not isinstance(frame, _INTEGERS) or not 1 <= frame < 1 << 63 or rows % frame:
            raise InputError(f"{rows} tokens are no whole frames of {frame}")
        _integer("special_tokens", self.special_tokens, 0, frame)

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def rank(self) -> int:
        """R, 0 without a basis."""
        return 0 if self.basis is None else self.basis.shape[1]

    def empty(self) -> tuple[Tensor, Tensor]:
        """Room for the result."""
        return self.room(self.x, self.rank)

    @staticmethod
    def room(x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """For the result of this x."""
        *rows, k = x.shape
        q = x.new_empty(*rows, k + rank, dtype=torch.int8)
        return q, x.new_empty(*rows, 2 if rank else 1, dtype=torch.float32)


@dataclass(frozen=True, eq=False, slots=True)
class IntLinear:
    """Integer linear layer and what follows it: residual + gain * gelu((q weight^T) row_scale weight_scale + bias).

    q int8 [.., K], row_scale float32 [.., 1], weight int8 [N, K] or 4-bit as `core.packing` stores it (int32
    [N, ceil(K / 8)]), weight_scale float32 [N, 1], bias [N] of any float dtype; then GELU (the exact one) if asked
    for, LayerScale's gain [N] and the residual branch [.., N] where there are any. The integer sum is exact; all
    else happens in float32, in that order, and is rounded once to `out_dtype` [.., N]. Native GELU is within
    3e-7 max(1, |x|) of the exact one, everything else bit for bit the reference.
    With a `branch` int8 [N, R], whose scale is `branch_scale` float32 [N, 1], q is [.., K + R] and row_scale [.., 2] as
    `RotateQuantize` gives them: (z branch^T) z_scale branch_scale is added before the bias.
    Raises InputError if the weight does not fit K, or the residual the output.
    """

    OP: ClassVar = "int_linear"

    q: Tensor
    row_scale: Tensor
    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype
    gelu: bool = False
    gain: Tensor | None = None
    residual: Tensor | None = None
    branch: Tensor | None = None
    branch_scale: Tensor | None = None

    def __post_init__(self) -> None:
        q, branch, rank = _tensor("q", self.q, INT8), self.branch, 0
        device = q.device
        if (branch is None) != (self.branch_scale is None):
            raise InputError("branch and branch_scale are both given or both None")
        if branch is not None:
            branch = _tensor("branch", branch, INT8, device)
            if branch.ndim != 2 or branch.shape[1] not in RANKS:
                raise InputError(f"branch is [N, R], R one of {RANKS}, not {list(branch.shape)}")
            _set(self, "branch", branch)
            rank = branch.shape[1]
        if q.ndim == 0 or not 1 <= q.shape[-1] - rank <= MOST_CHANNELS:
            words = f"K + {rank}" if rank else "K"
            raise InputError(f"q is [.., {words}] with K from 1 to {MOST_CHANNELS} channels, not {list(q.shape)}")
        _set(self, "q", q)
        width = q.shape[-1]
        weight = _tensor("weight", self.weight, (torch.int8, torch.int32), device)
        _fitting_weight(weight, width - rank)
        _set(self, "weight", weight)
        n, rows = weight.shape[0], q.numel() // width
        _vectors(self, ("row_scale",), FLOAT32, 2 * rows if rank else rows, device, optional=False)
        _vectors(self, ("weight_scale",), FLOAT32, n, device, optional=False)
        if branch is not None:
            if len(branch) != n:
                raise InputError(f"branch has {len(branch)} rows; {n} are needed")
            _vectors(self, ("branch_scale",), FLOAT32, n, device)
        _vectors(self, ("bias", "gain"), FLOATS, n, device)
        _flag("gelu", self.gelu)
        _out_dtype(self.out_dtype)
        if self.residual is not None:
            residual = _tensor("residual", self.residual, FLOATS, device)
            shape = (*q.shape[:-1], n)
            if residual.shape != shape:
                raise InputError(
                    f"a residual for an output of {list(shape)} has that shape, not {list(residual.shape)}"
                )
            _set(self, "residual", residual.float() if residual.dtype is torch.float64 else residual)

    @property
    def device(self) -> torch.device:
        return self.q.device

    @property
    def rank(self) -> int:
        """R, 0 without a branch."""
        return 0 if self.branch is None else self.branch.shape[1]

    @property
    def channels(self) -> int:
        """K."""
        return self.q.shape[-1] - self.rank

    @property
    def rows(self) -> int:
        """Tokens."""
        return self.q.numel() // self.q.shape[-1]

    def empty(self) -> Tensor:
        """Room for the result."""
        return self.room(self.q, self.weight_scale.shape[0], self.out_dtype)

    @staticmethod
    def room(q: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """For the result of this q."""
        return q.new_empty(*q.shape[:-1], n, dtype=dtype)

    def with_weight(self, prepared: Any) -> "IntLinear":
        """This step with the weight as a backend's `prepare` gave it."""
        step = copy.copy(self)
        object.__setattr__(step, "weight", prepared)
        return step


@dataclass(frozen=True, eq=False, slots=True)
class DequantizeWeight:
    """The float weight that integers stand for, rounded once to `out_dtype`: weight times weight_scale, [N, K].

    weight int8 [N, K] or 4-bit [N, ceil(K / 8)] and weight_scale float32 [N, 1] as in `IntLinear`; K is `channels`.
    inputs: how many of them stand together, K's last dimension; the result is [inputs, K / inputs, N] then, as a
    transposed convolution's weight lies in channels_last.
    Raises InputError if the weight does not fit K, or K isn't made of whole `inputs`.
    """

    OP: ClassVar = "dequantize_weight"

    weight: Tensor
    weight_scale: Tensor
    channels: int
    out_dtype: torch.dtype
    inputs: int | None = None

    def __post_init__(self) -> None:
        weight = _tensor("weight", self.weight, (torch.int8, torch.int32))
        _integer("channels", self.channels, 1, (1 << 31) - 1)
        _fitting_weight(weight, self.channels)
        _set(self, "weight", weight)
        _vectors(self, ("weight_scale",), FLOAT32, weight.shape[0], weight.device, optional=False)
        _out_dtype(self.out_dtype)
        if self.inputs is not None:
            _integer("inputs", self.inputs, 1, self.channels)
            if self.channels % self.inputs:
                raise InputError(f"{self.channels} channels are no whole groups of {self.inputs} inputs")

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def empty(self) -> Tensor:
        """Room for the result."""
        n, k = self.weight.shape[0], self.channels
        shape = (n, k) if self.inputs is None else (self.inputs, k // self.inputs, n)
        return self.weight.new_empty(shape, dtype=self.out_dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Float8Linear:
    """Linear layer in float8: (q weight^T) row_scale weight_scale + bias.

    q float8_e4m3fn [.., K], row_scale float32 [.., 1], weight float8_e4m3fn [N, K], weight_scale float32 [N, 1], bias
    [N] of any float dtype. Products are exact and summed in float32; scales and bias follow in float32, in that order,
    and the result is rounded once to `out_dtype` [.., N]. A sum's order is a backend's own, and it may round the bias
    to `out_dtype` before it adds it.
    Raises InputError if the weight does not fit K.
    """

    OP: ClassVar = "float8_linear"

    q: Tensor
    row_scale: Tensor
    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    def __post_init__(self) -> None:
        q = _tensor("q", self.q, (FLOAT8,))
        if q.ndim == 0 or not q.shape[-1]:
            raise InputError(f"q is [.., K] with at least one channel, not {list(q.shape)}")
        _set(self, "q", q)
        k = q.shape[-1]
        weight = _tensor("weight", self.weight, (FLOAT8,), q.device)
        if weight.ndim != 2 or weight.shape[1] != k:
            raise InputError(f"a weight for {k} channels is [N, {k}], not {list(weight.shape)}")
        _set(self, "weight", weight)
        _vectors(self, ("row_scale",), FLOAT32, q.numel() // k, q.device, optional=False)
        _vectors(self, ("weight_scale",), FLOAT32, weight.shape[0], q.device, optional=False)
        _vectors(self, ("bias",), FLOATS, weight.shape[0], q.device)
        _out_dtype(self.out_dtype)

    @property
    def device(self) -> torch.device:
        return self.q.device

    def empty(self) -> Tensor:
        """Room for the result."""
        return self.q.new_empty((*self.q.shape[:-1], self.weight.shape[0]), dtype=self.out_dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Attention:
    """Multi-head self-attention from the joint projection: qkv [B, N, 3C] -> [B, N, C], heads side by side.

    Queries and keys go through LayerNorm (weights [C / num_heads], with biases of their dtype or without, and `eps`; or
    all None) and are turned by the rotary tables `cosine` and `sine` float32 [P, C / num_heads] of one frame
    (`nn.rope`), which serve each of the N / P frames; then softmax(q k^T / sqrt(C / num_heads)) v. In bfloat16 sums are
    float32 and each product's factors are rounded once; backends agree within that.
    `seen` float32 [P] thins attention out: the logarithm of what a token at each place of a frame counts for where
    queries of other frames look, -inf if they don't see it; those of its own frame do, as ever. None: all see all.
    `score_bits` 8, for GPUs that multiply integers faster (arXiv 2410.02367): out of the keys, as they are so far, goes
    their mean over all N tokens, which softmax doesn't see; then each query and key of a head is rounded to 8 bits with
    a scale of its own, absmax / 127. Mean and scales are float32, the product is exact, the rest is as with 16 bits. A
    query that isn't finite gives NaN, and such a key gives NaN to all of its head.
    Raises InputError if the shapes don't fit.
    """

    OP: ClassVar = "attention"

    qkv: Tensor
    num_heads: int
    q_weight: Tensor | None
    q_bias: Tensor | None
    k_weight: Tensor | None
    k_bias: Tensor | None
    eps: float
    cosine: Tensor | None
    sine: Tensor | None
    seen: Tensor | None = None
    score_bits: int = 16

    def __post_init__(self) -> None:
        qkv, heads = _tensor("qkv", self.qkv, FLOATS), self.num_heads
        if not isinstance(heads, _INTEGERS) or heads < 1:
            raise InputError(f"num_heads is a whole number from 1, not {heads!r}")
        if qkv.ndim != 3 or not qkv.shape[2] or qkv.shape[2] % (3 * heads):
            raise InputError(f"attention with {heads} heads takes [B, N, 3 h d], got {list(qkv.shape)}")
        _set(self, "qkv", qkv)
        d = qkv.shape[2] // (3 * heads)
        _vectors(self, ("q_weight", "q_bias", "k_weight", "k_bias"), FLOATS, d, qkv.device, as_float=False)
        if (self.q_weight is None) != (self.k_weight is None):
            raise InputError("q_weight and k_weight are both given or both None")
        for name, weight, bias in (("q", self.q_weight, self.q_bias), ("k", self.k_weight, self.k_bias)):
            if bias is not None and (weight is None or weight.dtype != bias.dtype):
                raise InputError(f"{name}_bias comes with a {name}_weight of its dtype only")
        _eps("eps", self.eps)
        if (self.cosine is None) != (self.sine is None):
            raise InputError("cosine and sine are both given or both None")
        if self.cosine is not None and self.sine is not None:
            cosine = _tensor("cosine", self.cosine, (torch.float32,), qkv.device)
            sine = _tensor("sine", self.sine, (torch.float32,), qkv.device)
            fits = cosine.ndim == 2 and cosine.shape == sine.shape and cosine.shape[1] == d and d % 4 == 0
            if not fits or not cosine.shape[0] or qkv.shape[1] % cosine.shape[0]:
                raise InputError(
                    f"rotary tables {list(cosine.shape)}, {list(sine.shape)} don't fit {list(qkv.shape)} "
                    f"and {heads} heads"
                )
            _set(self, "cosine", cosine)
            _set(self, "sine", sine)
        if self.seen is not None:
            seen = _tensor("seen", self.seen, (torch.float32,), qkv.device)
            fits = seen.ndim == 1 and len(seen) > 0 and not qkv.shape[1] % len(seen)
            if not fits or (self.cosine is not None and len(self.cosine) != len(seen)):
                raise InputError(f"seen is [P] for frames of P tokens, got {list(seen.shape)} for {list(qkv.shape)}")
            _set(self, "seen", seen)
        if self.score_bits not in SCORE_BITS or not isinstance(self.score_bits, int):
            raise InputError(f"score_bits is 16 or 8, not {self.score_bits!r}")

    @property
    def device(self) -> torch.device:
        return self.qkv.device

    @property
    def head_size(self) -> int:
        return self.qkv.shape[2] // (3 * self.num_heads)

    def empty(self) -> Tensor:
        """Room for the result."""
        batch, n, width = self.qkv.shape
        return self.qkv.new_empty((batch, n, width // 3))


Step = RotateQuantize | IntLinear | DequantizeWeight | Float8Linear | Attention


class Backend(ABC):
    """One implementation of one op or several. It never hands a step on: what it doesn't take, `accepts` says."""

    name: str

    @abstractmethod
    def available(self, device: torch.device) -> tuple[bool, str]:
        """Can it run on `device`, and why (not)? Cheap after the first call."""

    def digest(self) -> str:
        """Of the code behind it that isn't this package's Python: times measured with other code are no longer true."""
        return ""

    def accepts(self, step: Any) -> str | None:
        """Why it can't run this step, on a device where it is available; None if it can."""
        return None

    def prepare(self, weight: Tensor) -> Any:
        """The `weight` of an `IntLinear` as `run` wants it there; called once for each weight (see `registry`)."""
        return weight

    @abstractmethod
    def run(self, step: Any) -> Any:
        """The op's result, for a step that it accepts."""

    def bind(self, step: Any) -> Callable[..., Any] | None:
        """A `RotateQuantize` or `IntLinear` that it accepts, not prepared, as a function of what differs from call to
        call: x, or q, row_scale and residual, as a step has them. They have rows, the step's types and its channels.
        Those of `step` itself it doesn't hold. None if that isn't quicker."""
        return None


def examples(device: torch.device) -> dict[str, dict[str, Step]]:
    """Steps that stand for what models do, of every op: what `doctor` asks the backends about."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    q, scale = zeros(1, 64, dtype=torch.int8), zeros(1)
    weights = {"8": zeros(1, 64, dtype=torch.int8), "4": zeros(1, 8, dtype=torch.int32)}
    basis, both = zeros(64, 16, dtype=torch.int8), zeros(1, 80, dtype=torch.int8)
    low_rank = "low-rank branch"
    rest = (1, None, None, None, None, 0.0, None, None)
    return {
        RotateQuantize.OP: {
            **{name: RotateQuantize(zeros(1, 64, dtype=dtype), None, None, None, 8) for name, dtype in types.items()},
            low_rank: RotateQuantize(zeros(1, 64), None, None, None, 8, basis=basis, basis_scale=scale),
        },
        IntLinear.OP: {
            **{
                f"{bits}-bit weights, {name}": IntLinear(q, scale, weight, scale, None, dtype)
                for bits, weight in weights.items()
                for name, dtype in types.items()
            },
            low_rank: IntLinear(
                both, zeros(2), weights["4"], scale, None, torch.float32, branch=basis[:1], branch_scale=scale
            ),
        },
        DequantizeWeight.OP: {
            f"{bits}-bit weights": DequantizeWeight(weight, scale, 64, torch.bfloat16)
            for bits, weight in weights.items()
        },
        Float8Linear.OP: {
            name: Float8Linear(zeros(1, 64, dtype=FLOAT8), scale, zeros(16, 64, dtype=FLOAT8), zeros(16), None, dtype)
            for name, dtype in types.items()
        },
        Attention.OP: {
            **{name: Attention(zeros(1, 1, 3 * 64, dtype=dtype), *rest) for name, dtype in types.items()},
            "8-bit queries and keys": Attention(zeros(1, 1, 3 * 64, dtype=torch.bfloat16), *rest, score_bits=8),
        },
    }


_STRIDED = torch.strided
_NUMBERS = (float, int)
_INTEGERS = (int, torch.SymInt)  # symbolic while a graph of any size is traced


def _tensor(name: str, value: object, dtypes: tuple[torch.dtype, ...], device: torch.device | None = None) -> Tensor:
    """`value`, contiguous."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a tensor, not {type(value).__name__}")
    if value.dtype not in dtypes:
        kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise InputError(f"{name} is {kinds}, not {str(value.dtype).removeprefix('torch.')}")
    if value.layout is not _STRIDED:
        raise InputError(f"{name} is a dense tensor, not {value.layout}")
    if device is not None and value.device != device:
        raise InputError(f"{name} is on {value.device}, the other tensors on {device}")
    # Most are as they should be, and on small layers every call counts.
    return value if value.is_contiguous() else value.contiguous()


def _vectors(
    step: Step,
    names: tuple[str, ...],
    dtypes: tuple[torch.dtype, ...],
    count: int,
    device: torch.device,
    as_float: bool = True,
    optional: bool = True,
) -> None:
    """The fields `names`, flat and of `count` values; those of other float types as float32 if asked for."""
    for name in names:
        given = getattr(step, name)
        if given is None and optional:
            continue
        value = _tensor(name, given, dtypes, device)
        if value.numel() != count:
            raise InputError(f"{name} has {value.numel()} values; {count} are needed")
        if value.ndim != 1:
            value = value.view(-1)
        if as_float and value.dtype not in FLOAT32 and dtypes is FLOATS:
            value = value.float()
        if value is not given:
            object.__setattr__(step, name, value)


def _set(step: Step, name: str, value: Tensor) -> None:
    if value is not getattr(step, name):
        object.__setattr__(step, name, value)


def _fitting_weight(weight: Tensor, k: int) -> None:
    width = k if weight.dtype is torch.int8 else packed_width(k)
    if weight.ndim != 2 or weight.shape[1] != width:
        raise InputError(
            f"a weight for {k} channels is int8 [N, {k}] or packed int32 [N, {packed_width(k)}], "
            f"not {weight.dtype} {list(weight.shape)}"
        )


def _out_dtype(value: object) -> None:
    if value not in FLOATS:
        raise InputError(f"out_dtype is a float type of 16 to 64 bits, not {value}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, _INTEGERS) or not low <= value <= high:
        raise InputError(f"{name} is a whole number from {low} to {high}, not {value!r}")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, int):
        raise InputError(f"{name} is true or false, not {value!r}")


def _eps(name: str, value: object) -> None:
    if not isinstance(value, _NUMBERS) or not 0 <= value <= LARGEST:
        raise InputError(f"{name} is a number from 0 to {LARGEST:.2g}, not {value!r}")
