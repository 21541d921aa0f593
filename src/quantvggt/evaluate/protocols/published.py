"""Protocols by name: how the tables of papers are measured, as their scripts do it, and our own.

`about` says where scripts differ from each other, from their papers, and where ours can't repeat them.
"""

from dataclasses import replace

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.pose import Relpose
from quantvggt.evaluate.protocols.contract import Protocol
from quantvggt.evaluate.protocols.depth import DepthMaps
from quantvggt.evaluate.protocols.points import RelativePoints, SurfacePoints
from quantvggt.evaluate.protocols.trajectory import Trajectory
from quantvggt.scenes.datasets import Every, First, Picture, RandomFrames

VGGT = Picture(518)
PI3 = Picture(512, "pi3")
STRETCHED = Picture(518, "uniform")
BONN = Every(1, limit=110, start=30)
CUT = Picture(518, "crop-resize", 392)

SIMILARITY = SurfacePoints("similarity", icp=0.1)
MEDIANS = SurfacePoints("medians", icp=0.1, crop=224)

_FLOAT_ONLY = (
    "The script builds the quantized model, but evaluates a float model that it loads afterwards: its numbers of "
    "quantized models can't be repeated from its code."
)
_K_SLIP = "Pictures are stretched, and the lens is scaled on both axes by what the height was, as published."
_STILL = "Scripts leave out a scene whose cameras are predicted in one place; here it counts."
_VIDEO = "The same script enlarges the prediction to the truth's size; here the truth is brought to the prediction's."

_ALL = (
    Protocol(
        "synthetic", "synthetic", First(8), VGGT, relpose="vggt", points=RelativePoints(), depth=DepthMaps("median"),
        about="Our own: procedural scenes that neither training nor calibration has seen; all frame pairs together.",
    ),
    Protocol(
        "colmap", "colmap", Every(1), VGGT, relpose="vggt", pooling="scene", trajectory=Trajectory(),
        about="Our own: COLMAP's or nerfstudio's cameras as truth, in their unit of length; the mean over "
        "scenes.",
    ),
    Protocol(
        "co3d-vggt", "co3d", RandomFrames(10, min_frames=50), VGGT, relpose="vggt", pooling="category",
        about="VGGT's evaluation (branch evaluation): 10 random frames of every sequence, the AUC over a category's "
        "pairs, the mean over categories. It states AUC@30 89.5 for VGGT; its paper 88.2.",
    ),
    Protocol(
        "co3d-vggt-quick", "co3d", RandomFrames(10, min_frames=50, quick="sample"), VGGT, relpose="vggt",
        pooling="category",
        about="co3d-vggt on 10 random sequences of each category that has so many. VGGT's evaluation states AUC@30, "
        "15, 5, 3 of 89.98, 83.89, 67.45, 56.65 for VGGT.",
    ),
    Protocol(
        "co3d-quantvggt", "co3d", RandomFrames(10, min_frames=50), VGGT, relpose="quantvggt", pooling="category",
        about="QuantVGGT's evaluation: co3d-vggt but for the product it takes for the relative pose, which isn't one.",
    ),
    Protocol(
        "co3d-quantvggt-20", "co3d", RandomFrames(20, min_frames=50), VGGT, relpose="quantvggt", pooling="category",
        about="co3d-quantvggt with 20 frames; all draws differ from those of 10.",
    ),
    Protocol(
        "co3d-quantvggt-quick", "co3d", RandomFrames(10, min_frames=50, quick="first"), VGGT, relpose="quantvggt",
        pooling="category",
        about="co3d-quantvggt on the first 20 sequences of each category, by name.",
    ),
    Protocol(
        "co3d-pi3", "co3d", RandomFrames(10, seed=42, min_frames=50, order="listed"), PI3, relpose="pi3",
        split="test-51",
        about="Pi3's evaluation: seed 42, sequences as listed, all pairs together, of 51 categories: the 41 of the "
        "others, and 10 more.",
    ),
    Protocol(
        "re10k-pi3", "re10k", RandomFrames(10, seed=42, order="listed"), PI3, relpose="pi3",
        about="Pi3's evaluation on the test list of PoseDiffusion, of whose 1832 videos it found 1719; others found "
        "other numbers of them, and AUC@30 of VGGT is stated as 85.3 (its paper), 77.6 (Pi3's) and 74 (users).",
    ),
    Protocol(
        "dtu-pi3", "dtu", Every(5), STRETCHED, points=SurfacePoints("similarity", icp=100.0),
        about=f"Pi3's evaluation: every 5th picture of 22 scans, masked, in mm. {_K_SLIP} No clouds are fused: "
        "DTU's own measure is another one (`metrics.dtu`), and the fusion of VGGT's paper isn't published. "
        "CUT3R's loader walks the frames backwards, so that the last is the reference view.",
    ),
    Protocol(
        "dtu-fgq", "dtu", Every(5), STRETCHED, points=SurfacePoints("similarity", icp=100.0, source="depth"),
        about="FGQ's evaluation: dtu-pi3 with points unprojected from depth through the predicted cameras.",
    ),
    Protocol(
        "7scenes", "7scenes", Every(200), VGGT, relpose="vggt", pooling="scene",
        points=SurfacePoints("similarity", icp=0.1, within=0.05),
        about="Our own: the frames of 7scenes-pi3-sparse with exact lenses; cameras, averaged over sequences, and the "
        "F-score at Depth Anything 3's 0.05 m, of points and not of a fused mesh, so not its number.",
    ),
    Protocol(
        "7scenes-cut3r", "7scenes", Every(200), CUT, points=MEDIANS,
        about="CUT3R's evaluation: every 200th frame, depth registered to the pictures, medians of depth and extent "
        "made equal, the central 224x224 pixels. Its registration turns some missing pixels into near ones; ours "
        "doesn't.",
    ),
    Protocol(
        "7scenes-quantvggt", "7scenes", Every(100), CUT, points=MEDIANS,
        about=f"QuantVGGT's evaluation: 7scenes-cut3r with every 100th frame. {_FLOAT_ONLY} It reads "
        "raw depth with the lens of the pictures; ours is registered to them.",
    ),
    Protocol(
        "7scenes-pi3-sparse", "7scenes", Every(200), STRETCHED, points=SIMILARITY,
        about=f"Pi3's evaluation, every 200th frame. {_K_SLIP}",
    ),
    Protocol(
        "7scenes-pi3-dense", "7scenes", Every(40), STRETCHED, points=SIMILARITY,
        about=f"Pi3's evaluation, every 40th frame. {_K_SLIP}",
    ),
    Protocol(
        "nrgbd-cut3r", "nrgbd", Every(500, halving=True), CUT, points=MEDIANS,
        about="CUT3R's evaluation: every 500th frame, or every (n / 2)th of n if that is less.",
    ),
    Protocol(
        "nrgbd-quantvggt", "nrgbd", Every(100, halving=True), CUT, points=MEDIANS,
        about=f"QuantVGGT's evaluation: nrgbd-cut3r with every 100th frame. {_FLOAT_ONLY}",
    ),
    Protocol(
        "nrgbd-pi3-sparse", "nrgbd", Every(500), STRETCHED, points=SIMILARITY,
        about=f"Pi3's evaluation, every 500th frame: one frame of thin_geometry. {_K_SLIP}",
    ),
    Protocol(
        "nrgbd-pi3-dense", "nrgbd", Every(100), STRETCHED, points=SIMILARITY,
        about=f"Pi3's evaluation, every 100th frame. {_K_SLIP}",
    ),
    Protocol(
        "eth3d", "eth3d", Every(5), VGGT, relpose="vggt", pooling="scene",
        points=SurfacePoints("similarity", icp=0.1, within=0.25),
        about="Our own: the pictures of eth3d-pi3 with exact lenses; cameras, averaged over scenes as Depth Anything 3 "
        "does, and the F-score at its 0.25 m, of points and not of a fused mesh, so not its number.",
    ),
    Protocol(
        "eth3d-pi3", "eth3d", Every(5), STRETCHED, points=SIMILARITY,
        about=f"Pi3's evaluation: every 5th picture by name of the 13 training scenes, undistorted without the "
        f"tangential and prism terms of the lens, the masks unused. {_K_SLIP}",
    ),
    Protocol(
        "eth3d-fgq", "eth3d", Every(5), STRETCHED, points=SurfacePoints("similarity", icp=0.1, source="depth"),
        about="FGQ's evaluation: eth3d-pi3 with points unprojected from depth through the predicted cameras.",
    ),
    Protocol(
        "sintel-depth", "sintel", Every(1), PI3, depth=DepthMaps("l1", far=70.0, clip=70.0, weighted=True),
        about=f"CUT3R's and Pi3's video depth up to a scale: truth below 70, predictions cut there. {_VIDEO}",
    ),
    Protocol(
        "sintel-depth-shift", "sintel", Every(1), PI3, depth=DepthMaps("adam", far=70.0, clip=70.0, weighted=True),
        about="The same up to scale and shift, which the published optimiser hardly moves from the medians' ratio.",
    ),
    Protocol(
        "bonn-depth", "bonn", BONN, PI3, depth=DepthMaps("l1", far=70.0, weighted=True),
        about=f"CUT3R's and Pi3's video depth up to a scale: pictures and depth 30 to 139 of five sequences, paired by "
        f"number, not by time. {_VIDEO}",
    ),
    Protocol(
        "bonn-depth-shift", "bonn", BONN, PI3, depth=DepthMaps("adam", far=70.0, weighted=True),
        about="The same up to scale and shift, which the published optimiser hardly moves from the medians' ratio.",
    ),
    Protocol(
        "kitti-depth", "kitti", Every(1, limit=110), PI3, depth=DepthMaps("l1", weighted=True),
        about=f"CUT3R's and Pi3's video depth up to a scale: the first 110 frames of 13 drives. {_VIDEO}",
    ),
    Protocol(
        "kitti-depth-shift", "kitti", Every(1, limit=110), PI3, depth=DepthMaps("adam", weighted=True),
        about="The same up to scale and shift, which the published optimiser hardly moves from the medians' ratio.",
    ),
    Protocol(
        "tum-pi3", "tum", Every(3, limit=90), PI3, trajectory=Trajectory(),
        about=f"CUT3R's and Pi3's trajectories: of eight sequences every 3rd matched frame, 90 of them. {_STILL}",
    ),
    Protocol(
        "scannet-pi3", "scannet", Every(3, limit=90), PI3, trajectory=Trajectory(),
        about=f"CUT3R's and Pi3's trajectories: of the 100 test scans every 3rd of the first 270 frames. {_STILL}",
    ),
    Protocol(
        "sintel-pi3", "sintel", Every(1), PI3, trajectory=Trajectory(),
        about=f"CUT3R's and Pi3's trajectories: all frames of 14 sequences. {_STILL}",
    ),
)  # fmt: skip

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def find_protocol(name: str) -> Protocol:
    """The protocol `name`. Raises InputError if there is none."""
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}; use one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def default_protocol(dataset: str, relpose: Relpose | None = None) -> Protocol:
    """How scenes of `dataset` are measured that nobody said more of; relpose: with this form of the relative pose.

    The first of the dataset's protocols that has the form, else its first one with the form put in. A dataset without
    any is measured as the synthetic one.
    """
    of = [protocol for protocol in _ALL if protocol.dataset == dataset]
    of = of or [replace(PROTOCOLS["synthetic"], name=dataset, dataset=dataset, about="As synthetic.")]
    if relpose is None:
        return of[0]
    return next((each for each in of if each.relpose == relpose), replace(of[0], relpose=relpose))
