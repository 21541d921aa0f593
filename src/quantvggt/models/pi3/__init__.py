"""Pi3 (arXiv 2507.13347) and Pi3X."""

from quantvggt.models.family import Family
from quantvggt.models.pi3.config import LICENCE, Pi3Config, Pi3XConfig, recognise, recognise_x
from quantvggt.models.pi3.model import Pi3, Pi3X

PI3 = Family(Pi3Config.family, Pi3Config, Pi3, recognise, lambda config: LICENCE)
PI3X = Family(Pi3XConfig.family, Pi3XConfig, Pi3X, recognise_x, lambda config: LICENCE)
