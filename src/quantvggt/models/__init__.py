"""Our VGGT, its layers and the names of its quantizable sites."""

from quantvggt.models.config import VGGTConfig
from quantvggt.models.vggt import VGGT

__all__ = ["VGGT", "VGGTConfig"]
