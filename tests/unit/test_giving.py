"""An image on its way to a machine: what is sent, and what is told meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel import giving
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.paths import cache_dir


class Machine:
    """A node that lacks every image and takes what it is given."""

    name, passes_fds = "vm", False

    def __init__(self) -> None:
        self.got: dict[str, bytes] = {}
        self.calls: list[str] = []

    async def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.calls.append(verb)
        if verb == "image.missing":
            return {"paths": {digest: f"/there/{digest}" for digest in arguments["digests"]}}
        return {"names": []}

    def start(self, verb: str, arguments: dict[str, Any]) -> Machine.Request:
        assert verb == "put"
        return self.Request(self.got, arguments["path"])

    class Request:
        def __init__(self, got: dict[str, bytes], path: str) -> None:
            self._got, self._path = got, path
            self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        async def feed(self, data: bytes) -> None:
            self._got[self._path] = self._got.get(self._path, b"") + data

        def end_input(self) -> None:
            self.done.set_result({"size": len(self._got[self._path])})


@pytest.mark.usefixtures("private_folders")
def test_progress_is_told_until_there_is_nothing_to_wait_for() -> None:
    store = Store(cache_dir("images"))
    [layer] = build_busybox(store).layers
    machine, told = Machine(), list[tuple[str, float]]()
    give: Any = giving.give_image
    asyncio.run(give(machine, "busybox", lambda *report: told.append(report)))
    assert machine.got == {f"/there/{layer.digest}": Path(store.blob_path(layer.digest)).read_bytes()}
    assert machine.calls == ["image.list", "image.missing", "image.add"]
    assert "giving vm the image busybox" in told[0][0]
    assert [part for _, part in told] == sorted(part for _, part in told)
    assert told[-1] == ("", 1.0)
    asyncio.run(give(machine, "busybox"))
    assert len(machine.calls) == 3
