"""The page that shows two scenes side by side: a window for each scene's own server."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from quantvggt.viewer.html import render


@contextmanager
def serve_pair(host: str, port: int, titles: Sequence[str], ports: Sequence[int]) -> Iterator[None]:
    """Answer every request on host:port with the page of the scenes that are served on `ports` there."""
    page = render(Path(__file__).with_name("pair.html"), panes=list(zip(titles, ports, strict=True))).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Nobody asked for a log of requests."""

    server = ThreadingHTTPServer((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
