"""Virtual machines without QEMU: /dev/kvm driven by ioctl(2), for lessons that run a learner's own machine code.

run(Request(code)) ─▶ Report       in a program of its own, with a deadline: for notebooks
rungs(limit_s), abilities()        what KVM can do here, found out by doing it
machine.BareMachine                the machine itself, for a program that waits in KVM_RUN
"""

from .client import abilities, ask, run, rungs
from .exits import Exit, decode
from .guest import Report, Request, Seen

__all__ = ["Exit", "Report", "Request", "Seen", "abilities", "ask", "decode", "run", "rungs"]
