"""A model of any size without its weight file: for time and memory, where the numbers need no sense."""

import torch
from torch import Tensor

from quantvggt.models.family import Model, ModelConfig, build


def seeded_model(
    config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Model:
    """Random weights that keep activations of order one, the same for one seed, dtype and kind of device; in eval mode.

    They are drawn on `device`: a GPU takes a second where a CPU takes many.
    """
    with torch.device("meta"):
        model = build(config)
    generator = torch.Generator(device).manual_seed(seed)

    def draw(name: str, shape: torch.Size) -> Tensor:
        if name.endswith(".gamma"):
            return torch.full(shape, 0.2, dtype=dtype, device=device)
        if len(shape) == 1:
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype, device=device)
        fan_in = max(1, shape[1:].numel())
        return torch.randn(shape, generator=generator, device=device).mul_(fan_in**-0.5).to(dtype)

    model.load_state_dict({name: draw(name, value.shape) for name, value in model.state_dict().items()}, assign=True)
    return model.eval()
