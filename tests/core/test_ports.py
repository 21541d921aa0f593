"""The next free port, and what is told of it."""

import socket

import pytest

from quantvggt.core.errors import InputError
from quantvggt.core.ports import free_port, web_address


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = free_port("127.0.0.1", port)
        assert port < found < port + 100
    with socket.socket() as now:
        now.bind(("127.0.0.1", found))


def test_any_port() -> None:
    assert free_port("127.0.0.1", 0) >= 1024


def test_hosts_and_ports_that_there_are_none_of() -> None:
    for host in ("192.0.2.1", "no such host"):  # the first is kept for documentation
        with pytest.raises(InputError, match="cannot listen on"):
            free_port(host, 8080)
    for port in (-1, 65536):
        with pytest.raises(InputError, match="1 to 65535"):
            free_port("127.0.0.1", port)


def test_addresses_can_be_opened() -> None:
    assert web_address("127.0.0.1", 8080) == "http://127.0.0.1:8080"
    assert web_address("::1", 80) == "http://[::1]:80"
    assert web_address("0.0.0.0", 80) == f"http://{socket.gethostname()}:80"
