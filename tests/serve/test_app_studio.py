"""The app's work, by real processes with a tiny model: what comes out, what is refused, what is left behind."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

import quantvggt as qv
from browser import chromium, pixels
from quantvggt.core.errors import QuantVGGTError
from quantvggt.reconstruction.scene import Scene
from quantvggt.serve.app_choice import FULL, Choice, precisions
from quantvggt.serve.app_studio import Made, Studio
from quantvggt.serve.child import Unwanted
from quantvggt.serve.limits import Limits
from quantvggt.serve.uploads import TooLarge
from tiny import sane_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model, and beside it a quantized one."""
    folder = tmp_path_factory.mktemp("models")
    qv.save(sane_model(), folder / "float")
    qv.save(qv.quantize(sane_model(), "w8a8", method="rtn"), folder / "w8a8")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[0:70, 0:70]
    for index in range(3):
        picture = np.stack([x * 3, y * 3, (x + 8 * index) // 10 % 2 * 200], axis=-1).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def studio(model: Path) -> Iterator[Studio]:
    with Studio(Limits(frames=4, request_bytes=2**20), reference=str(model / "float")) as made:
        yield made
    assert not made.folder.exists()


@pytest.fixture(scope="module")
def made(studio: Studio, model: Path, photos: list[Path]) -> Made:
    small = Choice(str(model / "w8a8"), precisions(str(model / "w8a8"))[0])
    shares: list[float] = []
    result = studio.reconstruct(photos, small, compared=True, told=lambda _, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] <= 1
    return result


def test_a_scene_comes_out_in_every_form(studio: Studio, made: Made, model: Path, photos: list[Path]) -> None:
    expected = qv.reconstruct(qv.load(model / "w8a8"), photos)
    assert (made.facts["frames"], made.facts["width"], made.facts["height"]) == (3, 70, 70)
    np.testing.assert_allclose(Scene.load(made.folder / "scene.npz").depth, expected.depth, rtol=1e-3)
    assert len(PlyData.read(made.files["ply"])["vertex"]) == made.facts["points"]
    assert made.files["glb"].read_bytes()[:4] == b"glTF"
    with ZipFile(made.files["colmap"]) as colmap:
        assert {"images/0.png", "sparse/0/cameras.txt"} <= {name.removeprefix("colmap/") for name in colmap.namelist()}
    page = studio.page(made.token, "scene")
    assert page is not None
    assert "3 frames" in page.read_text()
    assert studio.page(made.token, "../scene") is studio.page("other", "scene") is None
    assert not (made.folder / "files").exists(), "what was sent is deleted"


def test_it_is_compared_with_full_precision(made: Made, model: Path, photos: list[Path]) -> None:
    assert made.comparison is not None
    quantized, full = (qv.reconstruct(qv.load(model / name), photos) for name in ("w8a8", "float"))
    change = np.median(np.abs(quantized.depth / np.median(quantized.depth / full.depth) / full.depth - 1))
    assert made.comparison.depth == pytest.approx(change, rel=0.1, abs=1e-4)
    assert 0 < made.comparison.points < 0.5
    assert [name for _, name in made.comparison.heat] == full.names
    assert all(picture.shape == (70, 70, 3) for picture, _ in made.comparison.heat)


def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    studio: Studio, made: Made, model: Path, photos: list[Path], tmp_path: Path
) -> None:
    choice = Choice(str(model / "float"), FULL)
    before = set(studio.folder.iterdir())
    (tmp_path / "notes.jpg").write_text("no photo")
    (tmp_path / "large.png").write_bytes(photos[0].read_bytes() + bytes(2**20))
    for files, told in (([], "no files"), ([tmp_path / "notes.jpg"], "notes.jpg"), ([tmp_path / "large.png"], "bytes")):
        with pytest.raises(QuantVGGTError, match=told):
            studio.reconstruct(files, choice)
    with pytest.raises(TooLarge, match="frames"):
        studio.reconstruct(photos, choice, frames=5)
    with pytest.raises(Unwanted):
        studio.reconstruct(photos, choice, wanted=lambda: False)
    assert set(studio.folder.iterdir()) == before
    assert studio.page(made.token, "scene") is not None


def test_scenes_are_kept_for_a_while(photos: list[Path], model: Path) -> None:
    """Kept for less time than the next look takes; the worker isn't needed for that."""
    with Studio(Limits(keep_seconds=1e-9)) as studio:
        folder = studio.folder / "token"
        folder.mkdir()
        studio._made["token"] = Made("token", folder, {}, {}, 0.0)
        studio.sweep()
        assert not folder.exists()
        assert studio.page("token", "scene") is None


@pytest.fixture(scope="module")
def app(studio: Studio, model: Path) -> Any:
    pytest.importorskip("gradio", reason="no gradio: pip install 'quantvggt[app]'")
    from quantvggt.serve.app import create_app

    return create_app(studio, [str(model / "w8a8"), str(model / "float")])


def test_the_app_serves_its_page_and_scenes_apart_from_it(app: Any, studio: Studio, made: Made) -> None:
    from starlette.testclient import TestClient

    with TestClient(app) as client:
        assert "gradio" in client.get("/").text
        scene = client.get(f"/scenes/{made.token}/scene")
        assert scene.headers["content-security-policy"] == "sandbox allow-scripts"
        assert "plotly" in scene.text
        assert client.get(f"/scenes/{made.token}/reference").status_code == 200
        assert client.get("/scenes/guessed/scene").status_code == 404
        assert client.post("/gradio_api/upload", content=bytes(2**21 + 2)).status_code == 413
        told = client.get("/config").json()
        assert told["analytics_enabled"] is False
        assert not any(each["api_visibility"] == "public" for each in told["dependencies"])


def test_a_login_is_asked_for(studio: Studio) -> None:
    pytest.importorskip("gradio", reason="no gradio: pip install 'quantvggt[app]'")
    from starlette.testclient import TestClient

    from quantvggt.serve.app import create_app

    with TestClient(create_app(studio, ["vggt-nano"], [("ann", "secret")])) as client:
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
        assert client.get("/config").status_code == 200


def test_photos_become_a_scene_in_the_browser(app: Any, photos: list[Path], tmp_path: Path) -> None:
    import threading
    import time

    import uvicorn

    from quantvggt.core.ports import free_port

    port = free_port("127.0.0.1", 18160)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            elsewhere = []
            page.on("request", lambda request: elsewhere.append(request.url))
            page.goto(f"http://127.0.0.1:{port}")
            page.locator("input[type=file]").set_input_files(photos)
            page.wait_for_function("document.body.innerText.replace(/\\s/g, '').includes('2.png')")
            page.get_by_label("Compare with full precision").check()
            page.get_by_role("button", name="Reconstruct").click()
            frames = page.locator(".scenes iframe")
            frames.nth(1).wait_for(timeout=60_000)
            page.get_by_text("Full precision took").wait_for()
            end = time.monotonic() + 30
            while len(np.unique(pixels(frames.first).reshape(-1, 3) // 16, axis=0)) < 60:
                assert time.monotonic() < end, "no points were drawn"
                page.wait_for_timeout(200)
            with page.expect_download() as download:
                page.get_by_text("Points (PLY)").click()
            shutil.copy(download.value.path(), tmp_path / "points.ply")
            assert len(PlyData.read(tmp_path / "points.ply")["vertex"]) > 0
            assert {url for url in elsewhere if url.startswith("http") and f"127.0.0.1:{port}" not in url} == set()
    finally:
        server.should_exit = True
        thread.join()
