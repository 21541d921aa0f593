"""Names every quantizable layer of a VGGT: those of the trunk, which the paper quantizes, and the rest."""

from torch import nn

from quantvggt.models.vggt.model import VGGT
from quantvggt.nn.quant_weight import QuantWeight

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
AFTER_NORM = ("attn.qkv", "mlp.fc1")  # those whose input a LayerNorm gives

# Not worth it: a handful of inputs or outputs each, and they touch pixels, poses and tracks directly. The two layers
# that write poses are 0.2% of VGGT-1B; at 8 bits they alone turn vggt-nano's cameras by 0.3 degrees.
_SMALLEST_SIDE = 16
_LEFT_OUT = ("camera_head.pose_branch.",)


def quantizable_sites(model: VGGT) -> dict[str, nn.Module]:
    """{site name: nn.Linear or QuantLinear} of the trunk: frame block 0, global block 0, frame block 1, ...

    These are the layers that the paper quantizes, and those that `scheme` is about.
    """
    names = (
        f"aggregator.{kind}_blocks.{index}.{layer}"
        for index in range(model.config.depth)
        for kind in ("frame", "global")
        for layer in LAYERS
    )
    return {name: model.get_submodule(name) for name in names}


def rest_sites(model: VGGT) -> dict[str, nn.Module]:
    """{site name: layer} of what the paper leaves at 16 bits, in the order of the state dict.

    Linear layers and convolutions of DINOv2, the camera head, the dense heads and the tracker, but for the first
    and last ones, with less than 16 channels on a side or writing poses, and the tracker's attention.
    """
    trunk = quantizable_sites(model)
    # PyTorch's attention holds three weights in one parameter.
    joint = {name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    return {
        name: module
        for name, module in model.named_modules()
        if name not in trunk
        and not name.startswith(_LEFT_OUT)
        and isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | QuantWeight)
        and min(_channels(module)) >= _SMALLEST_SIDE
        and name.rpartition(".")[0] not in joint
    }


def all_sites(model: VGGT) -> dict[str, nn.Module]:
    """Every quantizable layer, the trunk's first."""
    return quantizable_sites(model) | rest_sites(model)


def _channels(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return module.in_channels, module.out_channels
    assert isinstance(module, nn.Linear | QuantWeight)
    return module.in_features, module.out_features
