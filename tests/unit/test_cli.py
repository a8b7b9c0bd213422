"""The command line: what it prints, what it ends with, and in which order it builds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmcontainer_kernel import __version__, cli
from vmcontainer_kernel.errors import HostError


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"vmcontainer {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["kernel"], ["dotcor"], ["setup", "all"]])
def test_a_wrong_command_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: vmcontainer" in capsys.readouterr().err


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    order: list[str] = []

    def builder(name: str) -> Callable[[cli.Report], None]:
        def build(report: cli.Report) -> None:
            order.append(name)
            for phase, fraction in (("fetch", 0.0), ("fetch", 0.5), ("pack", 0.9)):
                report(phase, fraction)

        return build

    for name in ("image", "guest", "template", "python"):
        monkeypatch.setattr(cli, f"_build_{name}", builder(name))
    return order


def test_setup_builds_in_order_and_tells_each_phase_once(built: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["setup"]) == 0
    assert built == ["image", "guest", "template", "python"]
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines[:3] == ["container image: fetch", "container image: pack", "container image: ready (0.0 s)"]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (HostError("the disk is full", hint="free some"), 1, "vmcontainer: the disk is full\n  try:   free some\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_setup_stops_at_the_first_failure(
    built: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    told: str,
) -> None:
    def fail(report: cli.Report) -> None:
        raise error

    monkeypatch.setattr(cli, "_build_guest", fail)
    assert cli.main(["setup"]) == status
    assert built == ["image"]
    assert told in capsys.readouterr().err


def test_setup_for_the_course_goes_on_without_a_machine_that_cannot_be_had(
    built: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(report: cli.Report) -> None:
        raise HostError("no packages for arm64")

    monkeypatch.setattr(cli, "_course_steps", lambda: [("arm64", refuse), ("xen", lambda _: built.append("xen"))])
    assert cli.main(["setup", "--course"]) == 0
    assert built == ["image", "guest", "template", "python", "xen"]
    assert "no packages for arm64" in capsys.readouterr().err
