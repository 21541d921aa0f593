"""Which paths of the native CPU kernels this run tests, for its last lines."""

import pytest
import torch

CPU = torch.device("cpu")
native: set[str] = set()
emulated: set[str] = set()
missing: dict[str, str] = {}
"""Path -> why it did not run natively."""


def require(backend) -> None:
    """Skips where the CPU or an old compiler lacks the path's instructions; to be missing otherwise is an error."""
    can, reason = backend.available(CPU)
    if can:
        native.add(backend.path)
        return
    missing[backend.path] = reason
    lacking = ("this CPU has no ", "the system does not let ", "the C++ compiler is too old ", "no C++ compiler ")
    if reason.startswith(lacking):
        pytest.skip(reason)
    pytest.fail(f"{backend.path}: {reason}")


def summary() -> list[str]:
    """Nothing where no kernel was tested."""
    if not (native or emulated or missing):
        return []
    lines = [
        f"kernel paths run natively: {', '.join(sorted(native)) or 'none'}; "
        f"on emulated instructions: {', '.join(sorted(emulated)) or 'none'}"
    ]
    if missing:
        reasons = "; ".join(f"{path} ({reason})" for path, reason in sorted(missing.items()))
        lines.append(f"kernel paths not run natively: {reasons}")
    return lines
