"""VGGT (arXiv 2503.11651)."""

from quantvggt.models.family import Family
from quantvggt.models.vggt.config import VGGTConfig, recognise
from quantvggt.models.vggt.model import VGGT

FAMILY = Family(VGGTConfig.family, VGGTConfig, VGGT, recognise)
