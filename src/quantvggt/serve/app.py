"""The app as one ASGI application (Gradio, extra `app`): its page, and the scenes that it has made."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from quantvggt.core.errors import InputError
from quantvggt.serve.app_choice import precisions
from quantvggt.serve.app_room import RoomCheck
from quantvggt.serve.app_studio import Studio

if TYPE_CHECKING:
    import fastapi

PORT = 7860
"""The first that is tried."""
SCENES = "/scenes"


def require_gradio() -> None:
    """Raises InputError unless gradio is installed."""
    if find_spec("gradio") is None:
        raise InputError("the app needs gradio; pip install 'quantvggt[app]'")


def create_app(studio: Studio, models: Sequence[str], logins: Sequence[tuple[str, str]] = ()) -> "fastapi.FastAPI":
    """models: those on offer, the first by default. logins: names and passwords; none: anybody may use it.

    Nothing is told to anybody else: no telemetry, no fonts from elsewhere. Gradio's own files lie in the studio's
    folder. Raises InputError if gradio isn't installed or there is no such model.
    """
    require_gradio()
    offered = {model: precisions(model) for model in models}
    os.environ["GRADIO_TEMP_DIR"] = str(studio.folder / "gradio")  # before the import, which reads it
    import fastapi
    import gradio as gr

    from quantvggt.serve.app_page import CSS, make_page

    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(RoomCheck, folder=studio.folder, limits=studio.limits)

    @app.get(SCENES + "/{token}/{which}")
    def scene(token: str, which: str) -> fastapi.Response:
        path = studio.page(token, which)
        if path is None:
            return fastapi.Response("This scene isn't kept any more.", 404)
        # As if from another site: what is on the page comes from a stranger's files.
        headers = {"Content-Security-Policy": "sandbox allow-scripts", "Cache-Control": "private, no-store"}
        return fastapi.responses.FileResponse(path, media_type="text/html", headers=headers)

    return gr.mount_gradio_app(
        app,
        make_page(studio, offered, SCENES),
        path="/",
        auth=list(logins) or None,
        max_file_size=studio.limits.request_bytes,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )
