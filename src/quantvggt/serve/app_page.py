"""What a visitor of the app sees: drop photos or a video, look at the scene, take it home. Imports Gradio."""

import html
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from quantvggt.core.errors import QuantVGGTError
from quantvggt.serve.app_choice import Choice
from quantvggt.serve.app_studio import DOWNLOADS, PAGES, Made, Studio
from quantvggt.serve.child import Unwanted
from quantvggt.serve.limits import MEBI, Limits

CSS = """
.scenes { display: flex; gap: 8px; height: 600px; }
.scenes figure { flex: 1; min-width: 0; margin: 0; display: flex; flex-direction: column; }
.scenes iframe { flex: 1; border: 1px solid var(--border-color-primary); border-radius: 8px; }
"""
_FRAMES = 16
_KINDS = ["image", "video", ".zip", ".heic", ".heif", ".avif"]
_LABELS = {"colmap": "COLMAP (zip)", "ply": "Points (PLY)", "glb": "Scene (GLB)"}


def make_page(studio: Studio, offered: dict[str, list[str]], scenes: str) -> gr.Blocks:
    """offered: models and their precisions. scenes: the path below which the studio's pages are served."""
    limits, stops = studio.limits, _Stops()
    model, most = next(iter(offered)), min(studio.limits.frames, studio.limits.files)
    with gr.Blocks(analytics_enabled=False, title="quantvggt", delete_cache=(60, int(limits.keep_seconds) + 1)) as page:
        gr.Markdown("## Photos or a video to a 3D scene")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                files = gr.File(label="Photos, a video, or a zip", file_count="multiple", file_types=_KINDS, height=160)
                models = gr.Dropdown(list(offered), value=model, label="Model")
                precision = gr.Dropdown(offered[model], value=offered[model][0], label="Precision")
                frames = gr.Slider(1, most, min(_FRAMES, most), step=1, label="Frames at most")
                compared = gr.Checkbox(False, label="Compare with full precision")
                with gr.Row():
                    run, stop = gr.Button("Reconstruct", variant="primary"), gr.Button("Stop")
            with gr.Column(scale=4):
                said = gr.Markdown(limits_text(limits))
                shown = gr.HTML(min_height=120)
                with gr.Row():
                    buttons = [gr.DownloadButton(_LABELS[name], interactive=False) for name in DOWNLOADS]
                heat = gr.Gallery(label="Distance from full precision", visible=False, columns=4, height=260)

        def reconstruct(
            files: list[str] | None,
            model: str,
            precision: str,
            frames: float,
            compared: bool,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
        ) -> list[Any]:
            stopped = stops.begin(request.session_hash)
            try:
                made = studio.reconstruct(
                    [Path(file) for file in files or []],
                    Choice(model, precision),
                    int(frames),
                    compared,
                    lambda: not stopped.is_set(),
                    lambda stage, share: progress(share, desc=stage),
                )
            except Unwanted:
                raise gr.Error("Stopped.", duration=5, print_exception=False) from None
            except QuantVGGTError as error:
                raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error
            pictures = [] if made.comparison is None else made.comparison.heat
            downloads = [gr.DownloadButton(value=str(made.files[name]), interactive=True) for name in DOWNLOADS]
            return [
                made_text(made),
                frames_html(made, scenes),
                *downloads,
                gr.Gallery(pictures, visible=bool(pictures)),
            ]

        def end(request: gr.Request) -> None:
            stops.stop(request.session_hash)

        def choose(model: str) -> gr.Dropdown:
            return gr.Dropdown(offered[model], value=offered[model][0])

        private: dict[str, Any] = {"api_visibility": "private"}
        inputs = [files, models, precision, frames, compared]
        outputs = [said, shown, *buttons, heat]
        run.click(reconstruct, inputs, outputs, concurrency_limit=1, show_progress_on=[shown], **private)
        stop.click(end, queue=False, **private)
        models.change(choose, [models], [precision], queue=False, **private)
        page.unload(end)
    page.queue(max_size=limits.queue, api_open=False, default_concurrency_limit=1)
    return page


def limits_text(limits: Limits) -> str:
    """What may be sent, in Markdown."""
    return (
        f"Up to {limits.files} pictures or one video, {limits.request_bytes // MEBI} MiB, "
        f"{limits.picture_pixels / 1e6:.0f} megapixels each; {limits.frames} frames are reconstructed. What you send "
        f"is deleted when it is done, scenes are kept for {limits.keep_seconds / 60:.0f} minutes."
    )


def made_text(made: Made) -> str:
    """What came out, in Markdown; what files are called is code there, whatever it holds."""
    facts = made.facts
    lines = [
        f"**{facts['frames']} frames** of {facts['width']}x{facts['height']}, **{facts['points']:,} points**, in "
        f"{made.seconds:.1f} s"
    ]
    if facts["left_out"]:
        lines.append(f"Left out: {_code(', '.join(facts['left_out']))}")
    lines += [_code(warning) for warning in facts["warnings"]]
    if made.incomparable:
        lines.append(_code(made.incomparable))
    if (comparison := made.comparison) is not None:
        turn = "" if comparison.rotation_deg is None else f"cameras turned by {comparison.rotation_deg:.2g} degrees, "
        lines.append(
            f"Full precision took {comparison.seconds:.1f} s. Medians of what differs from it: points "
            f"{comparison.points:.2%} of the mean viewing distance, {turn}depth {comparison.depth:.2%}. Below, from "
            f"dark (0) to bright ({comparison.top:.4g} of that distance and beyond); grey: no point."
        )
    return "\n\n".join(lines)


def frames_html(made: Made, scenes: str) -> str:
    """The scene in a frame, full precision's beside it if there is one."""
    which = ["scene", *(["reference"] if made.comparison is not None else [])]
    titles = dict(zip(PAGES, ("As chosen", "Full precision"), strict=True))
    panes = "".join(
        f'<figure><figcaption>{titles[one] if len(which) > 1 else ""}</figcaption><iframe sandbox="allow-scripts" '
        f'title="{titles[one]}" src="{scenes}/{made.token}/{one}"></iframe></figure>'
        for one in which
    )
    return f'<div class="scenes">{panes}</div>'


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ')}`"


class _Stops:
    """A wish to stop for each visitor's latest job."""

    def __init__(self) -> None:
        self._events: dict[str | None, threading.Event] = {}

    def begin(self, visitor: str | None) -> threading.Event:
        self._events[visitor] = threading.Event()
        return self._events[visitor]

    def stop(self, visitor: str | None) -> None:
        if (event := self._events.pop(visitor, None)) is not None:
            event.set()
