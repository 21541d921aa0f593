"""How many bits does it take? Every scheme with three methods, on scenes with known truth.

python examples/02_compare_schemes.py [SCENES]
"""

import sys
from collections.abc import Sequence
from itertools import product

import quantvggt as qv
from quantvggt.evaluate.run import evaluate, predict
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clips


def main(scenes: int = 20, schemes: Sequence[str] = ("w8a8", "w6a6", "w4a8", "w4a4", "w3a4", "w3a3")) -> None:
    model = qv.load("vggt-nano")
    clips = make_clips(range(HELD_OUT_SEED, HELD_OUT_SEED + scenes), frames=8)
    reference = predict(model, clips, label="float")
    print(f"{'scheme':8} {'method':8} {'AUC@30':>7} {'drift of rotations':>19}")
    for scheme, method in product(schemes, ("rtn", "dsfq", "best")):
        small = qv.quantize(model, scheme=scheme, method=method, progress=False)
        row = evaluate(
            small, clips, reference, name="vggt-nano", method=method, scheme=scheme, seed=0, checkpoint_bytes=0
        )
        print(f"{scheme:8} {method:8} {row['auc30']:7.3f} {row['drift_rotation_deg']:18.2f}°")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
