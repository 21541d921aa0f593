"""The families of models that there are, and the contract between them and the rest of the house."""

from quantvggt.models import da3, pi3, vggt
from quantvggt.models.answers import Answers
from quantvggt.models.family import FAMILIES, Model, ModelConfig, build
from quantvggt.models.given import Given
from quantvggt.models.vggt import VGGT, VGGTConfig

FAMILIES.update({family.name: family for family in (vggt.FAMILY, da3.FAMILY, pi3.PI3, pi3.PI3X)})

__all__ = ["FAMILIES", "VGGT", "Answers", "Given", "Model", "ModelConfig", "VGGTConfig", "build"]
