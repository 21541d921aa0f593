"""Where a server listens: the next free port, and its address for a browser."""

import errno
import socket

from quantvggt.core.errors import InputError

TRIES = 100


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on at `host`; 0 stands for any.

    Raises InputError if `host` isn't an address of this machine, or the next hundred ports are taken.
    """
    if not 0 <= first < 65536:
        raise InputError(f"port is {first}; give 1 to 65535, or 0 for any that is free")
    for port in range(first, min(first + TRIES, 65536)):
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                return int(probe.getsockname()[1])
        except PermissionError:
            continue  # below 1024, for most users
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"cannot listen on {host}: {error.strerror}; use an address of this machine"
                ) from error
    raise InputError(f"ports {first} to {first + TRIES - 1} of {host} are taken; name another with --port")


def web_address(host: str, port: int) -> str:
    """What to open in a browser; a host that stands for all addresses is told by this machine's name."""
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
