"""The families of models that there are, and the contract between them and the rest of the house."""

from quantvggt.models import vggt
from quantvggt.models.answers import Answers
from quantvggt.models.family import FAMILIES, Model, ModelConfig, build
from quantvggt.models.given import Given
from quantvggt.models.vggt import VGGT, VGGTConfig

FAMILIES[vggt.FAMILY.name] = vggt.FAMILY

__all__ = ["FAMILIES", "VGGT", "Answers", "Given", "Model", "ModelConfig", "VGGTConfig", "build"]
