"""The program that drives KVM for a notebook, which must not wait in KVM_RUN: a request in, answers out, each a line.

    python -m vmcontainer_kernel.vm.kvm run PID         a `guest.Request` on standard input ─▶ a `guest.Report`
    python -m vmcontainer_kernel.vm.kvm rungs PID       ─▶ a line for each rung of the ladder that was reached
    python -m vmcontainer_kernel.vm.kvm abilities PID   ─▶ {ability: what happened instead, or ""}

PID is who asks: this program ends with it. An error is a last line ``{"error": …}`` (`errors.to_json`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

from ...container import linux
from ...errors import LabError, to_json
from . import guest, probe


def answers(word: str) -> Iterable[dict[str, Any]]:
    """Do what is asked."""
    if word == "rungs":
        return probe.rungs()
    if word == "abilities":
        return (probe.abilities(),)
    request = guest.Request(**guest.unpacked(json.load(sys.stdin)))
    return (guest.to_json(guest.report(request)),)


def main() -> None:
    """Print the answers, each as soon as it is there: the next one may never come."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    word, parent = sys.argv[1:]
    # Who asked waits for the answer: when that thread ends, nobody does (PR_SET_PDEATHSIG is of the thread, prctl(2)).
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it ended before that
    try:
        for answer in answers(word):
            print(json.dumps(answer), flush=True)
    except (LabError, OSError) as error:
        told = error if isinstance(error, LabError) else LabError(error.strerror or str(error))
        print(json.dumps({"error": to_json(told)}))


if __name__ == "__main__":
    main()
