"""What lies in each quantizable layer: shape, bits, bytes, how far its weight moved, how uneven its input is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from quantvggt.calibrate.capture import observe_inputs
from quantvggt.core.errors import InputError
from quantvggt.models import Model
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn.quant_conv import flat_weight
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.scenes.clip import Clip


@dataclass(frozen=True)
class SiteReport:
    """One layer.

    shape: (N, K), outputs and inputs; bytes: everything it holds in memory, bias included.
    checkpoint_bytes: of its integers, scales and transform in a checkpoint, None if it isn't quantized.
    weight_error: ||W_quantized - W|| / ||W|| (Frobenius, in the layer's own basis), None without a reference.
    outliers_special, outliers_patch: the largest channel peak over the median channel peak of the layer's input,
    for camera and register tokens and for patch tokens; a peak is max |x| over tokens and clips. None outside the
    trunk, where inputs aren't looked at.
    """

    name: str
    shape: tuple[int, int]
    weight_bits: int
    act_bits: int
    bytes: int
    checkpoint_bytes: int | None
    weight_error: float | None
    outliers_special: float | None
    outliers_patch: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def inspect_sites(
    model: Model, clips: Sequence[Clip], reference: Model | None = None, progress: bool = True
) -> list[SiteReport]:
    """Every quantizable layer of `model`, the trunk's in the order they run; `clips` show what activations look like.

    reference: the float model that `model` was quantized from, for the weight errors.
    Raises InputError if the reference isn't a float model of the same shape, or there are no clips.
    """
    if not clips:
        raise InputError("inspect needs at least one clip to see activations")
    if reference is not None and (reference.quantization is not None or reference.config != model.config):
        raise InputError("the reference must be the full-precision model that this one was quantized from")
    floats = all_sites(reference) if reference is not None else {}
    peaks: dict[str, Tensor] = {}
    sizes = {clip.images.shape[-2:] for clip in clips}
    if len(sizes) > 1:
        raise InputError(f"inspect needs clips of one image size, got {sorted(map(tuple, sizes))}")
    height, width = sizes.pop()
    special = model.trunk.special
    tokens = special + (height // model.patch_size) * (width // model.patch_size)
    observers = {name: partial(_observe, peaks, name, tokens, special) for name in quantizable_sites(model)}
    observe_inputs(model, clips, observers, progress)
    return [_report(name, site, floats, peaks.get(name)) for name, site in all_sites(model).items()]


def _observe(peaks: dict[str, Tensor], name: str, tokens: int, special: int, x: Tensor) -> None:
    """Keep float32 [2, K]: the channel peaks of special and of patch tokens."""
    frames = x.float().abs().reshape(-1, tokens, x.shape[-1])
    peak = torch.stack((frames[:, :special].amax((0, 1)), frames[:, special:].amax((0, 1))))
    peaks[name] = peak if name not in peaks else torch.maximum(peaks[name], peak)


def _report(name: str, site: nn.Module, floats: Mapping[str, nn.Module], peak: Tensor | None) -> SiteReport:
    special = patch = None
    stored: int | None = None
    if peak is not None:
        special, patch = (peak.amax(1) / peak.median(1).values.clamp(min=1e-12)).tolist()
    tensors = [*site.parameters(), *site.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if isinstance(site, QuantWeight):
        shape = site.out_features, site.in_features
        bits = site.scheme.weight_bits, site.scheme.act_bits
        stored = site.checkpoint_bytes
        error = _weight_error(site, floats[name]) if name in floats else None
    else:
        weight = _float_weight(site)
        shape = weight.shape[0], weight.shape[1]
        bits = (8 * weight.element_size(),) * 2
        error = None
    return SiteReport(name, shape, *bits, size, stored, error, special, patch)


def _float_weight(module: nn.Module) -> Tensor:
    """[N, K], as its quantized form has it."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return flat_weight(module)
    return module.get_parameter("weight").detach()


def _weight_error(site: QuantWeight, module: nn.Module) -> float:
    """Measured with the smoothing taken out again: a rotation keeps lengths, so the error is that of W itself."""
    target, smooth = _float_weight(module).float(), torch.ones(())
    if isinstance(site, QuantLinear):
        smooth = smooth if site.input_smooth is None else site.input_smooth
        target = site.transform.apply_to_weight(target) / smooth
    return ((site.dequantized_weight() / smooth - target).norm() / target.norm()).item()


def format_sites(reports: Sequence[SiteReport]) -> str:
    """Aligned text, one line a layer and a line of totals."""
    head = ("site", "shape", "bits", "kB", "weight error %", "outliers: special", "patch")
    body = [
        (
            row.name,
            f"{row.shape[0]}x{row.shape[1]}",
            f"{row.weight_bits}/{row.act_bits}",
            row.bytes / 1000,
            None if row.weight_error is None else 100 * row.weight_error,
            row.outliers_special,
            row.outliers_patch,
        )
        for row in reports
    ]
    digits = ("", "", "", ".1f", ".2f", ".1f", ".1f")
    sums = f"{len(reports)} layers, {sum(row.bytes for row in reports) / 1e6:.2f} MB in memory"
    if stored := [row.checkpoint_bytes for row in reports if row.checkpoint_bytes is not None]:
        sums += f"; the {len(stored)} quantized ones take {sum(stored) / 1e6:.2f} MB of a checkpoint, biases aside"
    return f"{tabulate(body, head, floatfmt=digits, missingval='-')}\n{sums}"
