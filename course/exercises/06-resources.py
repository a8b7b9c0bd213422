"""What lesson 6 asks: docs/teaching-form.md says how this file is used."""

import os
import time
from pathlib import Path
from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

MIB = 1 << 20
BUSY = "rm -f /run/enough; timeout 15 sh -c 'until [ -e /run/enough ]; do :; done' > /dev/null 2>&1 &"


def ledger() -> dict[str, Any]:
    """Return the hypervisor's view of the machine ledger."""
    return lab.machine("ledger").view()


def was_plugged(view: dict[str, Any]) -> bool:
    """Tell whether a processor was plugged in: one that was there at the start is no device with a name."""
    return any("cpu" in one["type"] for one in view["devices"])


def thread(machine: str) -> int:
    """Return the host's thread behind a machine's first virtual CPU."""
    return int(lab.machine(machine).view()["vcpus"][0]["thread_id"])


def on_one_cpu() -> bool:
    """Tell whether gold and bronze have to share one CPU of the host."""
    places = [os.sched_getaffinity(thread(name)) for name in ("gold", "bronze")]
    return places[0] == places[1] and len(places[0]) == 1


def ran_s(number: int) -> float:
    """Return how long a thread ran on a CPU of the host, in seconds."""
    return int(Path(f"/proc/{number}/schedstat").read_text().split()[0]) / 1e9


def bronze_is_ahead() -> bool:
    """Make both busy and see which of them gets more of the CPU."""
    for name in ("gold", "bronze"):
        lab.run(BUSY, on=name)
    time.sleep(0.2)
    pair = [thread(name) for name in ("gold", "bronze")]
    before = [ran_s(number) for number in pair]
    time.sleep(1.2)
    gold, bronze = (ran_s(number) - old for number, old in zip(pair, before, strict=True))
    for name in ("gold", "bronze"):
        lab.run("touch /run/enough", on=name)
    return bronze > 1.3 * gold


PREDICTIONS = (
    Question(
        id="vcpu",
        asks="The guest is busy on its virtual CPU for one second. What does the host's book show for the thread?",
        choices=(
            "nothing: the CPU is virtual, and costs no real time",
            "up to one second more of CPU time",
            "always one second more: a virtual CPU uses its real CPU whether the guest works or not",
        ),
        right=2,
        why="A thread runs when the guest has work, and sleeps when it has none.",
    ),
    Question(
        id="squeezed",
        asks="Two virtual CPUs, one real one, both busy. What will the guest's program see?",
        choices=(
            "one CPU: the other one is switched off",
            "two CPUs, which together do the work of one",
            "an error: there is no CPU for the second",
        ),
        right=2,
        why="The guest counts what it was given, and does not see how many real CPUs are behind it.",
    ),
    Question(
        id="thin",
        asks="A disk of 1 GiB with an empty file system is attached. How much does its file take on the host?",
        choices=("1 GiB: what is given must be there", "a few MiB", "nothing: the file appears with the first write"),
        right=2,
        why="The empty file system has tables of its own, and these were written.",
    ),
    Question(
        id="freed",
        asks="The guest removes the file, so 120 MiB are free in the guest. How much does the host get back?",
        choices=("all of it", "about half of it", "nothing"),
        right=3,
        why="The guest's list of free pages is the guest's own business.",
    ),
    Question(
        id="balloon",
        asks="The balloon takes 128 of the guest's 256 MiB. What will `MemTotal` say in the guest?",
        choices=("128 MiB less", "the same as before", "the guest must boot anew to tell"),
        right=2,
        why="To the guest's kernel the memory is there, and a driver uses it.",
    ),
    Question(
        id="weights",
        asks="Weights 1024 and 256, one CPU, both busy. Who gets what?",
        choices=(
            "both the same: a weight counts only for memory",
            "`gold` about four times as much as `bronze`",
            "`gold` all, until it has finished",
        ),
        right=2,
        why="A weight is a share of what is contended, and everybody gets his share.",
    ),
)

EXERCISES = (
    Exercise(
        id="ledger",
        asks=(
            "Make a machine `ledger` with one CPU and 256 MiB. Then, while it runs, give it a second CPU, "
            "and take so much of its memory that 128 MiB are left."
        ),
        facts=(
            Fact("there is no machine `ledger` that runs", lambda: ledger()["status"] == "running"),
            Fact("`ledger` does not have two virtual CPUs", lambda: len(ledger()["vcpus"]) == 2),
            Fact("no CPU of `ledger` was plugged in while it ran", lambda: was_plugged(ledger())),
            Fact("the guest does not use two CPUs", lambda: int(lab.run("nproc", on="ledger").out) == 2),
            Fact(
                "the balloon of `ledger` does not leave 128 MiB",
                lambda: abs(ledger()["memory"]["balloon_bytes"] - 128 * MIB) < MIB,
            ),
        ),
        hints=(
            "A machine that is to grow must have room for a second CPU from the beginning.",
            "`%vm update` takes several options at once.",
            "`%vm start ledger --max-cpus 2`, and then `%vm update ledger` with `--cpus` and `--memory`.",
        ),
        solution="%vm start ledger --max-cpus 2\n%vm update ledger --cpus 2 --memory 128m",
    ),
    Exercise(
        id="tables",
        asks=(
            "Turn the tables: see to it that `bronze` gets more of the CPU than `gold`, while both run. "
            "The check makes both busy and measures for a second."
        ),
        facts=(
            Fact("`gold` and `bronze` are not tied to one CPU of the host", on_one_cpu),
            Fact("`gold` still gets as much as `bronze`, or more", bronze_is_ahead),
        ),
        hints=(
            "The weight of a running machine can be changed.",
            "Not everybody may raise a weight. To lower the other one does as well.",
            "`%vm update gold` with `--cpu-shares`, and a number far below 256.",
        ),
        solution="%vm update gold --cpu-shares 32",
    ),
)

QUIZ = (
    Question(
        id="instant",
        asks=(
            "A host with 4 CPUs runs 10 machines with 2 virtual CPUs each, all busy. "
            "How many virtual CPUs run at one instant?"
        ),
        choices=("20", "10", "4"),
        right=3,
        why="They are threads, and a CPU runs one thread at a time. The other 16 wait, which their guests call steal.",
    ),
    Question(
        id="returned",
        asks="A program in a guest has freed 1 GiB. When can the host use that memory?",
        choices=(
            "at once",
            "when a driver in the guest names the pages to the hypervisor, as the balloon does",
            "when the guest has been idle for some time",
        ),
        right=2,
        why="Only the guest knows which of its pages are free.",
    ),
    Question(
        id="idle-rival",
        asks="Weights 1024 and 256, one CPU; the machine with 1024 is idle. How much does the other one get?",
        choices=("a fifth of the CPU", "a quarter of the CPU", "the whole CPU"),
        right=3,
        why="Weights count only where there is a queue. A cap (`--cpu-quota`) would hold it back.",
    ),
    Question(
        id="promise",
        asks="The machines of a host were given more memory in all than the host has. When does that go wrong?",
        choices=(
            "at once: the last machine cannot start",
            "when the guests together have touched more than there is",
            "never: the balloon sees to it",
        ),
        right=2,
        why=(
            "What was never touched takes nothing. But a page that a guest has touched must be somewhere; a balloon "
            "helps only as far as guests can spare something."
        ),
    ),
)

NOTES = (
    "About 20 minutes, 30 with both exercises. All machines are small; at most three run at once.",
    "Students ask: why does the machine with two CPUs on one not simply show one? Answer: the guest's kernel was told "
    "two by the board's tables (ACPI), and a kernel cannot see behind its board. Clouds sell by such numbers, so ask "
    "what a vCPU is: with most of them, one hyperthread.",
    "Students ask: does the guest know that it is robbed? With KVM it is told (steal, a page that both share). Under "
    "emulation it is not: it even loses ticks of its clock interrupt, and counts too little of everything.",
    "Students ask: could the guest not report free pages all the time? It can: that is free page reporting, another "
    "service of virtio-balloon. It gives memory back unasked and costs CPU time; the lab's machines have it off.",
    "On a very busy computer a measured share may miss its bound (1.5 or 1.3): repeat the cell.",
)
