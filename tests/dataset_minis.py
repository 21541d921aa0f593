"""Miniatures of published datasets: small scenes of our own renderer, in the layout that the official download has.

`write_mini(name, folder)` writes one and returns its root; `MINIS[name].scene(index, frames)` is what was rendered.
Extrinsics are world-to-camera, OpenCV; intrinsics have pixel centres at +0.5.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from quantvggt.scenes import synthetic
from quantvggt.scenes.raycast import render

FIRST_SEED = 9_800_000


@dataclass(frozen=True)
class Rendered:
    """One scene. images: uint8 [S, H, W, 3]; depth: float32 [S, H, W], 0 in the sky; extrinsics: float64 [S, 3, 4];
    lens: float64 [3, 3]."""

    images: np.ndarray
    depth: np.ndarray
    extrinsics: np.ndarray
    lens: np.ndarray

    @property
    def poses(self) -> np.ndarray:
        """Camera-to-world [S, 4, 4]."""
        square = np.tile(np.eye(4), (len(self.extrinsics), 1, 1))
        square[:, :3] = self.extrinsics
        return np.linalg.inv(square)


@dataclass(frozen=True)
class Mini:
    """How a miniature is made: its scenes by name, and the camera that the dataset has.

    depth, poses: has it any? unit: of its depth and positions, in the renderer's metres.
    """

    write: Callable[["Mini", Path, int, int], None]
    names: tuple[str, ...]
    width: int = 96
    height: int = 72
    lens: tuple[float, float, float, float] = (100.0, 98.0, 49.0, 35.0)  # fx, fy, cx, cy
    depth: bool = True
    poses: bool = True
    unit: float = 1.0

    def scene(self, index: int, frames: int) -> Rendered:
        return rendered(FIRST_SEED + index, frames, self.width, self.height, self.lens)

    def at_lens(self, index: int, frames: int, lens: np.ndarray, width: int, height: int) -> Rendered:
        """The same views through another camera."""
        seen = (lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2])
        return rendered(FIRST_SEED + index, frames, width, height, seen)

    def truth_lens(self) -> np.ndarray:
        fx, fy, cx, cy = self.lens
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def rendered(seed: int, frames: int, width: int, height: int, lens: tuple[float, float, float, float]) -> Rendered:
    """The synthetic scene of a seed through a camera of one's own."""
    rng = np.random.default_rng(seed)
    synthetic._sample_scene(rng)
    extrinsics, _ = synthetic._sample_cameras(rng, frames, height, width)
    fx, fy, cx, cy = lens
    images, depth = _render(seed, extrinsics, width, height, lens)
    return Rendered(images, depth, extrinsics, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]))


def _render(
    seed: int, cameras: Sequence[np.ndarray], width: int, height: int, lens: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and depth of a seed's scene from these world-to-camera matrices."""
    solids, ground = synthetic._sample_scene(np.random.default_rng(seed))
    fx, fy, cx, cy = lens
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    views = [render(solids, ground, camera, matrix, height, width) for camera in cameras]
    images, depth = (np.stack(part) for part in zip(*views, strict=True))
    return images, depth


def write_mini(name: str, folder: Path, scenes: int = 2, frames: int = 4) -> Path:
    """A miniature of the dataset `name` with the first of its scenes; returns the root for `open_dataset`."""
    root = folder / name
    mini = MINIS[name]
    for index in range(scenes):
        mini.write(mini, root, index, frames)
    return root


def save_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_jpeg(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, "JPEG", quality=98, subsampling=0)


def save_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def numbers(values: np.ndarray) -> str:
    """One line a row."""
    return "".join(" ".join(f"{value:.12g}" for value in row) + "\n" for row in np.atleast_2d(values))


def millimetres(depth: np.ndarray, missing: int = 0) -> np.ndarray:
    return np.where(depth > 0, np.round(depth * 1000), missing).astype(np.uint16)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """wxyz of a rotation [3, 3], by its eigenvector of eigenvalue 1 in the symmetric matrix of Bar-Itzhack (2000)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a - e - i, d + b, g + c, h - f],
            [d + b, e - a - i, h + f, c - g],
            [g + c, h + f, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def _co3d(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    category, sequence = mini.names[index].split("/")
    told = []
    for frame, (image, camera) in enumerate(zip(scene.images, scene.extrinsics, strict=True)):
        path = f"{category}/{sequence}/images/frame{frame + 1:06d}.jpg"
        save_jpeg(root / path, image)
        unit = min(mini.width, mini.height) / 2
        turned = np.diag([-1, -1, 1]) @ camera  # PyTorch3D: x left, y up, row vectors
        told.append(
            {
                "filepath": path,
                "R": turned[:, :3].T.tolist(),
                "T": turned[:, 3].tolist(),
                "focal_length": [scene.lens[0, 0] / unit, scene.lens[1, 1] / unit],
                "principal_point": [
                    (mini.width / 2 - scene.lens[0, 2]) / unit,
                    (mini.height / 2 - scene.lens[1, 2]) / unit,
                ],
            }
        )
    file = root / f"{category}_test.jgz"
    known = json.loads(gzip.decompress(file.read_bytes())) if file.exists() else {}
    file.write_bytes(gzip.compress(json.dumps({**known, sequence: told}).encode()))


def _colmap(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    folder = root / mini.names[index]
    fx, fy, cx, cy = mini.lens
    lines = ["# a comment"]
    for frame, (image, camera) in enumerate(zip(scene.images, scene.extrinsics, strict=True)):
        save_png(folder / "images" / f"{frame}.png", image)
        pose = " ".join(f"{value:.12g}" for value in (*quaternion(camera[:, :3]), *camera[:, 3]))
        lines += [f"{frames - frame} {pose} 7 {frame}.png", "3.5 4.5 -1" if frame else ""]
    save_text(
        folder / "sparse/0/cameras.txt", f"# a comment\n7 PINHOLE {mini.width} {mini.height} {fx} {fy} {cx} {cy}\n"
    )
    save_text(folder / "sparse/0/images.txt", "\n".join(lines) + "\n")


def _dtu(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    folder, whole = root / mini.names[index], scene.lens - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    for frame, (image, depth, camera) in enumerate(zip(scene.images, scene.depth, scene.extrinsics, strict=True)):
        save_jpeg(folder / f"images/{frame:08d}.jpg", image)
        pose = np.vstack([camera * [1, 1, 1, mini.unit], [0, 0, 0, 1]])
        text = f"extrinsic\n{numbers(pose)}\nintrinsic\n{numbers(whole)}\n425.0 2.5\n"
        save_text(folder / f"cams/{frame:08d}_cam.txt", text)
        (folder / "depths").mkdir(exist_ok=True)
        np.save(folder / f"depths/{frame:08d}.npy", np.where(depth > 0, depth * mini.unit, np.nan).astype(np.float32))
        save_png(folder / f"binary_masks/{frame:08d}.png", ((depth > 0) * 255).astype(np.uint8))


def _seven_scenes(mini: Mini, root: Path, index: int, frames: int) -> None:
    """Raw depth is that of a camera of its own, 26 mm beside the other."""
    scene = mini.scene(index, frames)
    folder, focal = root / mini.names[index], 585 * mini.width / 640
    to_depth = np.linalg.inv(
        [
            [9.99965180e-01, 2.67651265e-03, -7.90410123e-03, -2.55589432e-02],
            [-2.74093113e-03, 9.99963028e-01, -8.15045208e-03, 1.01096363e-04],
            [7.88199421e-03, 8.17183288e-03, 9.99935546e-01, 2.03183217e-03],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    cameras = [(to_depth @ np.vstack([camera, [0, 0, 0, 1]]))[:3] for camera in scene.extrinsics]
    beside = _render(
        FIRST_SEED + index, cameras, mini.width, mini.height, (focal, focal, mini.width / 2, mini.height / 2)
    )
    for frame, image in enumerate(scene.images):
        stem = folder / f"frame-{frame:06d}"
        save_png(Path(f"{stem}.color.png"), image)
        save_png(Path(f"{stem}.depth.png"), millimetres(beside[1][frame], missing=65535))
        save_text(Path(f"{stem}.pose.txt"), numbers(scene.poses[frame]))


def _nrgbd(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    folder = root / mini.names[index]
    for frame, (image, depth) in enumerate(zip(scene.images, scene.depth, strict=True)):
        save_png(folder / f"images/img{frame}.png", image)
        save_png(folder / f"depth/depth{frame}.png", millimetres(depth))
    opengl = scene.poses * [1, -1, -1, 1]
    save_text(folder / "poses.txt", "".join(numbers(pose) for pose in opengl))
    save_text(folder / "focal.txt", f"{mini.lens[0]}\n")


def _re10k(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene = mini.scene(index, frames)
    name, (fx, fy, cx, cy) = mini.names[index], mini.lens
    lens = f"{fx / mini.width} {fy / mini.height} {cx / mini.width} {cy / mini.height} 0 0"
    lines = ["https://example.invalid/video"]
    for frame, (image, camera) in enumerate(zip(scene.images, scene.extrinsics, strict=True)):
        lines.append(f"{33366667 + 33367 * frame} {lens} {' '.join(f'{value:.12g}' for value in camera.flat)}")
        save_png(root / f"test/{name}/images/{frame:04d}.png", image)
    save_text(root / f"test/{name}.txt", "\n".join(lines) + "\n")


PRISM = {"k1": -0.06, "k2": 0.02, "p1": 0.002, "p2": -0.003, "k3": -0.01, "k4": 0.003, "sx": 0.002, "sy": -0.001}
"""Distortion of the miniature of ETH3D, by COLMAP's names."""


def _eth3d(mini: Mini, root: Path, index: int, frames: int) -> None:
    """A rendering four times as fine is looked up where each distorted pixel looks."""
    scene, fine = mini.scene(index, frames), 4
    x, y = _looks(mini)
    (fx, fy, _, _), wide = mini.lens, 1.5  # the fine rendering sees more on all sides
    height, width = (round(side * fine * wide) for side in (mini.height, mini.width))
    lens = (fx * fine, fy * fine, width / 2, height / 2)
    images, depths = _render(FIRST_SEED + index, scene.extrinsics, width, height, lens)
    columns, rows = np.floor(x * lens[0] + lens[2]).astype(int), np.floor(y * lens[1] + lens[3]).astype(int)
    name, (fx, fy, cx, cy) = mini.names[index], mini.lens
    folder, lines = root / name, []
    for frame, (image, depth, camera) in enumerate(zip(images, depths, scene.extrinsics, strict=True)):
        photo = f"dslr_images/DSC_{frame:04d}.JPG"
        save_jpeg(folder / "images" / photo, image[rows, columns])
        raw = folder / "ground_truth_depth" / photo
        raw.parent.mkdir(parents=True, exist_ok=True)
        seen = depth[rows, columns]
        raw.write_bytes(np.where(seen > 0, seen, np.inf).astype("<f4").tobytes())
        pose = " ".join(f"{value:.12g}" for value in (*quaternion(camera[:, :3]), *camera[:, 3]))
        lines += [f"{frame} {pose} 0 {photo}", "1.0 2.0 -1"]
    values = " ".join(str(PRISM[key]) for key in ("k1", "k2", "p1", "p2", "k3", "k4", "sx", "sy"))
    camera_line = f"0 THIN_PRISM_FISHEYE {mini.width} {mini.height} {fx} {fy} {cx} {cy} {values}\n"
    save_text(folder / "dslr_calibration_jpg/cameras.txt", camera_line)
    save_text(folder / "dslr_calibration_jpg/images.txt", "\n".join(lines) + "\n")


def _looks(mini: Mini) -> tuple[np.ndarray, np.ndarray]:
    """The direction (x, y, 1) of each distorted pixel [H, W], by fixed-point iteration on COLMAP's formula."""
    fx, fy, cx, cy = mini.lens
    v, u = np.indices((mini.height, mini.width)) + 0.5
    u, v = (u - cx) / fx, (v - cy) / fy
    a, b, p = u.copy(), v.copy(), PRISM
    for _ in range(50):
        r2 = a * a + b * b
        radial = p["k1"] * r2 + p["k2"] * r2**2 + p["k3"] * r2**3 + p["k4"] * r2**4
        da = a * radial + 2 * p["p1"] * a * b + p["p2"] * (r2 + 2 * a * a) + p["sx"] * r2
        db = b * radial + 2 * p["p2"] * a * b + p["p1"] * (r2 + 2 * b * b) + p["sy"] * r2
        a, b = u - da, v - db
    angle = np.hypot(a, b)
    stretch = np.tan(angle) / np.maximum(angle, 1e-12)
    return a * stretch, b * stretch


def _kitti(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene, drive = mini.scene(index, frames), mini.names[index]
    for frame, (image, depth) in enumerate(zip(scene.images, scene.depth, strict=True)):
        save_png(
            root / f"val/{drive}/proj_depth/groundtruth/image_02/{frame + 5:010d}.png", (depth * 256).astype(np.uint16)
        )
        save_png(root / f"{drive[:10]}/{drive}/image_02/data/{frame + 5:010d}.png", image)
    fx, fy, cx, cy = mini.lens
    matrix = f"{fx} 0 {cx - 0.5} 44.8 0 {fy} {cy - 0.5} 0.2 0 0 1 0.003"
    save_text(root / f"{drive[:10]}/calib_cam_to_cam.txt", f"calib_time: 09-Jan-2012\nP_rect_02: {matrix}\n")


def _tum(mini: Mini, root: Path, index: int, frames: int) -> None:
    """The first picture and a last pose are too far from others in time to be matched."""
    scene, folder = mini.scene(index, frames), root / mini.names[index]
    lists: dict[str, list[str]] = {
        "rgb": ["# color images"],
        "depth": ["# depth maps"],
        "groundtruth": ["# ground truth"],
    }
    save_png(folder / "rgb/1.000000.png", scene.images[0])
    lists["rgb"].append("1.000000 rgb/1.000000.png")
    for frame, (image, depth, pose) in enumerate(zip(scene.images, scene.depth, scene.poses, strict=True)):
        time = 10 + frame / 30
        save_png(folder / f"rgb/{time:.6f}.png", image)
        save_png(folder / f"depth/{time + 0.01:.6f}.png", np.round(depth * 5000).astype(np.uint16))
        w, x, y, z = quaternion(pose[:3, :3])
        place = " ".join(f"{value:.12g}" for value in (*pose[:3, 3], x, y, z, w))
        lists["rgb"].append(f"{time:.6f} rgb/{time:.6f}.png")
        lists["depth"].append(f"{time + 0.01:.6f} depth/{time + 0.01:.6f}.png")
        lists["groundtruth"].append(f"{time - 0.015:.4f} 9 9 9 0 0 0 1")
        lists["groundtruth"].append(f"{time + 0.003:.4f} {place}")
    lists["groundtruth"].append("99.0 9 9 9 0 0 0 1")
    for name, lines in lists.items():
        save_text(folder / f"{name}.txt", "\n".join(lines) + "\n")


def _bonn(mini: Mini, root: Path, index: int, frames: int) -> None:
    """Behind 30 frames that don't count."""
    scene, folder = mini.scene(index, frames), root / "rgbd_bonn_dataset" / f"rgbd_bonn_{mini.names[index]}"
    for frame in range(-30, 0):
        for part in ("rgb", "depth"):
            save_png(folder / f"{part}/{1548265985 + frame / 30:.5f}.png", np.zeros((2, 2), np.uint8))
    for frame, (image, depth) in enumerate(zip(scene.images, scene.depth, strict=True)):
        save_png(folder / f"rgb/{1548265985 + frame / 30:.5f}.png", image)
        save_png(folder / f"depth/{1548265985.2 + frame / 30:.5f}.png", np.round(depth * 5000).astype(np.uint16))


def _scannet(mini: Mini, root: Path, index: int, frames: int) -> None:
    """The depth camera has fewer pixels and a lens of its own."""
    scene, folder = mini.scene(index, frames), root / mini.names[index]
    lens, width, height = (70.0, 68.0, 33.0, 25.0), 64, 48
    coarse = _render(FIRST_SEED + index, scene.extrinsics, width, height, lens)[1]
    for frame, (image, depth, pose) in enumerate(zip(scene.images, coarse, scene.poses, strict=True)):
        save_jpeg(folder / f"color/{frame}.jpg", image)
        save_png(folder / f"depth/{frame}.png", millimetres(depth))
        save_text(folder / f"pose/{frame}.txt", numbers(pose))
    for name, (fx, fy, cx, cy) in (("color", mini.lens), ("depth", lens)):
        matrix = np.array([[fx, 0, cx - 0.5, 0], [0, fy, cy - 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        save_text(folder / f"intrinsic/intrinsic_{name}.txt", numbers(matrix))


def _sintel(mini: Mini, root: Path, index: int, frames: int) -> None:
    scene, name, tag = mini.scene(index, frames), mini.names[index], np.float32(202021.25).tobytes()
    lens = scene.lens - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    for frame, (image, depth, camera) in enumerate(zip(scene.images, scene.depth, scene.extrinsics, strict=True)):
        save_png(root / f"training/final/{name}/frame_{frame + 1:04d}.png", image)
        size = np.array([mini.width, mini.height], "<i4").tobytes()
        far = np.where(depth > 0, depth, 1e4).astype("<f4")
        cameras = lens.astype("<f8").tobytes() + camera.astype("<f8").tobytes()
        for part, suffix, data in (("depth", "dpt", size + far.tobytes()), ("camdata_left", "cam", cameras)):
            file = root / f"training/{part}/{name}/frame_{frame + 1:04d}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(tag + data)


def _kinect(fx: float, fy: float, cx: float, cy: float, width: int = 96) -> tuple[float, float, float, float]:
    """A lens of pictures 640 wide, with pixel centres at whole numbers, at another width and with centres at +0.5."""
    scale = width / 640
    return fx * scale, fy * scale, (cx + 0.5) * scale, (cy + 0.5) * scale


FREIBURG = "rgbd_dataset_freiburg3"
MINIS: dict[str, Mini] = {
    "co3d": Mini(_co3d, ("apple/110_13051_23361", "apple/12_90_489", "bench/415_57112_110099"), depth=False),
    "colmap": Mini(_colmap, ("bicycle", "garden", "kitchen"), depth=False),
    "dtu": Mini(_dtu, ("scan1", "scan4", "scan9"), unit=1000.0),
    "7scenes": Mini(_seven_scenes, ("chess/seq-03", "chess/seq-05", "fire/seq-03"), lens=_kinect(525, 525, 320, 240)),
    "nrgbd": Mini(
        _nrgbd,
        ("breakfast_room", "complete_kitchen", "green_room"),
        lens=(83.13843876330611, 83.13843876330611, 48, 36),
    ),
    "re10k": Mini(_re10k, ("000c3ab189999a83", "0017ce4c6a39d122", "002ae53df0e0afe2"), depth=False),
    "eth3d": Mini(_eth3d, ("courtyard", "delivery_area", "electro")),
    "kitti": Mini(
        _kitti,
        ("2011_09_26_drive_0002_sync", "2011_09_26_drive_0005_sync", "2011_09_28_drive_0037_sync"),
        poses=False,
    ),
    "tum": Mini(
        _tum,
        (f"{FREIBURG}_sitting_static", f"{FREIBURG}_sitting_xyz", f"{FREIBURG}_sitting_halfsphere"),
        lens=_kinect(535.4, 539.2, 320.1, 247.6),
    ),
    "bonn": Mini(
        _bonn, ("balloon2", "crowd2", "crowd3"), poses=False, lens=_kinect(542.822841, 542.57687, 315.59352, 237.756098)
    ),
    "scannet": Mini(_scannet, ("scene0707_00", "scene0708_00", "scene0709_00")),
    "sintel": Mini(_sintel, ("alley_2", "ambush_4", "ambush_5")),
}
