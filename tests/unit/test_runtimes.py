"""Another runtime for machines: fetched once, kept with the library it needs, put where a guest looks for them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel import runtimes
from vmcontainer_kernel.vm.packages import Package


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A cache of this test's own, and packages that need no network; what was fetched is noted."""
    calls: list[list[str]] = []

    def fetch(apt: Any, packages: list[Package], archive: Path, report: Any) -> list[Path]:
        calls.append([package.name for package in packages])
        return []

    def unpack(debs: list[Path], root: Path) -> None:
        for name, text in (("usr/sbin/runc", "program"), ("usr/lib/here/libseccomp.so.2.5.4", "library")):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text(text)
        (root / "usr/lib/here/libseccomp.so.2").symlink_to("libseccomp.so.2.5.4")

    system = tmp_path / "os-release"
    system.write_text("ID=debian\n")
    monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtimes, "OS_RELEASE", system)
    monkeypatch.setattr(runtimes.distribution, "update", lambda apt: None)
    monkeypatch.setattr(runtimes.distribution, "fetch", fetch)
    monkeypatch.setattr(runtimes.distribution, "unpack", unpack)
    monkeypatch.setattr(runtimes.distribution.Apt, "prepare", lambda self: None)
    record = "Package: {}\nVersion: 1\nSHA256: 00\nArchitecture: amd64\n"
    monkeypatch.setattr(runtimes.distribution.Apt, "show", lambda self, name: record.format(name))
    return calls


def test_it_is_fetched_once_and_again_for_another_system(fetched: list[list[str]]) -> None:
    place = runtimes.ensure_runc()
    assert runtimes.ensure_runc() == place
    assert fetched == [["runc", "libseccomp2"]]
    assert [one["name"] for one in json.loads((place / "made-of.json").read_text())["packages"]] == fetched[0]
    runtimes.OS_RELEASE.write_text("ID=other\n")
    runtimes.ensure_runc()
    assert len(fetched) == 2


def test_a_machine_gets_programs_under_the_names_they_are_asked_for(fetched: list[list[str]]) -> None:
    class Machine:
        def __init__(self) -> None:
            self.got: dict[str, tuple[bytes, int]] = {}

        async def put(self, data: bytes, path: str, mode: int) -> None:
            self.got[path] = data, mode

    machine: Any = Machine()
    asyncio.run(runtimes.give_runc(machine))
    assert machine.got == {
        "/usr/sbin/runc": (b"program", 0o755),
        "/usr/lib/here/libseccomp.so.2": (b"library", 0o755),
    }
