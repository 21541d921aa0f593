"""Reconstruction over HTTP: submit, status, result, cancel; health and metrics. docs/serve.md describes it."""

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from quantvggt import __version__
from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.reconstruction.predict import NEEDED_HEADS
from quantvggt.scenes.preprocess import MODES
from quantvggt.serve.body import CLOSE, FILES_FIELD, drain, receive_files
from quantvggt.serve.child import Broken, Child, Refused
from quantvggt.serve.metrics import Metrics
from quantvggt.serve.options import FILES, Options, read_options
from quantvggt.serve.queue import DONE, Job, Jobs, QueueFull
from quantvggt.serve.results import Packed, remove
from quantvggt.serve.uploads import NoRoom, TooLarge, WrongType
from quantvggt.serve.worker import upload_task

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STATUS = {TooLarge.__name__: 413, WrongType.__name__: 415, NoRoom.__name__: 507}  # of an InputError; else 400
_HEADER_SECONDS = 20.0
_MOST_CONNECTIONS = 512
_STOP_SECONDS = 10
DESCRIPTION = """\
Photos or a video to cameras, depth and points. Send a job, ask for its status until it is done, fetch its result.
"""
FORM = {
    "type": "object",
    "required": [FILES_FIELD],
    "properties": {
        FILES_FIELD: {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "pictures, in the order in which they count; or one video; or one zip of either",
        },
        "formats": {"type": "string", "description": f"by commas, of: {', '.join(FILES)} (default: all)"},
        "frames": {
            "type": "integer",
            "description": "so many, spread evenly (default: all pictures, 16 frames of a video)",
        },
        "points": {"type": "string", "enum": list(NEEDED_HEADS), "default": Options.points},
        "mode": {"type": "string", "enum": list(MODES), "description": "default: as the model's family has it"},
        "min_confidence": {"type": "number", "default": Options.min_confidence},
        "max_points": {"type": "integer"},
    },
}


class Status(BaseModel):
    """A job. Times are in seconds since 1970; what isn't known yet is null.

    state: queued, running, done, failed or cancelled. position: jobs before it in the queue. stage: reading, running
    or writing; progress: 0 to 1, roughly. reason: why it failed. expires: when it will be removed. result: frames,
    left_out, height, width, points, warnings and files (format to name in the zip).
    """

    id: str
    state: str
    position: int | None
    stage: str | None
    progress: float
    attempts: int
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    reason: str | None
    files: list[str]
    options: dict[str, Any]
    result: dict[str, Any] | None


class Health(BaseModel):
    """worker: stopped, starting, ready, busy, or waiting to be started again; reason: why it last ended; queue: jobs
    that wait."""

    status: str
    model: str
    worker: str
    worker_starts: int
    reason: str
    queue: int


def create_app(jobs: Jobs, uploads: Child, metrics: Metrics, key: str | None) -> FastAPI:
    """The application. jobs: what it fills and shows; uploads: a child with `worker.open_uploads`; metrics: what `jobs`
    tells too; key: the one that clients must send, None for a server on loopback that asks for none."""
    limits = jobs.limits

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        yield
        await run_in_threadpool(uploads.close)
        await run_in_threadpool(jobs.close)

    app = FastAPI(title="quantvggt", version=__version__, description=DESCRIPTION, redoc_url=None, lifespan=lifespan)
    bearer = HTTPBearer(auto_error=False, description="the key that the server was started with")

    def authorized(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if key is not None:
            if given is None or not hmac.compare_digest(given.credentials.encode(), key.encode()):
                raise HTTPException(401, "send the API key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        elif not _is_local(request):
            raise HTTPException(
                403, "a server without an API key answers no pages of other sites, and to no other name"
            )

    guarded = [Depends(authorized)]

    def found(job_id: str) -> Job:
        job = jobs.get(job_id)
        if job is None:
            raise HTTPException(404, f"no such job; jobs are kept for {limits.keep_seconds:g} seconds after their end")
        return job

    Found = Annotated[Job, Depends(found)]

    def status_of(job: Job) -> Status:
        expires = None if job.finished is None else job.finished + limits.keep_seconds
        shown = {name: getattr(job, name) for name in Status.model_fields if hasattr(job, name)}
        return Status(**shown, position=jobs.position(job), expires=expires)

    @app.exception_handler(StarletteHTTPException)
    async def refuse(request: Request, error: StarletteHTTPException) -> Response:
        metrics.refused.labels(error.status_code).inc()
        headers = dict(error.headers or {})
        if request.method == "POST":
            await drain(request)
            headers.update(CLOSE)
        return JSONResponse({"detail": error.detail}, error.status_code, headers)

    @app.exception_handler(InputError)
    async def mistake(request: Request, error: InputError) -> Response:
        return await refuse(request, HTTPException(_STATUS.get(type(error).__name__, 400), str(error)))

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> Response:
        return await refuse(request, HTTPException(429, str(error), {"Retry-After": str(jobs.retry_after())}))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.post(
        "/v1/jobs",
        status_code=202,
        dependencies=guarded,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
    )
    async def submit(request: Request, response: Response) -> Status:
        """Send pictures, a video, or a zip of either; the answer is the job's status, with its id."""
        jobs.check_free()
        name, folder = jobs.reserve()
        accepted = False
        try:
            names, fields = await receive_files(request, folder, limits)
            options = read_options(fields)
            seen = await run_in_threadpool(look_at, folder.parent, names)
            frames = options.fitted(len(seen["files"]), seen["video"], limits)
            job = jobs.accept(
                name, seen["files"], {**vars(options), "formats": list(options.formats), "frames": frames}
            )
            accepted = True
        finally:
            if not accepted:
                await run_in_threadpool(remove, folder.parent)
        metrics.accepted.inc()
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return status_of(job)

    def look_at(folder: Path, names: list[str]) -> dict[str, Any]:
        try:
            seen: dict[str, Any] = uploads.call(upload_task(folder, names, limits), limits.check_seconds)
            return seen
        except Refused as error:
            raise HTTPException(_STATUS.get(error.kind, 400), str(error)) from error
        except Broken as error:
            raise HTTPException(503, f"nothing can be looked at now: {error}; try again later") from error
        except QuantVGGTError as error:
            raise HTTPException(400, f"these files can't be looked at: {error}; send pictures or a video") from error

    @app.get("/v1/jobs/{job_id}", dependencies=guarded)
    def status(job: Found) -> Status:
        """Where a job is."""
        return status_of(job)

    @app.delete("/v1/jobs/{job_id}", dependencies=guarded)
    def cancel(job: Found) -> Status:
        """Stop a job that waits or runs; remove one that has ended, with its result."""
        shown = status_of(job)
        jobs.cancel(job)
        return status_of(job) if jobs.get(job.id) else shown

    @app.get(
        "/v1/jobs/{job_id}/result",
        dependencies=guarded,
        response_class=Response,
        responses={200: {"content": {"application/zip": {}, "application/octet-stream": {}}}},
    )
    def result(
        job: Found, format: Annotated[str | None, Query(description="one format alone, a file or a zip")] = None
    ) -> Response:
        """What a job that is done has made: a zip of all formats, or one of them."""
        if job.state != DONE or job.result is None:
            raise HTTPException(409, f"the job is {job.state}{f': {job.reason}' if job.reason else ''}")
        path = jobs.result_of(job)
        try:
            if format is None:
                return FileResponse(path, media_type="application/zip", filename=f"{job.id}.zip")
            if format not in job.result["files"]:
                raise HTTPException(404, f"the job has no {format[:20]!r}; it has: {', '.join(job.result['files'])}")
            name, packed = job.result["files"][format], Packed(path)
        except OSError:
            raise HTTPException(404, "the result is gone") from None
        if packed.is_file(name):
            headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
            return StreamingResponse(packed.file(name), media_type="application/octet-stream", headers=headers)
        headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
        return StreamingResponse(packed.folder(name), media_type="application/zip", headers=headers)

    @app.get("/health")
    def health() -> Health:
        """Whether the server answers, and how its worker is."""
        child = jobs.child
        return Health(
            status="ok",
            model=jobs.model,
            worker=child.state,
            worker_starts=child.starts,
            reason=child.reason,
            queue=jobs.waiting(),
        )

    @app.get("/ready", responses={503: {"model": Health}})
    def ready(response: Response) -> Health:
        """200 if the worker has its model, else 503."""
        if jobs.child.state not in ("ready", "busy"):
            response.status_code = 503
        return health()

    @app.get("/metrics", dependencies=guarded, response_class=Response)
    def tell() -> Response:
        """For Prometheus."""
        return Response(metrics.text(jobs.waiting(), jobs.child), media_type=CONTENT_TYPE_LATEST)

    return app


def _is_local(request: Request) -> bool:
    """Whether neither a page of elsewhere sent this, nor a name of elsewhere was made to lead here."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin", "")
    return urlsplit(f"//{host}").hostname in LOOPBACK and origin.partition("://")[2] in ("", host)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0 takes any that is free. Raises InputError if that one is taken."""
    try:
        found = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256
        )
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host} port {port}: {error}; choose others") from error
    return found


def make_server(app: FastAPI) -> uvicorn.Server:
    """Runs the application on sockets; connections that say nothing, or slowly, are closed."""
    config = uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        log_level="warning",
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return uvicorn.Server(config)


class _Impatient(H11Protocol):
    """Closes a connection whose next request's head doesn't come; uvicorn itself would wait for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look(self)

    def _look(self, behind: object) -> None:
        """behind: the cycle, a request and its answer, behind which the next head was waited for at the last look; the
        connection itself if it wasn't."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.cycle is behind:
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(_HEADER_SECONDS, self._look, self.cycle if waits else self)
