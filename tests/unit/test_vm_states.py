"""Saved machines without a QEMU: descriptions, memory files, manifests, the shelf, and a node at rest."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmcontainer_kernel.agent.protocol import Kind, encode_json
from vmcontainer_kernel.errors import HostError, LabError, MachineError, NotFound, UserError
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.verbs import VERBS
from vmcontainer_kernel.vm import memory
from vmcontainer_kernel.vm.accelerator import Accelerator, Rung
from vmcontainer_kernel.vm.build import Build
from vmcontainer_kernel.vm.config import MIB, DirectKernel, Drive, MachineConfig, Multiboot
from vmcontainer_kernel.vm.disks.disk import Disk, Layer
from vmcontainer_kernel.vm.state import manifest, shelf
from vmcontainer_kernel.vm.state.document import from_document, paths_of, to_document
from vmcontainer_kernel.vm.state.manifest import Saved
from vmcontainer_kernel.vm.state.shelf import Listed, Shelf, tree

HERE = "QEMU version 7.2.22 (Debian 1)"
PAGE = 4096


@pytest.fixture(autouse=True)
def qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "qemu_build", lambda platform: Build("/usr/bin/qemu 1 2", (7, 2), HERE))


@pytest.fixture
def config(tmp_path: Path) -> MachineConfig:
    for name in ("vmlinuz", "root"):
        (tmp_path / name).write_bytes(name.encode())
    boot = DirectKernel(tmp_path / "vmlinuz", None, "quiet", tmp_path / "root", "key")
    return MachineConfig("vm", boot, Accelerator("tcg", "no KVM", 0.1, (Rung("open", True, 0.1, "yes"),)))


@pytest.fixture
def saved(tmp_path: Path, config: MachineConfig) -> Saved:
    return save(tmp_path / "saved", config)


def save(folder: Path, config: MachineConfig, *, parent: str = "", made_s: float = 1.0) -> Saved:
    folder.mkdir(parents=True)
    saved = Saved(folder, config, parent, made_s, {"number": 7, "containers": {}})
    with saved.ram.open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(3 * MIB)
        file.write(b"memory")
    saved.state.write_bytes(b"state")
    manifest.write(saved, HERE)
    return manifest.read(folder)


# -- descriptions


def test_a_description_comes_back_as_it_was(config: MachineConfig) -> None:
    xen = Multiboot(Path("/xen"), ((Path("/dom0"), "console=hvc0"),), least_bytes=1)
    for one in (
        config,
        dataclasses.replace(
            config, boot=xen, drives=(Drive(Disk("cd", Path("/d"), "raw", 9, True, (Layer(Path("/e"), "raw"),))),)
        ),
    ):
        assert from_document(json.loads(json.dumps(to_document(one)))) == one
    assert paths_of(config) == [config.boot.kernel, config.root]  # type: ignore[union-attr]


@pytest.mark.parametrize("document", [{"is": "Popen", "args": "true"}, {"is": "Disk"}, {"is": "Disk", "x": 1}, {}])
def test_no_other_class_comes_out_of_a_file(document: dict[str, object]) -> None:
    with pytest.raises(LabError):
        from_document(document)


# -- memory


@pytest.fixture
def guest_memory() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, 4 * MIB)
    os.pwrite(descriptor, b"a" * PAGE, 0)
    os.pwrite(descriptor, b"b" * 10, MIB + 5 * PAGE + 7)
    os.pwrite(descriptor, b"\0" * MIB, 2 * MIB)  # there, but zero
    os.pwrite(descriptor, b"c", 4 * MIB - 1)
    yield descriptor
    os.close(descriptor)


def test_zeros_become_holes_and_nothing_else_changes(guest_memory: int, tmp_path: Path) -> None:
    memory.copy(guest_memory, tmp_path / "ram")
    assert (tmp_path / "ram").read_bytes() == os.pread(guest_memory, 4 * MIB, 0)
    assert (tmp_path / "ram").stat().st_blocks * 512 <= 16 * PAGE


def test_a_digest_is_of_the_content_not_of_the_holes(guest_memory: int, tmp_path: Path) -> None:
    memory.copy(guest_memory, tmp_path / "ram")
    (tmp_path / "full").write_bytes((tmp_path / "ram").read_bytes())
    assert memory.digest(tmp_path / "full") == memory.digest(tmp_path / "ram")
    with (tmp_path / "full").open("r+b") as file:
        file.seek(2 * MIB + 17)
        file.write(b"x")
    assert memory.digest(tmp_path / "full") != memory.digest(tmp_path / "ram")


# -- manifests


def test_what_was_written_is_found_sound(saved: Saved, config: MachineConfig) -> None:
    assert (saved.config, saved.notes["number"]) == (config, 7)
    manifest.check(saved)


@pytest.mark.parametrize("name", ["ram", "state", "manifest.json"])
def test_one_changed_byte_is_found(saved: Saved, name: str) -> None:
    path = saved.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(MachineError, match="damaged"):
        manifest.check(manifest.read(saved.path))


def edited(saved: Saved, **changes: object) -> Saved:
    """A manifest that somebody else might have written."""
    document = saved.document | changes
    text = json.dumps({"digest": manifest._digest(document), "document": document})
    (saved.path / "manifest.json").write_text(text)
    return manifest.read(saved.path)


def test_another_build_of_qemu_is_refused_and_both_are_named(saved: Saved) -> None:
    with pytest.raises(MachineError) as caught:
        manifest.check(edited(saved, qemu="QEMU version 8.2.2 (Ubuntu)"))
    assert "8.2.2 (Ubuntu)" in caught.value.where
    assert HERE in caught.value.where


def test_other_devices_are_refused(saved: Saved) -> None:
    with pytest.raises(MachineError, match="other devices") as caught:
        manifest.check(edited(saved, command=[*saved.document["command"], "-device", "floppy"]))
    assert "floppy" in caught.value.where


def test_files_that_the_cache_has_lost_are_put_back(saved: Saved, config: MachineConfig) -> None:
    assert config.root
    config.root.unlink()
    manifest.files_back(saved)
    assert config.root.read_bytes() == b"root"
    config.root.unlink()
    config.root.write_bytes(b"another")
    with pytest.raises(MachineError, match="gone or has changed"):
        manifest.files_back(saved)


# -- the shelf


@pytest.fixture
def shelf_(tmp_path: Path, config: MachineConfig) -> Shelf:
    found = Shelf(tmp_path / "states")
    save(found.place("vm", "snap-1"), config)
    save(found.place("vm", "two"), config, parent="vm:snap-1", made_s=2.0)
    save(found.place("vm"), config, parent="vm:two", made_s=3.0)
    return found


def test_the_shelf_tells_what_there_is(shelf_: Shelf) -> None:
    assert [one.title for one in shelf_.snapshots()] == ["vm:snap-1", "vm:two"]
    assert [(one.title, one.parent) for one in shelf_.suspended()] == [("vm", "vm:two")]
    assert shelf_.new_name("vm") == "snap-2"
    assert shelf_.find("vm", "two").parent == "vm:snap-1"
    with pytest.raises(NotFound) as caught:
        shelf_.find("vm", "three")
    assert "vm:snap-1, vm:two" in caught.value.hint
    with pytest.raises(NotFound):
        shelf_.find("other")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a:b", "two"])
def test_names_that_are_none_or_taken(shelf_: Shelf, name: str) -> None:
    with pytest.raises(UserError):
        shelf_.check_free("vm", name)


def test_a_removed_one_is_gone_and_a_damaged_one_can_be_removed(shelf_: Shelf) -> None:
    (shelf_.place("vm", "two") / "manifest.json").write_text("{")
    assert "damaged" in shelf_.snapshots()[0].damage
    shelf_.remove("vm", "two")
    assert [one.title for one in shelf_.snapshots()] == ["vm:snap-1"]
    assert list(shelf_.making.iterdir()) == []


def test_a_full_shelf_says_what_could_go(shelf_: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf_.making / "tmp-half").mkdir()
    shelf_.check_room(MIB)
    assert list(shelf_.making.iterdir()) == [], "what a killed notebook left"
    monkeypatch.setenv(shelf.LIMIT, "100")
    with pytest.raises(HostError) as caught:
        shelf_.check_room(101 * MIB)
    assert "vm:two" in caught.value.where
    assert shelf.LIMIT in caught.value.hint
    monkeypatch.setenv(shelf.LIMIT, "much")
    with pytest.raises(UserError):
        shelf_.check_room(1)


def test_a_tree_has_each_below_its_parent() -> None:
    parents = {"vm:a": "", "vm:b": "vm:a", "vm:c": "vm:gone", "new:d": "vm:a", "new:e": "vm:b"}
    found = [Listed(title, parent, at, 0) for at, (title, parent) in enumerate(parents.items())]
    rows = [(depth, one.title) for depth, one in tree(found)]
    assert rows == [(0, "vm:a"), (1, "vm:b"), (2, "new:e"), (1, "new:d"), (0, "vm:c")]


# -- a node at rest


def test_a_node_at_rest_has_nothing_under_way_and_sends_nothing() -> None:
    async def use() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        node = Node("vm", ours, number=40)
        request = node.start("exec", {})
        with pytest.raises(UserError, match="at work"):
            await node.rest(0.05)
        theirs.recv(4096)
        theirs.send(encode_json(Kind.REPLY, 41, {"status": 0}))
        await request.done
        assert await node.rest(5.0) == 41
        node.start("view", {})
        with pytest.raises(BlockingIOError):
            theirs.recv(4096)
        node.release()
        assert b"view" in theirs.recv(4096)
        node.close()
        theirs.close()

    asyncio.run(use())


def test_rest_waits_until_the_agent_has_read_all() -> None:
    async def use() -> None:
        ours, theirs = socket.socketpair()
        node = Node("vm", ours)
        node.write(b"unread")
        with pytest.raises(UserError):
            await node.rest(0.05)
        theirs.recv(100)
        assert await node.rest(5.0) == 0
        node.close()
        theirs.close()

    asyncio.run(use())


def test_the_verbs_explain_themselves() -> None:
    for name in ("snapshot", "snapshots", "restore", "clone", "suspend", "suspended", "resume", "migrate", "rm"):
        assert VERBS["vm"][name].parser(f"%vm {name}").format_help()
    assert VERBS["vm"]["clone"].parse("%vm clone", ["new", "--from", "vm:snap-1"]).source == "vm:snap-1"
