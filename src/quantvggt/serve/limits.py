"""What a stranger may send and ask for, in one value."""

from dataclasses import dataclass, fields

from quantvggt.core.errors import InputError

MEBI, GIBI = 2**20, 2**30
_FRAMES_PER_GIBI = 4  # VGGT-1B at 4 bits takes 2 GB with 20 frames of 518x392; other models and pictures take more


@dataclass(frozen=True)
class Limits:
    """Every bound that is put on others.

    request_bytes: of one request, and of what is unpacked from it; files: pictures of one job; picture_pixels, pixels:
    of one picture or video frame, and of all of a job, as their headers say; frames: that one job reconstructs.
    idle_seconds: without a byte of a request's body; body_seconds: for all of it; check_seconds: to look at what came.
    job_seconds: for one job; attempts: how often a job is begun whose worker dies of it; queue: jobs that wait;
    keep_seconds: that a finished job is kept; spare_bytes: of the disk, that stay free.
    worker_bytes: of memory for the worker's own data, on Linux; None: all there is.
    Raises InputError for a value that isn't above 0.
    """

    request_bytes: int = 512 * MEBI
    files: int = 256
    picture_pixels: int = 2**26
    pixels: int = 2**31
    frames: int = 64
    idle_seconds: float = 20
    body_seconds: float = 600
    check_seconds: float = 60
    job_seconds: float = 900
    attempts: int = 3
    queue: int = 32
    keep_seconds: float = 3600
    spare_bytes: int = 256 * MEBI
    worker_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise InputError(f"{field.name} is {value}; it must be above 0")


def frames_that_fit(memory: int | None = None) -> int:
    """How many frames a job may have on a machine with so many bytes free (None: this one): 8 to 64."""
    from quantvggt.core.memory import available_bytes  # not above: it loads PyTorch, and who looks at uploads has none

    free = available_bytes() if memory is None else memory
    return Limits.frames if free is None else max(8, min(Limits.frames, free // GIBI * _FRAMES_PER_GIBI))
