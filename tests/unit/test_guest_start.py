"""What a guest's agent imports as it starts: each module is a fiftieth of a second of every cold boot."""

import subprocess
import sys
from pathlib import Path

import vmcontainer_kernel

OURS = """
agent agent.channel agent.guest agent.jobs agent.protocol agent.server agent.spawn agent.streams agent.timers
agent.transfer agent.verbs container container.csignal container.jsontext container.light container.record
container.reports errors
"""
LIBRARY = """
_collections_abc _functools _heapq _json _socket _stat _struct errno fcntl gc genericpath heapq itertools os os.path
posixpath select stat struct termios __future__
"""
SHOW = "before = set(sys.modules); import vmcontainer_kernel.agent.guest; print(*set(sys.modules) - before)"


def imported():
    command = f"import sys; sys.path.insert(0, {str(Path(vmcontainer_kernel.__file__).parents[1])!r}); {SHOW}"
    done = subprocess.run([sys.executable, "-ISB", "-c", command], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_guest_starts_with_no_more_than_it_needs():
    ours = {"vmcontainer_kernel", *(f"vmcontainer_kernel.{name}" for name in OURS.split())}
    assert imported() - ours - set(LIBRARY.split()) == set(), (
        "import it where it is used, or say here why every boot needs it"
    )


def test_the_engine_is_what_is_left_out():
    command = f"import sys; sys.path.insert(0, {str(Path(vmcontainer_kernel.__file__).parents[1])!r}); "
    command += "import vmcontainer_kernel.agent.engine; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-ISB", "-c", command], capture_output=True, text=True, check=True)
    late = {name for name in done.stdout.split() if name.startswith("vmcontainer_kernel.")} - imported()
    assert "vmcontainer_kernel.container.runtime" in late
    assert len(late) > 50
