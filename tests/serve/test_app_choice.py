"""Which models the app offers, in what precision, who may log in, and uploads refused before they are read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import quantvggt as qv
from quantvggt.core.errors import InputError
from quantvggt.serve.app_choice import FULL, Choice, check_reference, full_precision, precisions
from quantvggt.serve.app_login import VARIABLE, read_login
from quantvggt.serve.app_room import RoomCheck
from quantvggt.serve.limits import Limits
from tiny import sane_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    qv.save(sane_model(), folder / "float")
    qv.save(qv.quantize(sane_model(), "w8a8", method="rtn"), folder / "small")
    return {name: str(folder / name) for name in ("float", "small")}


def test_models_come_in_what_their_checkpoints_say(models: dict[str, str]) -> None:
    assert precisions("vggt-nano") == [FULL, "w8a8", "w4a4"]
    assert precisions(models["float"]) == [FULL]
    assert precisions(models["small"]) == ["w8a8 (rtn)"]
    with pytest.raises(InputError, match="no checkpoint at"):
        precisions("/nowhere/at/all")


def test_quantized_models_are_compared_with_full_precision(models: dict[str, str]) -> None:
    small = Choice(models["small"], "w8a8 (rtn)")
    assert full_precision(small, models["float"]) == Choice(models["float"])
    assert full_precision(small, None) is None
    assert full_precision(Choice("vggt-nano", "w4a4"), models["float"]) == Choice("vggt-nano")
    assert full_precision(Choice("vggt-nano"), models["float"]) is None
    check_reference(models["float"])
    with pytest.raises(InputError, match="is quantized"):
        check_reference(models["small"])


def test_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_login(None) == []
    monkeypatch.setenv(VARIABLE, "ann:a:b")
    assert read_login(None) == [("ann", "a:b")]
    file = tmp_path / "logins"
    file.write_text("bob:secret\n\n cleo:word \n")
    assert read_login(str(file)) == [("bob", "secret"), ("cleo", "word")]
    for text, told in (("bob", "line 1 of"), ("bob:\n", "line 1 of"), ("a:b\n:c", "line 2 of"), ("\n", "no logins")):
        file.write_text(text)
        with pytest.raises(InputError, match=told):
            read_login(str(file))
    with pytest.raises(InputError, match="cannot read the logins"):
        read_login(str(tmp_path / "gone"))


def answer(limits: Limits, folder: Path, method: str, **headers: str) -> int:
    """The status of a request that only the check and an application that says 200 see."""
    told: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    async def receive() -> Any:
        raise AssertionError("the body was read")

    scope = {"type": "http", "method": method, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(RoomCheck(application, folder, limits)(scope, receive, send))
    return told[0]


def test_uploads_without_room_are_refused_unread(tmp_path: Path) -> None:
    limits = Limits(request_bytes=1000)
    assert answer(limits, tmp_path, "GET") == 200
    assert answer(limits, tmp_path, "POST", **{"content-length": "900"}) == 200
    assert answer(limits, tmp_path, "POST", **{"content-length": str(2**20 + 1001)}) == 413
    for headers in ({}, {"content-length": "-3"}, {"content-length": "many"}):
        assert answer(limits, tmp_path, "POST", **headers) == 411
    assert answer(Limits(spare_bytes=2**60), tmp_path, "POST", **{"content-length": "900"}) == 507
