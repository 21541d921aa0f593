"""What a clip shows, in one word: what the sampling strategy `label` groups by."""

import os
from pathlib import Path

from quantvggt.scenes.clip import Clip
from quantvggt.scenes.synthetic import count_solids


def label_of(clip: Clip) -> str:
    """`source["label"]` if there is one. Else, for a synthetic scene: how many solids stand in it ("6 solids"), 4 to
    10, the nearest it has to a category. For files: the folder that the scene lies in, as in category/scene/0001.jpg
    or category/scene.mp4. Otherwise "unlabelled".
    """
    source = clip.source
    if "label" in source:
        return str(source["label"])
    if source.get("kind") == "synthetic":
        return f"{count_solids(source['seed'])} solids"
    if source.get("kind") in ("images", "video"):
        file = Path(os.path.abspath(source["frames"][0]["path"]))
        scene = file if source["kind"] == "video" else file.parent
        return scene.parent.name
    return "unlabelled"
