"""Quantize VGGT, keep it small, run it, and turn photos into a 3D scene.

Importing this package loads none of its rooms; each public name is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, the same as in _PUBLIC
    from quantvggt.api import load as load
    from quantvggt.api import quantize as quantize
    from quantvggt.api import reconstruct as reconstruct
    from quantvggt.api import reconstruct_long as reconstruct_long
    from quantvggt.api import save as save
    from quantvggt.api import select_calibration as select_calibration
    from quantvggt.core.errors import InputError as InputError
    from quantvggt.core.errors import QuantVGGTError as QuantVGGTError
    from quantvggt.core.scheme import Scheme as Scheme
    from quantvggt.reconstruction.scene import Scene as Scene

__version__ = "0.1.0"

_PUBLIC = {
    "load": "quantvggt.api",
    "select_calibration": "quantvggt.api",
    "quantize": "quantvggt.api",
    "save": "quantvggt.api",
    "reconstruct": "quantvggt.api",
    "reconstruct_long": "quantvggt.api",
    "Scheme": "quantvggt.core.scheme",
    "Scene": "quantvggt.reconstruction.scene",
    "InputError": "quantvggt.core.errors",
    "QuantVGGTError": "quantvggt.core.errors",
}

__all__ = sorted([*_PUBLIC, "__version__"])


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'quantvggt' has no attribute {name!r}")
        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
