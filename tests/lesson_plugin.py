"""A plugin for nbval: what it does not look at itself.

nbval compares outputs and fails where a cell shows an error. It does not read the kernel's *reply*, and there are
errors which show nothing of their own (IPython's UsageError): such a cell would pass. So each reply's status is read
here, and each cell's time; a table of all cells goes to a file.

And some computers lack something that is told once, on stderr, beside what a cell shows (no control groups for an
ordinary user, say). What was stored elsewhere does not have it, so these warnings, and no others, are not compared.

    pytest --nbval -p tests.lesson_plugin --lesson-report=FILE NOTEBOOK
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

from tests.patience import now_s

CELL_LIMIT_S = 10.0
ABOUT_THIS_COMPUTER = re.compile(r"^\[[\w.-]+\] warning: (machines|containers) here\b.*\n\n?", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lesson-report", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Cells(config.getoption("--lesson-report")))


class Cells:
    """What became of each cell."""

    def __init__(self, report: Path) -> None:
        self.report = report
        self.cells: list[dict[str, Any]] = []
        self.told: dict[str, Any] = {"kernel": 0, "cells": self.cells}
        self.status = ""
        self._listen()
        self._leave_out()

    def _listen(self) -> None:
        """Read each reply's status in passing."""
        read = RunningKernel.get_message

        def get_message(kernel: RunningKernel, stream: str, timeout: float | None = None) -> dict[str, Any]:
            message: dict[str, Any] = read(kernel, stream, timeout)
            if message["msg_type"] == "execute_reply":
                self.status = message["content"]["status"]
            return message

        RunningKernel.get_message = get_message

    def _leave_out(self) -> None:
        """Compare outputs without warnings about this computer."""
        compare = IPyNbCell.compare_outputs

        def compare_outputs(cell: IPyNbCell, test: list[Any], ref: list[Any], skip_compare: Any = None) -> bool:
            for one in test:
                if one.output_type == "stream" and one.name == "stderr":
                    one.text = ABOUT_THIS_COMPUTER.sub("", one.text)
            same: bool = compare(cell, [one for one in test if one.get("text", "-")], ref, skip_compare)
            return same

        IPyNbCell.compare_outputs = compare_outputs

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, object, object]:
        self.told["kernel"] = item.parent.kernel.km.provisioner.pid
        self.cells.append({"number": item.cell_num + 1, "begins": item.cell.source.partition("\n")[0], "told": ""})
        self.status, began_s = "", now_s()
        result = yield
        seconds = now_s() - began_s
        expected = "error" if "raises-exception" in item.cell.metadata.get("tags", []) else "ok"
        if self.status != expected:
            item.raise_cell_error(f"the kernel's reply says {self.status or 'nothing'}, not {expected}")
        if seconds > CELL_LIMIT_S:
            item.raise_cell_error(f"the cell took {seconds:.1f} s on a quiet computer, more than {CELL_LIMIT_S:.1f} s")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.cells[-1]["seconds"] = report.duration
        if report.failed and self.cells:
            self.cells[-1]["told"] = report.longreprtext

    def pytest_sessionfinish(self) -> None:
        self.report.write_text(json.dumps(self.told))
