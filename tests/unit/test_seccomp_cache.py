"""Kept filters: found again in memory and in files, and never taken from a file that is not as we wrote it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vmcontainer_kernel.container.seccomp import cache, compiler
from vmcontainer_kernel.container.seccomp.cache import program
from vmcontainer_kernel.container.spec import Seccomp, SeccompRule

FILTER = Seccomp("SCMP_ACT_ALLOW", rules=(SeccompRule(("mount",), "SCMP_ACT_ERRNO", 1),))


@pytest.fixture(autouse=True)
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Seccomp]:
    """What was compiled, from an empty memory on."""
    done: list[Seccomp] = []
    real = compiler.compile_filter

    def counted(seccomp: Seccomp, machine: str = "") -> bytes:
        done.append(seccomp)
        return real(seccomp, machine)

    monkeypatch.setattr(compiler, "compile_filter", counted)
    monkeypatch.setattr(cache, "_programs", {})
    return done


def forget() -> None:
    cache._programs.clear()


def the_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_a_filter_is_compiled_once_in_a_process(compilations: list[Seccomp]) -> None:
    assert program(FILTER) == program(FILTER) == program(FILTER.replace())
    assert len(compilations) == 1


def test_a_filter_is_compiled_once_for_all_processes(tmp_path: Path, compilations: list[Seccomp]) -> None:
    folder = tmp_path / "made" / "when needed"
    first = program(FILTER, str(folder))
    forget()
    assert program(FILTER, str(folder)) == first
    assert len(compilations) == 1
    assert the_file(folder).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("other", [FILTER.replace(default_action="SCMP_ACT_LOG"), FILTER.replace(flags=("x",))])
def test_another_filter_is_another_file(tmp_path: Path, other: Seccomp) -> None:
    program(FILTER, str(tmp_path))
    program(other, str(tmp_path))
    assert len([*tmp_path.iterdir()]) == 2


def test_another_machine_is_another_file(tmp_path: Path) -> None:
    assert program(FILTER, str(tmp_path), machine="x86_64") != program(FILTER, str(tmp_path), machine="aarch64")
    assert len([*tmp_path.iterdir()]) == 2


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        linked,
        pipe,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0" * 8),
        lambda path: path.write_bytes(b"\6\0\0\0\0\0\xff\x7f"),  # "allow everything"
        lambda path: path.write_bytes(b"x" * 100_000),
        lambda path: path.chmod(0o666),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_damaged_file_is_no_file(
    tmp_path: Path, damage: Callable[[Path], object], compilations: list[Seccomp]
) -> None:
    right = program(FILTER, str(tmp_path))
    damage(the_file(tmp_path))
    forget()
    assert program(FILTER, str(tmp_path)) == right
    assert len(compilations) == 2


def test_a_damaged_file_is_written_anew(tmp_path: Path, compilations: list[Seccomp]) -> None:
    program(FILTER, str(tmp_path))
    the_file(tmp_path).write_bytes(b"?")
    for _ in range(2):
        forget()
        program(FILTER, str(tmp_path))
    assert len(compilations) == 2


@pytest.mark.parametrize("folder", ["/proc/self", "/dev/null/below", "/sys"])
def test_a_folder_that_cannot_be_written_is_no_hindrance(folder: str, compilations: list[Seccomp]) -> None:
    assert len(program(FILTER, folder)) % 8 == 0
    assert len(compilations) == 1


def test_memory_is_bounded() -> None:
    for number in range(200):
        program(FILTER.replace(default_errno=number))
    assert len(cache._programs) <= 64
