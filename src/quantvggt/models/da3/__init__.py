"""Depth-Anything-3 (arXiv 2511.10647)."""

from quantvggt.models.da3.config import DA3Config, licence, recognise
from quantvggt.models.da3.model import DA3
from quantvggt.models.family import Family

FAMILY = Family(DA3Config.family, DA3Config, DA3, recognise, licence)
