"""Quantize VGGT, keep it small, run it, and turn photos into a 3D scene.

Importing this package loads none of its rooms; each public name is imported when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "quantvggt.api",
    "select_calibration": "quantvggt.api",
    "quantize": "quantvggt.api",
    "save": "quantvggt.api",
    "reconstruct": "quantvggt.api",
    "Scheme": "quantvggt.core.scheme",
    "Scene": "quantvggt.reconstruction.scene",
    "InputError": "quantvggt.core.errors",
    "QuantVGGTError": "quantvggt.core.errors",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'quantvggt' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
