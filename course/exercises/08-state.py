"""What lesson 8 asks: docs/teaching-form.md says how this file is used."""

from pathlib import Path

from vmcontainer_kernel import lab
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def came_from_before(machine: str) -> bool:
    """Tell whether a machine's memory is a private mapping of the snapshot's file, as its QEMU's map has it."""
    ram = cache_dir("states") / "snapshots" / "desk" / "before" / "ram"
    qemu = lab.machine(machine).view()["qemu"]["pid"]
    return str(ram) in Path(f"/proc/{qemu}/maps").read_text()


def side(machine: str) -> str:
    """Return what a machine has in /root/side."""
    return lab.run("cat /root/side", on=machine).out.strip()


PREDICTIONS = (
    Question(
        id="size",
        asks=(
            "The machine has 256 MiB of memory, a processor and a handful of devices. "
            "How much will its snapshot take on the disk?"
        ),
        choices=(
            "256 MiB for the memory, and as much again for processors and devices",
            "less than half of the memory, and less than 1 MiB for all processors and devices",
            "next to nothing: only the programs that run",
        ),
        right=2,
        why="Most of the memory was never written to, so it is zeros, and zeros need not be kept.",
    ),
    Question(
        id="undo",
        asks="The machine is brought back to the snapshot. What does the counter do, which was running then?",
        choices=(
            "it begins with 1: the machine has booted",
            "it goes on from the number it had when the snapshot was made",
            "it goes on from the number it had when the files were removed",
        ),
        right=2,
        why="The counter's process is a part of the memory, and the memory is that of the snapshot.",
    ),
    Question(
        id="cow",
        asks="`east` writes 20 MiB into its memory. Who gets copies of pages?",
        choices=(
            "`east` alone",
            "`east` and `west`, since they share the memory",
            "nobody: they were copied when the machines woke",
        ),
        right=1,
        why="The write meets a shared page, and the host's kernel gives the writer a copy of it.",
    ),
    Question(
        id="dice",
        asks="Both twins get the word to throw. The kernel was given a new seed in each. What do they throw?",
        choices=("different numbers", "the same number", "none: the program notices that it was copied"),
        right=2,
        why="The program took its seed before the snapshot, and both carry it in their memory.",
    ),
    Question(
        id="move",
        asks="The machine moves to another QEMU while the ticker runs. What will its output look like?",
        choices=(
            "some numbers are missing: they fell into the gap",
            "it begins anew with 1 in the other QEMU",
            "all numbers are there, with a pause somewhere",
        ),
        right=3,
        why="While neither QEMU ran, the ticker did not run either, so it has nothing to miss.",
    ),
)

EXERCISES = (
    Exercise(
        id="twins",
        asks=(
            "Branch two machines, `left` and `right`, off the snapshot `desk:before`, and part their ways: "
            "the file `/root/side` shall say `left` in the one and `right` in the other."
        ),
        facts=(
            Fact("the memory of `left` does not come from the snapshot", lambda: came_from_before("left")),
            Fact("the memory of `right` does not come from the snapshot", lambda: came_from_before("right")),
            Fact("in `left` the file `/root/side` does not say `left`", lambda: side("left") == "left"),
            Fact("in `right` the file `/root/side` does not say `right`", lambda: side("right") == "right"),
        ),
        hints=(
            "You made `east` and `west` in the same way.",
            "`%vm clone NAME --from MACHINE:SNAPSHOT`, twice.",
            "Then a cell for each machine: `%%vm left`, and `echo left > /root/side`.",
        ),
        solution=(
            "%vm clone left --from desk:before\n%vm clone right --from desk:before\n"
            "for name in ('left', 'right'):\n    lab.run(f'echo {name} > /root/side', on=name)"
        ),
    ),
)

QUIZ = (
    Question(
        id="parts",
        asks="What does a snapshot of a running machine need, so that its programs go on?",
        choices=(
            "its disk",
            "its memory, and the state of its processors and devices",
            "a list of its processes, and their open files",
        ),
        right=2,
        why="Processes and open files are in the memory: they are what the guest's kernel keeps there.",
    ),
    Question(
        id="clocks",
        asks="A machine wakes from a snapshot of yesterday. Which clock should be corrected?",
        choices=(
            "the time of day",
            "the time since its boot",
            "both",
        ),
        right=1,
        why=(
            "Timers and timeouts count by the time since boot; if that jumped by a day, all of them would ring. "
            "It went on from where it was."
        ),
    ),
    Question(
        id="secrets",
        asks="A web server with its keys in memory is branched ten times from one snapshot. Which danger remains?",
        choices=(
            "none, if each clone gets a host name and an address of its own",
            "programs that drew their seed before the snapshot draw the same numbers ten times",
            "the ten machines can read each other's memory, as they share pages",
        ),
        right=2,
        why="Shared pages are read only, and a write makes a copy. But a seed in a program's memory is copied with it.",
    ),
    Question(
        id="race",
        asks="A guest overwrites its whole memory again and again while it is to be migrated. What happens?",
        choices=(
            "the migration takes as long as for an idle guest",
            "the pages change faster than they can be sent: it must be slowed down, or stand still for longer",
            "the guest's writes are lost",
        ),
        right=2,
        why="What was written to after it was sent must be sent again.",
    ),
)

NOTES = (
    "About 20 minutes, 25 with the exercise. At most three small machines run at once.",
    "Students ask: does a restored machine know that it was restored? Not by itself. It can suspect it by its clock, "
    "or be told by a device (VM Generation ID); Linux 6.1 of the lab's guest has no driver for that in its cloud "
    "kernel, so the lab's agent tells it.",
    "Students ask: and the network? Connections live in both ends. If a machine goes back in time, the other end has "
    "gone on, and the connection breaks; if it moves, its address must move with it, which is why migration usually "
    "stays within one network.",
    "Students ask: can KVM do all that? Yes; the state of the virtual CPUs is then asked from the kernel (KVM_GET_REGS "
    "and its kin), and pages written to are noted by the processor.",
    "If somebody was here before: `%vm snapshot rm desk:before` makes the name free.",
)
