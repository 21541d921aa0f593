"""A request's body from the network to files: no larger and no slower than allowed."""

import asyncio
import tempfile
import time
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from quantvggt.core.errors import InputError
from quantvggt.serve.limits import MEBI, Limits
from quantvggt.serve.uploads import check_room, distinct, safe_name

FILES_FIELD = "files"
_MOST_FIELDS, _MOST_FIELD_BYTES = 16, 10_000
_DRAINED_SECONDS, _DRAINED_BYTES = 2.0, 8 * MEBI
_READ = "body_read"  # of a request's state: nothing is left to read
CLOSE = {"Connection": "close"}


async def receive_files(request: Request, folder: Path, limits: Limits) -> tuple[list[str], dict[str, str]]:
    """Write the files of a multipart form into a folder: their names there, in order, and the form's other fields.

    Raises HTTPException: 408 too slow, 413 too large, 415 no multipart form, 400 damaged or too many files; InputError
    for names and a full disk.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, f"send multipart/form-data with the pictures as '{FILES_FIELD}'", CLOSE)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.request_bytes:
        raise _too_large(limits)
    bounded = Request(request.scope, _Bounded(request, folder, limits))
    async with bounded.form(max_files=limits.files, max_fields=_MOST_FIELDS, max_part_size=_MOST_FIELD_BYTES) as form:
        files = [value for key, value in form.multi_items() if isinstance(value, UploadFile) and key == FILES_FIELD]
        fields = {key: value for key, value in form.multi_items() if isinstance(value, str)}
        strange = [key for key, value in form.multi_items() if isinstance(value, UploadFile) and key != FILES_FIELD]
        if strange:
            raise InputError(f"a file came as {strange[0][:80]!r}; send files as '{FILES_FIELD}'")
        names = distinct([safe_name(file.filename or "") for file in files])
        for file, name in zip(files, names, strict=True):
            await run_in_threadpool(_write, file, folder / name, limits)
    return names, fields


async def drain(request: Request) -> None:
    """Read on for a moment what is refused, so that its sender, who still writes, gets to read the answer."""
    read, deadline = 0, time.monotonic() + _DRAINED_SECONDS
    while (
        not getattr(request.state, _READ, False) and read < _DRAINED_BYTES and (left := deadline - time.monotonic()) > 0
    ):
        try:
            message = await asyncio.wait_for(request.receive(), left)
        except asyncio.TimeoutError:
            return
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


class _Bounded:
    """A request's `receive`, which raises HTTPException when the body gets too large or is too slow."""

    def __init__(self, request: Request, folder: Path, limits: Limits) -> None:
        self._request, self._folder, self._limits = request, folder, limits
        self._deadline = time.monotonic() + limits.body_seconds
        self._bytes = 0

    async def __call__(self) -> Message:
        limits = self._limits
        left = min(limits.idle_seconds, self._deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._request.receive(), max(0.0, left))
        except asyncio.TimeoutError:
            raise HTTPException(
                408,
                f"the body came too slowly: {limits.idle_seconds:g} seconds without a byte, or {limits.body_seconds:g} "
                "for all of it",
                CLOSE,
            ) from None
        setattr(self._request.state, _READ, not message.get("more_body", False))
        self._bytes += len(message.get("body", b""))
        if self._bytes > limits.request_bytes:
            raise _too_large(limits)
        for place in (self._folder, Path(tempfile.gettempdir())):  # where the form's files are written first
            check_room(place, 0, limits)
        return message


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the request has more than {limits.request_bytes:,} bytes; send less at once", CLOSE)


def _write(file: UploadFile, path: Path, limits: Limits) -> None:
    check_room(path.parent, file.size or 0, limits)
    file.file.seek(0)
    with open(path, "xb") as target:
        while piece := file.file.read(MEBI):
            target.write(piece)
