"""Where a server listens: the next free port, and its address for a browser."""

import errno
import socket

from quantvggt.core.errors import InputError

TRIES = 100


def listen(host: str, first: int) -> socket.socket:
    """A socket that listens on the first port from `first` on that nobody else listens on at `host`; 0: any port.

    Raises InputError if `host` isn't an address of this machine, or the next hundred ports are taken.
    """
    if not 0 <= first < 65536:
        raise InputError(f"port is {first}; give 1 to 65535, or 0 for any that is free")
    for port in range(first, min(first + TRIES, 65536)):
        try:
            return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue  # the latter for most users below 1024
            raise InputError(f"cannot listen on {host}: {error.strerror}; use an address of this machine") from error
    raise InputError(f"ports {first} to {first + TRIES - 1} of {host} are taken; name another with --port")


def free_port(host: str, first: int) -> int:
    """The port that `listen` would take, for a server that makes its own socket."""
    with listen(host, first) as found:
        return port_of(found)


def port_of(listener: socket.socket) -> int:
    """Where it listens."""
    return int(listener.getsockname()[1])


def web_address(host: str, port: int) -> str:
    """What to open in a browser; a host that stands for all addresses is told by this machine's name."""
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
