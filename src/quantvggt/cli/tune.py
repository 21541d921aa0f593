"""quantvggt tune"""

import argparse
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from quantvggt.cli.common import MODEL_HELP, device_of, say
from quantvggt.core.errors import InputError

if TYPE_CHECKING:  # not loaded for --help
    from quantvggt.kernels.triton.tiles import Shape
    from quantvggt.models import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"a quantized one: {MODEL_HELP}")
    parser.add_argument("--device", default="auto", help="the NVIDIA GPU (default auto: the first)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.checkpoint.load import outline
    from quantvggt.kernels.triton import tuned
    from quantvggt.kernels.triton.tune import require_runs, try_out

    device = torch.device(device_of(args))
    require_runs(device)
    shapes = shapes_of(outline(args.model))
    if not shapes:
        raise InputError(f"{args.model} has no products of integers; name a model that `quantvggt quantize` made")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    say(f"trying out tiles for {len(shapes)} shapes on {gpu}")
    found, left_out = [], dict[str, str]()
    for shape in tqdm(shapes, desc="tuning", unit="shape"):
        tried = try_out(shape, device)
        left_out |= {tile: why for tile, why in tried.left_out.items() if tile not in left_out}
        file = tuned.keep(device, {shape: tried.tile})  # as soon as it is known: an interrupted run isn't lost
        found.append(
            {
                **shape._asdict(),
                "tile": str(tried.tile),
                "seconds": tried.seconds,
                "known_tile": str(tried.known),
                "known_seconds": tried.known_seconds,
            }
        )
    for tile, why in left_out.items():
        say(f"left out {tile}: {why}")
    for each in found:
        ratio = each["known_seconds"] / each["seconds"]
        what = f"{each['weight_bits']} bits" + (f", branch of {each['rank']}" if each["rank"] else "")
        say(
            f"{each['rows']:6} x {each['k']} x {each['n']}, {what}: {each['tile']} ({1e6 * each['seconds']:.0f} us, "
            f"{ratio:.2f}x the known tile's speed)"
        )
    say(f"kept in {file}")
    return {"gpu": gpu, "file": str(file), "shapes": found, "left_out": left_out}


def shapes_of(model: "Model") -> "list[Shape]":
    """Of the model's integer products, each for few rows and for many."""
    from quantvggt.kernels.triton.tiles import ROWS, Shape
    from quantvggt.nn.quant_linear import QuantLinear

    layers = (layer for layer in model.modules() if isinstance(layer, QuantLinear))
    products = {
        (
            layer.in_features,
            layer.out_features,
            4 if layer.packed else 8,
            0 if layer.input_basis is None else layer.input_basis.shape[1],
        )
        for layer in layers
        if layer.scheme.quantizes_activations and not layer.scheme.float8
    }
    return [Shape(rows, *product) for product in sorted(products) for rows in ROWS]
