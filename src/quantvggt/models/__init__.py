"""Our VGGT, its layers and the names of its quantizable sites."""

from quantvggt.models.vggt.config import VGGTConfig
from quantvggt.models.vggt.model import VGGT

__all__ = ["VGGT", "VGGTConfig"]
