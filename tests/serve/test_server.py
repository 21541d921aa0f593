"""The server on loopback over HTTP, with a real worker and a tiny model."""

import asyncio
import io
import os
import random
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import quantvggt as qv
from quantvggt.reconstruction.scene import Scene
from quantvggt.serve.limits import Limits
from tiny import sane_model
from videos import write_video

sys.path.insert(0, str(Path(__file__).parent))  # spawned processes get it from here

from children import lists_files, minds_names
from running import Running, Sent, as_form, picture, running, until

LIMITS = Limits(queue=128, files=8, picture_pixels=100_000, request_bytes=300_000, frames=6)
PAIR = [("a.png", picture(1)), ("b.png", picture(2))]
KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    qv.save(sane_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as in this process
        folder = tmp_path_factory.mktemp("jobs")
        with running(folder, LIMITS, setup=partial(minds_names, model)) as found:
            yield found


def direct(model: Any, files: list[Sent], folder: Path) -> Scene:
    """What the library makes of the same files."""
    folder.mkdir()
    for name, data in files:
        (folder / name).write_bytes(data)
    return qv.reconstruct(model, [folder / name for name, _ in files])


def result(data: bytes) -> Scene:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        from quantvggt.reconstruction.export.npz import read_npz

        return read_npz(io.BytesIO(archive.read("scene.npz")))  # type: ignore[arg-type]


def same(one: Scene, other: Scene) -> None:
    """Of the same photos, by the same model."""
    assert one.names == other.names
    assert np.array_equal(one.images, other.images)
    for name in ("extrinsics", "intrinsics", "depth"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-4)


def test_a_job_from_submission_to_result(server: Running, tmp_path: Path) -> None:
    answer = server.submit(PAIR)
    assert answer.status_code == 202
    submitted = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{submitted['id']}"
    assert len(submitted["id"]) == 32
    assert submitted["files"] == ["a.png", "b.png"]
    status = server.done(submitted["id"])
    assert status["state"] == "done", status["reason"]
    assert (status["progress"], status["attempts"], status["position"]) == (1.0, 1, None)
    assert status["created"] <= status["started"] <= status["finished"] < status["expires"]
    told = status["result"]
    assert (told["frames"], told["left_out"], told["height"], told["width"]) == (2, [], 56, 70)
    assert set(told["files"]) == {"cameras", "colmap", "depth", "glb", "npz", "ply", "nerfstudio", "tum", "page"}
    whole = server.client.get(f"/v1/jobs/{submitted['id']}/result")
    assert whole.headers["content-type"] == "application/zip"
    same(result(whole.content), direct(sane_model(), PAIR, tmp_path / "direct"))
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        names = archive.namelist()
        assert {"cameras.json", "points.ply", "scene.glb", "scene.html", "colmap/images/a.png"} <= set(names)
        one = server.client.get(f"/v1/jobs/{submitted['id']}/result", params={"format": "ply"})
        assert one.content == archive.read("points.ply")
        assert 'filename="points.ply"' in one.headers["content-disposition"]
        folder = server.client.get(f"/v1/jobs/{submitted['id']}/result", params={"format": "colmap"})
        with zipfile.ZipFile(io.BytesIO(folder.content)) as part:
            assert part.namelist() == [name for name in names if name.startswith("colmap/")]
            assert all(part.read(name) == archive.read(name) for name in part.namelist())
        # Nothing tells where the server keeps things.
        assert not any(str(server.jobs.folder).encode() in archive.read(name) for name in names)
    assert server.client.get(f"/v1/jobs/{submitted['id']}/result", params={"format": "nope"}).status_code == 404


def test_options_and_warnings(server: Running) -> None:
    portrait = [("p.png", picture(1, 56, 84)), ("q.png", picture(2, 56, 84)), ("r.png", picture(3, 56, 84))]
    answer = server.submit(portrait, formats="tum, page", frames="2", max_points="50", min_confidence="0")
    status = server.done(answer.json()["id"])
    assert status["result"]["frames"] == 2
    assert status["result"]["points"] == 50
    assert status["result"]["files"] == {"tum": "trajectory.txt", "page": "scene.html"}
    assert any("crop mode cuts" in text for text in status["result"]["warnings"])
    whole = server.client.get(f"/v1/jobs/{status['id']}/result")
    with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
        assert archive.namelist() == ["scene.html", "trajectory.txt"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"formats": "ply,exe"}, "cannot export 'exe'"),
        ({"formats": ","}, "cannot export nothing"),
        ({"frames": "-1"}, "write a whole number"),
        ({"frames": "0"}, "ask for at least 1"),
        ({"points": "all"}, "choose one of: depth, pointmap"),
        ({"mode": "fill"}, "choose one of: crop, pad, "),
        ({"min_confidence": "nan"}, "it is a percentile"),
        ({"min_confidence": "x"}, "write a number"),
        ({"output": "/etc"}, "there is no option 'output'"),
    ],
)
def test_wrong_options(server: Running, fields: dict[str, str], reason: str) -> None:
    answer = server.submit(PAIR, **fields)
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]


def zipped(*entries: Sent, compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def test_a_zip_and_a_video_are_taken(server: Running, tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", 20, lamp=True)
    packed = zipped(("p/b2.png", picture(2)), ("p/b10.png", picture(3)), ("p/a.png", picture(1)), ("__MACOSX/x", b"x"))
    jobs = [
        server.submit([("photos.zip", packed)], formats="npz"),
        server.submit([("film.mp4", (tmp_path / "film.mp4").read_bytes())], formats="npz", frames="3"),
        server.submit([("film.mp4", (tmp_path / "film.mp4").read_bytes())], formats="npz"),
    ]
    assert jobs[0].json()["files"] == ["a.png", "b2.png", "b10.png"]
    assert [server.done(job.json()["id"])["result"]["frames"] for job in jobs] == [3, 3, 6]
    whole = server.client.get(f"/v1/jobs/{jobs[0].json()['id']}/result").content
    files = [("a.png", picture(1)), ("b2.png", picture(2)), ("b10.png", picture(3))]
    same(result(whole), direct(sane_model(), files, tmp_path / "direct"))


HOSTILE = {
    "a path": ([("../../etc/cron.d/x.png", picture(1))], 400, "leads out of the folder"),
    "an absolute path": ([("/etc/x.png", picture(1))], 400, "leads out of the folder"),
    "a zip's path": ([("a.zip", zipped(("../x.png", picture(1))))], 400, "leads out of the folder"),
    "a zip bomb": ([("a.zip", zipped(("x.png", bytes(2**21)), compression=8))], 413, "packed more than 100 times"),
    "a large zip": (
        [("a.zip", zipped(("x", picture(1)), ("y.bmp", b"ab" * 2**19 + os.urandom(20_000)), compression=8))],
        413,
        "unpacks to",
    ),
    "a zip in a zip": ([("a.zip", zipped(("b.zip", zipped(("a.png", b"x")))))], 415, "no picture of a known format"),
    "a torn zip": ([("a.zip", zipped(("a.png", picture(1)))[:-10])], 415, "the zip is damaged"),
    "a program": ([("a.png", b"\x7fELF" + bytes(99))], 415, "no picture of a known format"),
    "a playlist": ([("a.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")], 415, "no picture of a known format"),
    "one wrong among good ones": ([*PAIR, ("x.svg", b"<svg/>")], 415, "cannot read image x.svg"),
    "a torn video": ([("v.mp4", b"\0\0\0\x18ftypisom" + bytes(100))], 415, "cannot open v.mp4 as a video"),
    "many pixels": ([("a.jpg", picture(1, 700, 350, "JPEG"))], 413, "a.jpg is 700x350: more than 0.1 million pixels"),
    "a thin picture": ([("a.png", picture(1, 7, 700))], 400, "too long and thin"),
    "many files": ([(f"{i}.png", picture(i)) for i in range(9)], 400, "Too many files"),
    "many frames": ([(f"{i}.png", picture(i)) for i in range(7)], 413, "7 frames, 6 are allowed; ask for frames=6"),
    "nothing": ([("a.png", b"")], 415, "it is empty"),
    "much": ([("a.png", os.urandom(400_000))], 413, "more than 300,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_uploads_are_refused_with_their_reason(server: Running, what: str) -> None:
    files, status, reason = HOSTILE[what]
    answer = server.submit(files)
    assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text
    assert server.client.get("/ready").status_code == 200
    assert not [path for path in server.jobs.folder.glob("job-*") if not (path / "job.json").exists()]


def test_a_picture_that_only_decoding_shows_to_be_torn_fails_alone(server: Running) -> None:
    torn = server.submit([("torn.png", picture(1)[:-400]), PAIR[1]]).json()["id"]
    good = server.submit(PAIR, formats="tum").json()["id"]
    status = server.done(torn)
    assert status["state"] == "failed"
    assert status["reason"].startswith("cannot read image torn.png: ")
    assert server.client.get(f"/v1/jobs/{torn}/result").status_code == 409
    assert server.done(good)["state"] == "done"


def test_no_form_no_files_a_damaged_form_and_no_job(server: Running) -> None:
    client = server.client
    assert client.post("/v1/jobs", json={"files": []}).status_code == 415
    assert "no files" in client.post("/v1/jobs", files={"frames": (None, "2")}).json()["detail"]
    assert "send files as 'files'" in client.post("/v1/jobs", files={"photo": PAIR[0]}).json()["detail"]
    broken = client.post(
        "/v1/jobs", content=b"--x\r\nnonsense", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert broken.status_code == 400
    for job in ("0" * 32, "..%2f..%2fetc", "x"):
        assert client.get(f"/v1/jobs/{job}").status_code == 404
        assert client.delete(f"/v1/jobs/{job}").status_code == 404


def test_cancel_and_time_limit(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = server.jobs.child.starts
    running_, waiting = (server.submit([("slow.png", picture(1)), PAIR[0]]).json()["id"] for _ in range(2))
    until(lambda: server.client.get(f"/v1/jobs/{running_}").json()["state"] == "running")
    assert server.client.get(f"/v1/jobs/{waiting}").json()["position"] == 1
    assert server.client.delete(f"/v1/jobs/{waiting}").json()["state"] == "cancelled"
    assert server.client.delete(f"/v1/jobs/{running_}").json()["state"] == "cancelled"
    after = server.submit(PAIR, formats="tum").json()["id"]
    assert server.done(after)["state"] == "done"
    assert server.jobs.child.starts == starts  # the worker stopped by itself, and kept its model
    assert server.client.delete(f"/v1/jobs/{after}").status_code == 200
    assert server.client.get(f"/v1/jobs/{after}").status_code == 404
    monkeypatch.setattr(server.jobs, "limits", replace(LIMITS, job_seconds=0.3))
    late = server.done(server.submit([("slow.png", picture(1)), PAIR[0]]).json()["id"])
    assert late["reason"] == (
        "stopped: it took longer than the 0.3 seconds that there are for it; send fewer or smaller frames"
    )


def test_a_killed_worker_loses_no_job(server: Running, tmp_path: Path) -> None:
    files = [[("slow_once.png", picture(1)), PAIR[1]], PAIR, [PAIR[1], PAIR[0]]]
    jobs = [server.submit(each, formats="npz").json()["id"] for each in files]
    until(lambda: server.client.get(f"/v1/jobs/{jobs[0]}").json()["stage"] == "running")
    pid = server.jobs.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    ended = [server.done(job) for job in jobs]
    assert [(each["state"], each["attempts"]) for each in ended] == [("done", 2), ("done", 1), ("done", 1)]
    assert ended[0]["finished"] < ended[1]["finished"] < ended[2]["finished"]
    mine = sane_model()
    for index, (job, each) in enumerate(zip(jobs, files, strict=True)):
        whole = server.client.get(f"/v1/jobs/{job}/result").content
        same(result(whole), direct(mine, each, tmp_path / str(index)))
    assert "killed by SIGKILL" in server.client.get("/health").json()["reason"]


def test_100_at_once_nothing_lost_nothing_mixed_up(server: Running, tmp_path: Path) -> None:
    rng = random.Random(0)
    sent = [
        [
            (f"job{job}_{index}.png", picture(1000 * job + index, 70, rng.choice((42, 56, 70))))
            for index in range(rng.choice((2, 3)))
        ]
        for job in range(100)
    ]

    async def one(client: httpx.AsyncClient, files: list[Sent]) -> bytes:
        submitted = await client.post("/v1/jobs", files=as_form(files), data={"formats": "npz"})
        place = submitted.raise_for_status().headers["location"]
        while (await client.get(place)).json()["state"] != "done":
            await asyncio.sleep(0.3)
        return (await client.get(f"{place}/result")).raise_for_status().content

    async def all_of_them() -> list[bytes]:
        many = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.address, timeout=120, limits=many) as client:
            return await asyncio.gather(*(one(client, files) for files in sent))

    found = asyncio.run(all_of_them())
    mine = sane_model()
    for index, (files, data) in enumerate(zip(sent, found, strict=True)):
        same(result(data), direct(mine, files, tmp_path / str(index)))


def test_slow_bodies_and_heads_are_ended_while_others_are_served(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantvggt.serve.server._HEADER_SECONDS", 0.5)
    patient = Limits(idle_seconds=0.4, body_seconds=1.2)
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 5000\r\n\r\n--x\r\n"
    )
    with running(None, patient, setup=lists_files) as slow:
        connections = [socket.create_connection(("127.0.0.1", slow.port), 20) for _ in range(3)]
        silent, dripping, half_a_head = connections
        silent.sendall(head)
        dripping.sendall(head)
        half_a_head.sendall(b"GET /health HT")
        for _ in range(10):
            if not _sends(dripping):
                break
            assert slow.client.get("/health").status_code == 200
            time.sleep(0.2)
        assert b"408" in silent.recv(100)
        assert b"408" in dripping.recv(100)
        assert half_a_head.recv(100) == b""
        assert slow.done(slow.submit(PAIR, formats="tum").json()["id"])["state"] == "done"
        for each in connections:
            each.close()


def _sends(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except OSError:
        return False
    return True


def test_a_full_queue_expiry_key_and_metrics() -> None:
    tight = Limits(queue=1, keep_seconds=1.5)
    with running(None, tight, KEY, setup=lists_files) as server:
        stranger = httpx.Client(base_url=server.address, timeout=60)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            assert stranger.post("/v1/jobs", files=as_form(PAIR), headers=headers).status_code == 401
            for place in ("/v1/jobs/x", "/v1/jobs/x/result", "/metrics"):
                assert stranger.get(place, headers=headers).status_code == 401
            assert stranger.delete("/v1/jobs/x", headers=headers).status_code == 401
        assert stranger.get("/health").json()["worker"] == "ready"
        slow = server.submit([("slow.png", picture(1)), PAIR[0]]).json()["id"]
        until(lambda: server.client.get(f"/v1/jobs/{slow}").json()["state"] == "running")
        waiting = server.submit(PAIR, formats="tum").json()["id"]
        full = server.submit(PAIR)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert full.json()["detail"] == "1 jobs wait already; try again later"
        server.client.delete(f"/v1/jobs/{slow}")
        assert server.done(waiting)["state"] == "done"
        told = server.client.get("/metrics").text
        for line in (
            "quantvggt_jobs_accepted_total 2.0",
            'quantvggt_jobs_ended_total{state="done"} 1.0',
            'quantvggt_jobs_ended_total{state="cancelled"} 1.0',
            'quantvggt_requests_refused_total{status="429"} 1.0',
            "quantvggt_job_running_seconds_count 1.0",
            "quantvggt_queue_jobs 0.0",
            "quantvggt_worker_ready 1.0",
        ):
            assert line in told.splitlines()
        until(lambda: server.client.get(f"/v1/jobs/{waiting}").status_code == 404)
        gone = server.client.get(f"/v1/jobs/{waiting}/result")
        assert gone.json()["detail"] == "no such job; jobs are kept for 1.5 seconds after their end"


def test_without_a_key_pages_of_elsewhere_are_refused(server: Running) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert server.client.post("/v1/jobs", files=as_form(PAIR), headers=headers).status_code == 403
        assert server.client.get("/metrics", headers=headers).status_code == 403
    assert server.client.get("/metrics", headers={"Origin": server.address}).status_code == 200


def test_the_interface_describes_itself(server: Running) -> None:
    described = server.client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/result", "/health", "/ready", "/metrics"
    }  # fmt: skip
    form = described["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"files", "formats", "frames", "points", "mode", "min_confidence", "max_points"}
    assert "swagger" in server.client.get("/docs").text
