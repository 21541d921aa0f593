"""A server on loopback, in a thread of the test's process, and a client of it."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from quantvggt.serve.child import Child, Work
from quantvggt.serve.limits import Limits
from quantvggt.serve.metrics import Metrics
from quantvggt.serve.queue import Jobs
from quantvggt.serve.server import create_app, listen, make_server
from quantvggt.serve.worker import open_uploads

Sent = tuple[str, bytes]


@dataclass
class Running:
    address: str
    jobs: Jobs
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def submit(self, files: list[Sent], **fields: str) -> httpx.Response:
        return self.client.post("/v1/jobs", files=as_form(files), data=fields)

    def done(self, job: str) -> dict[str, Any]:
        """Its status when it has ended."""
        return until(lambda: _ended(self.client.get(f"/v1/jobs/{job}").raise_for_status().json()))


def _ended(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["state"] in ("done", "failed", "cancelled") and status["finished"] else None


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return found


@contextmanager
def running(
    folder: Path | None, limits: Limits, key: str | None = None, *, setup: Callable[[], Work]
) -> Iterator[Running]:
    """setup: of the worker, see `Child`."""
    metrics = Metrics()
    jobs = Jobs(folder, Child(setup, patience=0.1), "tiny", limits, metrics.ended)
    listener = listen("127.0.0.1", 0)
    server = make_server(create_app(jobs, Child(open_uploads, 2**31, patience=0.1), metrics, key))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
        try:
            until(lambda: client.get("/ready").status_code == 200)
            yield Running(address, jobs, client)
        finally:
            server.should_exit = True
            thread.join()


def as_form(files: list[Sent]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", file) for file in files]


def picture(seed: int, width: int = 70, height: int = 56, kind: str = "PNG") -> bytes:
    """A file with a picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 7, width // 7, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()
