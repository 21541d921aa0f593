"""Uploads that are too large, or that the disk has no room for, refused before their first byte is read."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from quantvggt.serve.limits import MEBI, Limits
from quantvggt.serve.uploads import NoRoom, check_room

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_AROUND = MEBI  # of a request, what isn't the file itself


class RoomCheck:
    """ASGI middleware; folder: where uploads are kept."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], folder: Path, limits: Limits) -> None:
        self._app, self._folder, self._limits = app, folder, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, reason = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reason.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "say how long the upload is (Content-Length)"
        if int(length) > self._limits.request_bytes + _AROUND:
            return 413, f"{int(length):,} bytes, {self._limits.request_bytes:,} are allowed; send less at once"
        try:
            check_room(self._folder, int(length), self._limits)
        except NoRoom as error:
            return 507, str(error)
        return None
