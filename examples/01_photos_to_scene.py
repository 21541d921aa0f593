"""Photos in, a 3D scene out, through a quantized model.

    python examples/01_photos_to_scene.py [PHOTOS] [MODEL]

PHOTOS is a folder of images or a video; without one, a synthetic scene stands in. MODEL is "vggt-nano" (comes with the
package, for synthetic scenes only) or "facebook/VGGT-1B" (5 GB, downloaded once).
"""

import sys

import quantvggt as qv
from quantvggt.scenes.synthetic import make_clip


def main(photos: str | None = None, model_name: str = "vggt-nano", output: str = "runs/01_scene") -> None:
    model = qv.load(model_name)
    calibration = photos or "synthetic"
    small = qv.quantize(model, scheme="w4a8", method="dsfq", calibration=calibration)
    small.save_pretrained(f"{output}/checkpoint", overwrite=True)

    small = qv.load(f"{output}/checkpoint")
    scene = qv.reconstruct(small, photos or make_clip(seed=9_000_000))
    written = scene.export(output, formats=["cameras", "colmap", "ply", "glb"], overwrite=True)
    for name, path in written.items():
        print(f"{name:8} {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
