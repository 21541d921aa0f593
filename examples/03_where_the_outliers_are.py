"""Why rotate? The peaks of each layer's input channels, for special tokens and patch tokens.

python examples/03_where_the_outliers_are.py
"""

import quantvggt as qv
from quantvggt.evaluate.inspection import format_sites, inspect_sites
from quantvggt.scenes.calibration import calibration_clips


def main(scheme: str = "w4a4") -> None:
    model = qv.load("vggt-nano")
    clips = calibration_clips("synthetic", clips=2, frames=4, size=112)
    for method in ("rtn", "dsfq"):
        small = qv.quantize(model, scheme=scheme, method=method, calibration=clips, progress=False)
        print(f"\n{scheme} {method}")
        rows = inspect_sites(small, clips, reference=model, progress=False)
        print(format_sites([row for row in rows if row.outliers_patch is not None]))  # the trunk's


if __name__ == "__main__":
    main()
