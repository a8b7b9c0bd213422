"""Start one container from a configuration on standard input and tell what it did: a clean, single-threaded process.

{"config": {…}, "bundle": "…"} in; {"status", "out", "error", "warnings", "steps"} out.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from vmcontainer_kernel.container import hooks
from vmcontainer_kernel.container.birth import bear
from vmcontainer_kernel.container.launch import Gate
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.planning import plan
from vmcontainer_kernel.container.reports import read_report
from vmcontainer_kernel.errors import LabError, to_json

LIMIT_S = 20.0


def run(config: dict[str, Any], bundle: str) -> dict[str, Any]:
    spec = parse(config)
    steps = plan(spec, bundle, (), None)
    out_r, out_w = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def set_up(pid: int, gate: Gate) -> None:
        state = {"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": pid, "bundle": bundle}
        hooks.answer(spec.hooks, gate, lambda: state, bundle)

    launch, gate_fd = bear(spec, bundle, steps, (null, out_w, out_w), set_up)
    for fd in (out_w, null, gate_fd):
        os.close(fd)
    data = {out_r: b"", launch.report_fd: b""}
    left = set(data)
    while left:
        ready, _, _ = select.select([*left], [], [], LIMIT_S)
        if not ready:
            os.kill(launch.pid, 9)
        for fd in ready:
            part = os.read(fd, 65536)
            data[fd] += part
            left -= set() if part else {fd}
    status = os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1])
    report = read_report(data[launch.report_fd])
    return {
        "status": status,
        "out": data[out_r].decode(errors="replace"),
        "error": to_json(report.error) if report.error else None,
        "warnings": report.warnings,
        "steps": [name for name, _ in report.steps],
    }


def main() -> None:
    request = json.load(sys.stdin)
    try:
        answer = run(**request)
    except LabError as error:
        answer = {"status": None, "out": "", "error": to_json(error), "warnings": [], "steps": []}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
