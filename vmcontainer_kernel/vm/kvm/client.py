"""KVM for a process with threads, such as a notebook: each run is a program of its own, which can be ended.

run(request) ──JSON──▶ python -m vmcontainer_kernel.vm.kvm run ──▶ KVM_RUN, until HLT or the deadline
             ◀──JSON── report
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from ...errors import HostError, from_json
from .guest import Report, Request, Seen, to_json, unpacked

__all__ = ["abilities", "ask", "run", "rungs"]

GRACE_S: Final = 5.0  # for a new Python on a busy computer, and for all that a request may need besides its own time
ABILITIES_LIMIT_S: Final = 5.0


def run(request: Request) -> Report:
    """Run machine code. Raises HostError without KVM, UserError for what does not fit into memory."""
    (answer,) = ask("run", request.timeout_s + GRACE_S, to_json(request))
    found = unpacked(answer)
    return Report(**{**found, "exits": [Seen(**seen) for seen in found["exits"]]})


def abilities() -> dict[str, str]:
    """Return what KVM can do here: a name, and what happened instead, empty if it works. Raises HostError."""
    (answer,) = ask("abilities", ABILITIES_LIMIT_S)
    return answer


def rungs(limit_s: float) -> tuple[dict[str, float], str]:
    """Climb the ladder of `probe.rungs`: the seconds of each rung that was reached, and why there is not one more."""
    reached: dict[str, float] = {}
    for answer in _answers("rungs", limit_s, None):
        if "error" in answer:
            return reached, str(answer["error"]["message"])
        reached[answer["rung"]] = float(answer["seconds"])
    return reached, ""


def ask(word: str, limit_s: float, request: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Have the program do something and return its answers. Raises the error that is its last one."""
    answers = _answers(word, limit_s, request)
    if "error" in answers[-1]:
        raise from_json(answers[-1]["error"])
    return answers


def _answers(word: str, limit_s: float, request: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return at least one answer; what ends the program is the last one."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-S", "-m", __package__, word, str(os.getpid())]
    try:
        done = subprocess.run(
            command,
            env=environment,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return [*_lines(error.stdout or b""), _failure(f"KVM had not answered after {limit_s:g} s")]
    answers = _lines(done.stdout)
    if done.returncode or not answers:
        last = (done.stderr.decode(errors="replace").splitlines() or ["it said nothing"])[-1]
        answers += [_failure(f"the program that drives KVM ended with status {done.returncode}: {last}")]
    return answers


def _lines(text: bytes) -> list[dict[str, Any]]:
    # The last one may be cut off by the end of the program.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def _failure(message: str) -> dict[str, Any]:
    return {"error": {"error": HostError.__name__, "message": message, "hint": "vmcontainer doctor kvm-real-mode"}}
