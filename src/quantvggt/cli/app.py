"""quantvggt app"""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantvggt.cli.common import MODEL_HELP, add_device_options, device_of, dtype_of, say

if TYPE_CHECKING:
    import socket

    from quantvggt.serve.limits import Limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        help=f"on offer, may be repeated: {MODEL_HELP} (default: vggt-nano, in full precision, w8a8 and w4a4)",
    )
    parser.add_argument("--reference", metavar="MODEL", help="the float model that quantized ones are compared with")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="the next free port from here on (default %(default)s)")
    parser.add_argument(
        "--login",
        metavar="FILE",
        help="who may use it: USER:PASSWORD, one a line (or QUANTVGGT_LOGIN; without either, whoever reaches it)",
    )
    parser.add_argument("--max-files", type=int, metavar="N", help="pictures of one job (default 256)")
    parser.add_argument("--max-megabytes", type=float, metavar="MB", help="of one job's files (default 537)")
    parser.add_argument("--max-megapixels", type=float, metavar="MP", help="of one picture (default 67)")
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="of one job (default: 8 to 64, by this machine's memory)"
    )
    parser.add_argument("--job-seconds", type=float, metavar="SECONDS", help="that one model may take (default 900)")
    parser.add_argument("--queue", type=int, metavar="N", help="jobs that may wait (default 32)")
    parser.add_argument("--keep", type=float, metavar="SECONDS", help="that scenes are kept (default 3600)")
    parser.add_argument("--no-open", action="store_true", help="don't open a browser")
    add_device_options(parser, dtype="auto")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Until Ctrl-C."""
    import webbrowser

    from quantvggt.core.ports import listen, port_of, web_address
    from quantvggt.serve.app import create_app, require_gradio
    from quantvggt.serve.app_choice import check_reference
    from quantvggt.serve.app_login import read_login
    from quantvggt.serve.app_studio import Studio

    require_gradio()
    models = list(dict.fromkeys(args.model or ["vggt-nano"]))
    limits, logins = _limits(args), read_login(args.login)
    if args.reference:
        check_reference(args.reference)
    with (
        listen(args.host, args.port) as listener,
        Studio(limits, device_of(args), dtype_of(args), args.reference) as studio,
    ):
        address = web_address(args.host, port_of(listener))
        app = create_app(studio, models, logins)
        say(f"{', '.join(models)} at {address} (Ctrl-C ends it)")
        if not logins and args.host not in ("127.0.0.1", "::1", "localhost"):
            say("whoever reaches this address may use it; --login FILE asks for a name and a password")
        if not args.no_open:
            webbrowser.open(address)  # its request waits until the server has started
        _serve(app, listener)
        return {"address": address, "models": models}


def _limits(args: argparse.Namespace) -> "Limits":
    from quantvggt.serve.limits import Limits, frames_that_fit

    given = {
        "files": args.max_files,
        "request_bytes": None if args.max_megabytes is None else int(args.max_megabytes * 1e6),
        "picture_pixels": None if args.max_megapixels is None else int(args.max_megapixels * 1e6),
        "frames": frames_that_fit() if args.max_frames is None else args.max_frames,
        "job_seconds": args.job_seconds,
        "queue": args.queue,
        "keep_seconds": args.keep,
    }
    return replace(Limits(), **{name: value for name, value in given.items() if value is not None})


def _serve(app: Any, listener: "socket.socket") -> None:
    import contextlib
    import signal
    import sys

    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
    for number in (signal.SIGINT, signal.SIGTERM):  # which stop the server in good order, and come once more afterwards
        signal.signal(number, lambda *_: None)
    with contextlib.redirect_stdout(sys.stderr):
        server.run(sockets=[listener])
