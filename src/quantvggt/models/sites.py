"""Names every quantizable layer of a VGGT, in the order it runs."""

from torch import nn

from quantvggt.models.vggt import VGGT

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
AFTER_NORM = ("attn.qkv", "mlp.fc1")  # those whose input a LayerNorm gives


def quantizable_sites(model: VGGT) -> dict[str, nn.Module]:
    """{site name: nn.Linear or QuantLinear}: frame block 0, global block 0, frame block 1, ...

    These are the layers that the paper quantizes; patch embedding, heads and norms stay in floating point.
    """
    names = (
        f"aggregator.{kind}_blocks.{index}.{layer}"
        for index in range(model.config.depth)
        for kind in ("frame", "global")
        for layer in LAYERS
    )
    return {name: model.get_submodule(name) for name in names}
