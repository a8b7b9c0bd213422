"""Files copied in and out of containers that run, were made or have ended; and links that would lead out."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_agent import Bench, Result
from vmcontainer_kernel.container import transfer
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ContainerError, LabError, NotFound, UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("copies")
    build_busybox(Store(folder / "images"))
    bench = Bench(folder / "run" / f"copies{os.getpid()}", folder / "images")
    yield bench
    bench.close()


@pytest.fixture(params=["running", "created", "stopped"])
def container(request: pytest.FixtureRequest, bench: Bench) -> Iterator[str]:
    options = {"argv": ["sh", "-c", "echo begun; exec sleep 1000"], "tmpfs": ["/fast"]}
    bench.call("container.create", name="web", options=options)
    if request.param != "created":
        bench.call("container.start", name="web")
    if request.param == "stopped":
        bench.call("container.stop", name="web", timeout_s=0)
    yield request.param
    bench.call("container.remove", name="web", force=True)


def archive(**files: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            entry.size = len(content)
            entry.mode = 0o640
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def put(bench: Bench, path: str, data: bytes) -> Result:
    return bench.wait(bench.collect("container.copy_in", data, name="web", path=path))


def get(bench: Bench, path: str) -> dict[str, bytes]:
    result = bench.wait(bench.collect("container.copy_out", name="web", path=path))
    with tarfile.open(fileobj=io.BytesIO(result.out)) as tar:
        return {one.name: tar.extractfile(one).read() if one.isreg() else one.type for one in tar}


@pytest.mark.needs("containers-on-host")
class TestContainers:
    """In every state of a container."""

    def test_there_and_back(self, bench: Bench, container: str) -> None:
        assert put(bench, "/tmp/copy", archive(note=b"hello")).status == 0
        put(bench, "/tmp", archive(second=bytes(300_000)))
        assert get(bench, "/tmp/copy") == {"copy": b"hello"}
        assert get(bench, "/tmp") == {"tmp": b"5", "tmp/copy": b"hello", "tmp/second": bytes(300_000)}
        if container != "running":
            bench.call("container.start", name="web")
        script = ["sh", "-c", "cat /tmp/copy; stat -c %a:%u /tmp/copy"]
        found = bench.wait(bench.collect("container.exec", name="web", options={"argv": script}))
        assert found.out == b"hello640:0\n"

    def test_what_is_not_there(self, bench: Bench, container: str) -> None:
        with pytest.raises(UserError, match="NUL byte"):
            get(bench, "/etc\0/passwd")
        with pytest.raises(NotFound, match="/no/such"):
            get(bench, "/no/such")
        with pytest.raises(NotFound, match="/no"):
            put(bench, "/no/such", archive(note=b""))
        with pytest.raises(UserError, match="no folder"):
            put(bench, "/bin/busybox/", archive(note=b""))

    def test_links_lead_nowhere_else(self, bench: Bench, container: str, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("of the node")
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        put(bench, "/tmp", archive(up=link))
        climbing = tarfile.TarInfo("climb")
        climbing.type, climbing.linkname = tarfile.SYMTYPE, "../../../../../../.." + str(tmp_path)
        put(bench, "/tmp", archive(climb=climbing))
        for path in ("/tmp/up/secret", "/tmp/climb/secret", f"/../../..{tmp_path}/secret"):
            with pytest.raises(NotFound):
                get(bench, path)
            with pytest.raises(LabError):
                put(bench, f"{path}/x", archive(note=b"lost"))
        with pytest.raises(ContainerError, match="no folder"):
            put(bench, "/tmp", archive(**{"climb/secret": b"overwritten"}))
        assert (tmp_path / "secret").read_text() == "of the node"

    def test_hostile_archives(self, bench: Bench, container: str) -> None:
        for name in ("../up", "/etc/up", "a/../../up"):
            with pytest.raises(ContainerError, match="leads out"):
                put(bench, "/tmp", archive(**{name: b"x"}))
        device = tarfile.TarInfo("disk")
        device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0
        with pytest.raises(ContainerError, match="disk"):
            put(bench, "/tmp", archive(disk=device))
        with pytest.raises(ContainerError, match="damaged"):
            put(bench, "/tmp", b"no archive" * 100)


@pytest.mark.needs("containers-on-host")
def test_mounts_of_a_running_one_are_seen(bench: Bench) -> None:
    bench.call("container.run", name="web", options={"argv": ["sleep", "1000"], "tmpfs": ["/fast"]}, detach=True)
    try:
        put(bench, "/fast", archive(note=b"in memory"))
        assert get(bench, "/fast/note") == {"note": b"in memory"}
        assert b"Linux" in get(bench, "/proc/version")["version"]
        for path in ("/proc/1/root/etc", "/proc/self/cwd"):
            with pytest.raises(UserError, match="/proc"):
                get(bench, path)
        with pytest.raises(UserError, match="no file"):
            get(bench, "/dev/null")
    finally:
        bench.call("container.remove", name="web", force=True)


@pytest.mark.needs("containers-on-host")
def test_mounts_of_one_that_does_not_run_are_told(bench: Bench) -> None:
    options = {"argv": ["true"], "tmpfs": ["/fast"], "volumes": ["store:/data"]}
    bench.call("container.create", name="web", options=options)
    try:
        for path in ("/fast", "/data/x", "data/../fast/./y"):
            with pytest.raises(UserError, match="only while container web runs"):
                put(bench, path, archive(note=b"lost"))
        put(bench, "/database", archive(note=b"kept"))
    finally:
        bench.call("container.remove", name="web", force=True)
        bench.call("volume.remove", name="store")


def test_a_folder_that_is_written_meanwhile_keeps_its_promises(tmp_path: Path) -> None:
    """An entry has as many bytes as its header says, though the file is another size when it is read."""
    (tmp_path / "grows").write_bytes(b"x" * 100)

    class Out(io.BytesIO):
        def write(self, data: Any) -> int:
            (tmp_path / "grows").write_bytes(b"x" * 10)
            return super().write(data)

    out, root = Out(), os.open(tmp_path, os.O_PATH)
    transfer.pack(root, "/", out)
    os.close(root)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert [one.name for one in tar] == ["root", "root/grows"]


def test_what_is_no_file_is_left_out_and_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "note").write_text("kept")
    root = os.open(tmp_path.parent, os.O_PATH)
    assert transfer.pack(root, tmp_path.name, io.BytesIO()) == [f"{tmp_path.name}/pipe"]
    os.close(root)


@pytest.mark.needs("containers-on-host")
def test_what_changed_becomes_an_image(bench: Bench) -> None:
    script = "echo made >/made; rm /bin/vi; mkdir /new; chmod 1777 /new"
    bench.call("container.create", name="web", options={"argv": ["sh", "-c", script]})
    bench.wait(bench.collect("container.start", name="web", attach=True))
    try:
        out = bench.wait(bench.collect("container.diff", name="web")).out.decode().splitlines()
        assert {"A /made", "D /bin/vi", "A /new", "C /bin"} <= set(out)
        made = bench.wait(bench.collect("container.commit", name="web", image="mine", comment="a note"))
        assert made.out.startswith(b"sha256:")
        assert "mine:latest" in bench.call("image.list")["names"]
        again = bench.container("cat /made; ls /bin/vi || true; stat -c %a /new", image="mine")
        assert again.out == b"made\n1777\n"
        assert b"/bin/vi" in again.err
    finally:
        bench.call("container.remove", name="web", force=True)


@pytest.mark.needs("containers-on-host")
def test_folders_replaced_links_and_owners_in_an_image(bench: Bench) -> None:
    script = "rm -r /home && mkdir -m 750 /home && echo mine >/home/mine; echo a >/one; ln /one /two; ln -s /one /three"
    script += "; chown 7:8 /one; mkfifo /pipe; rm /etc/group; mkdir /etc/group; chmod 4711 /bin/busybox"
    bench.call("container.create", name="web", options={"argv": ["sh", "-c", script]})
    try:
        ended = bench.wait(bench.collect("container.start", name="web", attach=True))
        assert not ended.err
        out = bench.wait(bench.collect("container.diff", name="web")).out.decode().splitlines()
        assert {"C /home", "D /home/guest", "A /home/mine", "A /two", "C /etc/group", "C /bin/busybox"} <= set(out)
        assert bench.wait(bench.collect("container.commit", name="web", image="replaced")).out
    finally:
        bench.call("container.remove", name="web", force=True)
    look = "ls /home; stat -c '%a %h %u:%g %F' /home /one /two /pipe /etc/group /bin/busybox; readlink /three"
    seen = bench.container(look, image="replaced").out.decode().splitlines()
    assert seen[0] == "mine" and seen[1].startswith("750 ") and seen[-1] == "/one", seen
    assert seen[2] == seen[3] == "644 2 7:8 regular file" and seen[4] == "644 1 0:0 fifo", seen
    assert seen[5].endswith("0:0 directory") and seen[6].startswith("4711 "), seen


@pytest.mark.needs("containers-on-host", "cgroups")
def test_a_container_rests_while_it_is_read(bench: Bench) -> None:
    script = "head -c 12000000 /dev/urandom >/big; echo ready; exec sleep 1000"
    bench.call("container.run", name="web", options={"argv": ["sh", "-c", script]}, detach=True)

    async def commit() -> set[str]:
        while not (await bench.collect("container.logs", name="web")).out:
            await asyncio.sleep(0.02)
        reading = asyncio.ensure_future(bench.collect("container.commit", name="web", image="big"))
        states = set()
        while not reading.done():
            states |= {one["status"] for one in (await bench.node.call("container.list"))["containers"]}
        await reading
        return states

    try:
        assert "paused" in bench.wait(commit())
        assert bench.call("container.inspect", name="web")["state"]["status"] == "running"
    finally:
        bench.call("container.remove", name="web", force=True)
