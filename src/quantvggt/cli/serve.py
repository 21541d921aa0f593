"""quantvggt serve"""

import argparse
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from quantvggt.cli.common import (
    MODEL_HELP,
    add_attention_bits_option,
    add_device_options,
    device_of,
    dtype_of,
    parse_bytes,
    say,
)
from quantvggt.core.errors import InputError

KEY_VARIABLE = "QUANTVGGT_API_KEY"
_SHORTEST_KEY = 16
_UPLOADS_BYTES = 2**31  # of memory for the process that looks at uploads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=f"address to listen on; any but this machine's own (the default) needs an API key in {KEY_VARIABLE} or "
        "--api-key-file",
    )
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free (default %(default)s)")
    parser.add_argument(
        "--api-key-file", metavar="FILE", help=f"a file with the key that clients send (or {KEY_VARIABLE})"
    )
    parser.add_argument(
        "--folder",
        help="where jobs are kept, so that a restart goes on with them (default: a temporary one, for this run)",
    )
    parser.add_argument("--queue", type=int, metavar="N", help="jobs that may wait (default 32)")
    parser.add_argument("--keep", type=float, metavar="SECONDS", help="that results are kept (default 3600)")
    parser.add_argument("--job-seconds", type=float, metavar="SECONDS", help="that one job may take (default 900)")
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="of one job (default: 8 to 64, by this machine's memory)"
    )
    parser.add_argument("--max-files", type=int, metavar="N", help="pictures of one job (default 256)")
    parser.add_argument("--max-request", metavar="SIZE", help="of one request, also unpacked (default 512MiB)")
    parser.add_argument("--max-pixels", type=float, metavar="MILLIONS", help="of one picture (default 67)")
    parser.add_argument(
        "--worker-memory", metavar="SIZE", help="that the worker's data may take, on Linux (default: any)"
    )
    add_attention_bits_option(parser)
    add_device_options(parser, dtype="auto")


def run(args: argparse.Namespace) -> dict[str, Any]:
    try:
        from quantvggt.serve import server
    except ImportError as error:
        raise InputError(f"serving needs more than is installed ({error}): pip install 'quantvggt[serve]'") from error
    from quantvggt.checkpoint.load import outline
    from quantvggt.serve.child import Child
    from quantvggt.serve.metrics import Metrics
    from quantvggt.serve.queue import Jobs
    from quantvggt.serve.worker import open_model, open_uploads

    limits, key = _limits(args), _key(args.api_key_file)
    if key is None and args.host not in server.LOOPBACK:
        raise InputError(f"--host {args.host} lets others in: put an API key into {KEY_VARIABLE} or --api-key-file")
    outline(args.model).attention_bits = args.attention_bits  # what is wrong with it is said now
    listener = server.listen(args.host, args.port)
    metrics = Metrics()
    opening = partial(open_model, args.model, device_of(args), dtype_of(args), args.attention_bits)
    worker = Child(opening, limits.worker_bytes)
    jobs = Jobs(None if args.folder is None else Path(args.folder), worker, args.model, limits, metrics.ended)
    uploads = Child(open_uploads, _UPLOADS_BYTES, patience=1)
    app = server.create_app(jobs, uploads, metrics, key)
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    say(f"serving {args.model} at {address} (what it takes: {address}/docs); jobs are kept in {jobs.folder}")
    for number in (signal.SIGINT, signal.SIGTERM):  # which stop the server in good order, and come once more afterwards
        signal.signal(number, lambda *_: None)
    server.make_server(app).run(sockets=[listener])
    return {"address": address, "model": args.model, "folder": None if args.folder is None else str(jobs.folder)}


def _limits(args: argparse.Namespace) -> Any:
    from quantvggt.serve.limits import Limits, frames_that_fit

    given = {
        "queue": args.queue,
        "keep_seconds": args.keep,
        "job_seconds": args.job_seconds,
        "frames": frames_that_fit() if args.max_frames is None else args.max_frames,
        "files": args.max_files,
        "request_bytes": None if args.max_request is None else parse_bytes("--max-request", args.max_request),
        "picture_pixels": None if args.max_pixels is None else int(args.max_pixels * 1e6),
        "worker_bytes": None if args.worker_memory is None else parse_bytes("--worker-memory", args.worker_memory),
    }
    return replace(Limits(), **{name: value for name, value in given.items() if value is not None})


def _key(file: str | None) -> str | None:
    """The API key, None for none. It is never an argument, which others on this machine could read."""
    if file is None:
        key = os.environ.get(KEY_VARIABLE)
        place = KEY_VARIABLE
    else:
        place = file
        try:
            key = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read --api-key-file {file}: {getattr(error, 'strerror', error)}") from error
    if key is not None and not (len(key) >= _SHORTEST_KEY and key.isascii() and key.isprintable() and " " not in key):
        raise InputError(
            f"the API key in {place} isn't {_SHORTEST_KEY} or more letters and digits: openssl rand -hex 32"
        )
    return key
