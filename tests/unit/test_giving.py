"""An image on its way to a machine: what is sent, and what is told meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel import giving
from vmcontainer_kernel.agent.protocol import Kind
from vmcontainer_kernel.container.images import Image, Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ImageError, LabError
from vmcontainer_kernel.paths import cache_dir


class Machine:
    """A node that lacks every image and takes what it is given."""

    name, passes_fds = "vm", False

    def __init__(self) -> None:
        self.got: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.made = ""

    async def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.calls.append(verb)
        if verb == "image.view":
            return {"digest": self.made}
        if verb == "image.missing":
            return {"paths": {digest: f"/there/{digest}" for digest in arguments["digests"]}}
        return {"names": []}

    def start(self, verb: str, arguments: dict[str, Any], *, on_data: Any = None) -> Machine.Request:
        assert verb == "get" if on_data else "put"
        request = self.Request(self.got, arguments["path"])
        if on_data:
            asyncio.get_running_loop().call_soon(self._send, request, on_data)
        return request

    def _send(self, request: Machine.Request, on_data: Any) -> None:
        data = self.got[request.path]
        for at in range(0, len(data) or 1, 1 << 16):
            on_data(Kind.STDOUT, data[at : at + (1 << 16)])
        if not request.done.done():
            request.done.set_result({})

    def kill(self, request: Machine.Request) -> None:
        self.calls.append("kill")

    class Request:
        def __init__(self, got: dict[str, bytes], path: str) -> None:
            self._got, self.path = got, path
            self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        async def feed(self, data: bytes) -> None:
            self._got[self.path] = self._got.get(self.path, b"") + data

        def consumed(self, stream: int, count: int) -> None:
            """Ask for more."""

        def lose(self, error: Exception) -> None:
            self.done.set_exception(error)

        def end_input(self) -> None:
            self.done.set_result({"size": len(self._got[self.path])})


@pytest.mark.usefixtures("private_folders")
def test_progress_is_told_until_there_is_nothing_to_wait_for() -> None:
    store = Store(cache_dir("images"))
    image = build_busybox(store)
    machine, told = Machine(), list[tuple[str, float]]()
    give: Any = giving.give_image
    asyncio.run(give(machine, "busybox", lambda *report: told.append(report)))
    assert {path.rpartition("/")[2]: data for path, data in machine.got.items()} == _blobs(store, image)
    assert machine.calls == ["image.list", "image.missing", "image.add"]
    assert "giving vm the image busybox" in told[0][0]
    assert [part for _, part in told] == sorted(part for _, part in told)
    assert told[-1] == ("", 1.0)
    asyncio.run(give(machine, "busybox"))
    assert len(machine.calls) == 3


def _blobs(store: Store, image: Image) -> dict[str, bytes]:
    blobs = (*store.documents(image), *image.layers)
    return {one.digest: Path(store.blob_path(one.digest)).read_bytes() for one in blobs}


@pytest.mark.usefixtures("private_folders")
def test_a_name_that_means_another_image_is_given_anew() -> None:
    store = Store(cache_dir("images"))
    image, machine = build_busybox(store), Machine()
    give: Any = giving.give_image
    store.add("app:latest", {**image.config, "author": "first"}, list(image.layers))
    asyncio.run(give(machine, "app"))
    store.add("app:latest", {**image.config, "author": "second"}, list(image.layers))
    asyncio.run(give(machine, "app"))
    assert machine.calls == ["image.list", "image.missing", "image.add", "image.missing", "image.add"]


@pytest.mark.usefixtures("private_folders")
def test_what_a_machine_made_comes_back(tmp_path: Path) -> None:
    theirs, machine = Store(tmp_path), Machine()
    image = build_busybox(theirs)
    made = theirs.add("app:latest", {**image.config, "author": "a guest"}, list(image.layers))
    machine.made = made.digest
    folder = "/usr/share/vmcontainer/images/blobs/sha256"
    machine.got = {f"{folder}/{digest.partition(':')[2]}": data for digest, data in _blobs(theirs, made).items()}
    take: Any = giving.take_image
    asyncio.run(take(machine, "app"))
    store = Store(cache_dir("images"))
    assert store.resolve("app").digest == made.digest
    assert _blobs(store, store.resolve("app")) == _blobs(theirs, made)
    give: Any = giving.give_image
    asyncio.run(give(machine, "app"))
    assert machine.calls == ["image.view"]


@pytest.mark.usefixtures("private_folders")
def test_a_damaged_blob_of_a_machine_is_refused(tmp_path: Path) -> None:
    theirs, machine = Store(tmp_path), Machine()
    machine.made = build_busybox(theirs).digest
    machine.got = {f"/usr/share/vmcontainer/images/blobs/sha256/{machine.made.partition(':')[2]}": b"{}"}
    take: Any = giving.take_image
    with pytest.raises(ImageError, match="another digest"):
        asyncio.run(take(machine, "app"))
    assert Store(cache_dir("images")).names() == []


@pytest.mark.parametrize(
    "manifest", [b"[]", b"{", b'{"config": 5}', b'{"config": {"digest": "sha256:../x", "size": 1}}']
)
@pytest.mark.usefixtures("private_folders")
def test_what_a_machine_calls_an_image_may_be_none(manifest: bytes) -> None:
    machine, value = Machine(), hashlib.sha256(manifest).hexdigest()
    machine.made = f"sha256:{value}"
    machine.got = {f"/usr/share/vmcontainer/images/blobs/sha256/{value}": manifest}
    take: Any = giving.take_image
    with pytest.raises(ImageError):
        asyncio.run(take(machine, "app"))
    assert Store(cache_dir("images")).names() == []


def _made(machine: Machine, theirs: Store, **changes: Any) -> Image:
    """Have a machine an image of its own, its first layer's descriptor changed."""
    image = build_busybox(theirs)
    made = theirs.add("app:latest", {**image.config, "author": "a guest"}, list(image.layers))
    blobs = _blobs(theirs, made)
    manifest = json.loads(blobs.pop(made.digest))
    manifest["layers"][0].update(changes)
    data = json.dumps(manifest).encode()
    machine.made = f"sha256:{hashlib.sha256(data).hexdigest()}"
    machine.got = {_at(digest): content for digest, content in {**blobs, machine.made: data}.items()}
    return made


def _at(digest: str) -> str:
    return f"/usr/share/vmcontainer/images/blobs/sha256/{digest.partition(':')[2]}"


def _files() -> set[str]:
    folder = cache_dir("images")
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".lock"}


@pytest.mark.usefixtures("private_folders")
@pytest.mark.parametrize(("size", "message"), [(10, "sends more than 10 bytes"), (1 << 40, "may come from there")])
def test_a_layer_of_another_size_than_the_manifest_says_is_refused(tmp_path: Path, size: int, message: str) -> None:
    machine = Machine()
    _made(machine, Store(tmp_path), size=size)
    take: Any = giving.take_image
    with pytest.raises(LabError, match=message):
        asyncio.run(take(machine, "app"))
    assert _files() == set()


@pytest.mark.usefixtures("private_folders")
def test_of_a_layer_no_more_is_kept_than_its_manifest_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    made = _made(machine, Store(tmp_path))
    machine.got[_at(made.layers[0].digest)] += bytes(1 << 22)
    most = [0]

    def write(self: Any, data: bytes) -> int:
        most[0] = max(most[0], self.blob.size_bytes + len(data))
        return int(written(self, data))

    from vmcontainer_kernel.container.images.store import NewBlob

    written = NewBlob.write
    monkeypatch.setattr(NewBlob, "write", write)
    take: Any = giving.take_image
    with pytest.raises(LabError, match="sends more than"):
        asyncio.run(take(machine, "app"))
    assert 0 < most[0] <= made.layers[0].size_bytes
    assert "kill" in machine.calls
    assert _files() == set()


@pytest.mark.usefixtures("private_folders")
def test_a_manifest_has_a_limit_of_its_own() -> None:
    machine = Machine()
    machine.made = f"sha256:{'0' * 64}"
    machine.got = {_at(machine.made): b" " * (5 << 20)}
    take: Any = giving.take_image
    with pytest.raises(LabError, match="sends more than 4194304 bytes"):
        asyncio.run(take(machine, "app"))
    assert _files() == set()


@pytest.mark.usefixtures("private_folders")
def test_an_image_is_no_larger_than_the_disk_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    _made(machine, Store(tmp_path))
    monkeypatch.setattr("vmcontainer_kernel.container.files.room_bytes", lambda path: 1000)
    take: Any = giving.take_image
    with pytest.raises(ImageError, match="may come from there"):
        asyncio.run(take(machine, "app"))
    assert _files() == set()
