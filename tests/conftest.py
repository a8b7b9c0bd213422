"""Fixtures of all tests, and the rules for skipping: only for a check of the doctor, in CI only for those on a list."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.guest_engine import _guest_engine, guest_engine  # noqa: F401 - fixtures of all tests
from tests.lanes import (  # noqa: F401 - hooks
    pytest_runtest_protocol,
    pytest_xdist_auto_num_workers,
    pytest_xdist_make_scheduler,
)
from vmcontainer_kernel import doctor

ROOT = Path(__file__).parent.parent
# No machine is made ahead behind a test's back, here or in its notebooks; those of spares ask for it.
os.environ["VMCONTAINER_SPARES"] = "0"
# Whatever the computer speaks; tests of another language ask for it.
os.environ["LAB_LANGUAGE"] = "en"
ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")

examined = functools.cache(doctor.check)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a marker that names no check, and put the tests in a browser last.

    Playwright's synchronous interface leaves an event loop running in this thread until the end, so that no
    ``asyncio.run`` is possible after it.
    """
    items.sort(key=lambda item: "browser" in item.path.parts)
    for item in items:
        unknown = set(needed(item)) - set(doctor.NAMES)
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: needs({', '.join(unknown)}): there is no such check")


def needed(item: pytest.Item) -> list[str]:
    return [name for marker in item.iter_markers("needs") for name in marker.args]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in needed(item):
        check = examined(name)
        if check.verdict == "no":
            pytest.skip(f"{name}: {check.reason}")


def allowed_skips(text: str) -> set[str]:
    return {name for line in text.splitlines() if (name := line.partition("#")[0].strip())}


def forbidden_skips(skips: list[tuple[str, str]], allowed: set[str]) -> list[tuple[str, str]]:
    """Of (test, reason) pairs, those whose reason does not begin with the name of an allowed check."""
    return [(test, reason) for test, reason in skips if reason.partition(":")[0] not in allowed]


class SkipGuard:
    """Makes a run in CI fail if a test was skipped for a reason that is not on the list."""

    def __init__(self) -> None:
        # Of a module that is skipped as a whole each worker tells.
        self.skips: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self._keep(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._keep(report)

    def _keep(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skips[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def forbidden(self) -> list[tuple[str, str]]:
        return forbidden_skips([*self.skips.items()], allowed_skips(ALLOWED_SKIPS.read_text()))

    # First of all, as the terminal's summary, written in a wrapper of this hook, shows the status that is set here.
    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.forbidden() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if self.forbidden():
            terminalreporter.section("skips that tests/allowed_skips.txt does not allow in CI", red=True)
        for test, reason in self.forbidden():
            terminalreporter.line(f"{test}: {reason}")


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Tell what the lessons cost."""
    reports = [one for some in terminalreporter.stats.values() for one in some if isinstance(one, pytest.TestReport)]
    rows = [dict(one.user_properties).get("lesson") for one in reports if one.when == "call"]
    if lessons := sorted(tuple(map(str, row)) for row in rows if isinstance(row, list | tuple)):
        from tests.lessons import HEAD, in_columns

        terminalreporter.section("lessons")
        for line in in_columns([HEAD, *lessons]):
            terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(SkipGuard(), "skip-guard")


@pytest.fixture
def private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache and run folder of the test's own."""
    monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VMCONTAINER_RUN", str(tmp_path / "run"))
    yield tmp_path


def null_device() -> tuple[int, int, int]:
    status = os.stat(os.devnull)  # noqa: PTH116
    return status.st_uid, status.st_gid, status.st_mode


NULL_DEVICE = null_device()


@pytest.fixture(autouse=True)
def what_all_tests_share_stays_as_it_is() -> Iterator[None]:
    """What closes a descriptor twice closes somebody else's, and a runtime may give /dev/null away (crun does): found
    here, not in a test that runs an hour later.
    """
    yield
    for fd in (0, 1, 2):
        os.fstat(fd)
    assert null_device() == NULL_DEVICE
