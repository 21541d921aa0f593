"""A small model of each family, with numbers that make sense."""

from collections.abc import Callable

import da3_recorded
import pi3_models
from quantvggt.models import Model
from tiny import tiny_model

FAMILIES: dict[str, Callable[[], Model]] = {
    "vggt": tiny_model,
    "da3": da3_recorded.sane_model,
    "pi3": lambda: pi3_models.sane_pi3(pi3_models.CONFIG),
    "pi3x": lambda: pi3_models.sane_pi3(pi3_models.CONFIG_X),
}
