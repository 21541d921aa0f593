"""Names every quantizable layer of a model: those of the trunk, which the paper quantizes, and the rest."""

from torch import nn

from quantvggt.models.family import Model
from quantvggt.nn.quant_weight import QuantWeight

_SMALLEST_SIDE = 16  # with fewer inputs or outputs, which are pixels, poses or tracks, a layer isn't worth it
_BLOCKS_PER_GROUP = 4


def quantizable_sites(model: Model) -> dict[str, nn.Module]:
    """{site name: nn.Linear or QuantLinear} of the trunk, in the order in which they run.

    These are the layers that the paper quantizes, and those that `scheme` is about.
    """
    return {site: model.get_submodule(site) for place in model.trunk.places for site in place.sites}


def rest_sites(model: Model) -> dict[str, nn.Module]:
    """{site name: layer} of what the paper leaves at 16 bits, in the order of the state dict.

    Linear layers and convolutions outside the trunk, but for those with less than 16 channels on a side, those that the
    family leaves out, and what PyTorch's own attention holds.
    """
    trunk = quantizable_sites(model)
    # PyTorch's attention holds three weights in one parameter.
    joint = {name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    return {
        name: module
        for name, module in model.named_modules()
        if name not in trunk
        and isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | QuantWeight)
        and min(_channels(module)) >= _SMALLEST_SIDE
        and name.rpartition(".")[0] not in joint
        and not model.left_out(name)
    }


def all_sites(model: Model) -> dict[str, nn.Module]:
    """Every quantizable layer, the trunk's first."""
    return quantizable_sites(model) | rest_sites(model)


def site_groups(model: Model) -> dict[str, str]:
    """{site: the group it belongs to}, of every quantizable layer: four blocks of a list, "list.0-3", or the piece of
    the model that the family says."""
    groups: dict[str, str] = {}
    for part in model.parts:
        for place in part.places:
            blocks, _, index = place.name.rpartition(".")
            first = int(index) // _BLOCKS_PER_GROUP * _BLOCKS_PER_GROUP
            groups |= dict.fromkeys(place.sites, f"{blocks}.{first}-{first + _BLOCKS_PER_GROUP - 1}")
    return {site: groups.get(site) or model.piece(site) for site in all_sites(model)}


def _channels(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return module.in_channels, module.out_channels
    assert isinstance(module, nn.Linear | QuantWeight)
    return module.in_features, module.out_features
