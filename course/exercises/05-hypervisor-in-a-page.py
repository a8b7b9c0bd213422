"""What lesson 5 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from IPython.core.getipython import get_ipython

from vmcontainer_kernel.errors import LabError
from vmcontainer_kernel.teaching import Exercise, Fact, Question

MOST_BYTES = 12


def named(name: str) -> Any:
    """Return what the learner's notebook calls by this name; None if nothing."""
    shell = get_ipython()
    return shell.user_ns.get(name) if shell else None


def code() -> bytes:
    """Return the machine code of `countdown`."""
    return bytes(getattr(getattr(named("countdown"), "code", None), "data", b""))


def exits() -> list[str]:
    """Return the exits that KVM has for it, in the machine vm; one that does not end has none."""
    hypervisor = named("hypervisor")
    try:
        return list(hypervisor(named("countdown"))) if hypervisor and code() else []
    except (LabError, AssertionError):
        return []


PREDICTIONS = (
    Question(
        id="exits",
        asks="Five instructions. How often does `KVM_RUN` return?",
        choices=("five times, once for each", "twice", "once, at the end"),
        right=2,
    ),
    Question(
        id="turns",
        asks="A loop of ten thousand turns. How many exits does the page see?",
        choices=("ten thousand", "about a hundred: each time the host's clock ticks", "one"),
        right=3,
    ),
    Question(
        id="hidden",
        asks="The page saw two exits of the program `five`. How many did KVM see?",
        choices=("the same two", "more", "fewer"),
        right=2,
    ),
    Question(
        id="device",
        asks="Which character will this guest write?",
        choices=("none: there is no keyboard", "B", "the last key that you have pressed, and one more"),
        right=2,
    ),
    Question(
        id="blocks",
        asks="The guest counts to 200, and then to 20 000. How many more blocks will QEMU translate for the second?",
        choices=("a hundred times as many", "ten times as many", "hardly any"),
        right=3,
    ),
)

EXERCISES = (
    Exercise(
        id="countdown",
        asks=(
            "Write a guest `countdown` (`%%asm countdown --run none --origin 0`) that writes 3, 2 and 1 to port 0xe9 "
            "and halts. It has at most 12 bytes."
        ),
        facts=(
            Fact("there is no program `countdown`", lambda: code() != b""),
            Fact(
                "your function `hypervisor` is not there: run its cells first", lambda: named("hypervisor") is not None
            ),
            Fact("under your hypervisor it does not end with `hlt`", lambda: exits()[-1:] == ["HLT"]),
            Fact(
                "your hypervisor sees other exits than 3, 2, 1 at port 0xe9",
                lambda: exits()[:-1] == [f"out 0xe9 {number}" for number in "321"],
            ),
            Fact("it has more than 12 bytes", lambda: len(code()) <= MOST_BYTES),
        ),
        hints=(
            "Three times the same means a loop. You have seen one in this lesson that also counts down.",
            "One register can count and be written: begin with `mov al, '3'`, and end when it is `'0'`.",
            "`dec al`, then `cmp al, '0'`, then `jne` back to `out 0xe9, al`.",
        ),
        solution=(
            "%%asm countdown --run none --origin 0\n"
            "mov al, '3'\n"
            "again: out 0xe9, al\n"
            "dec al\n"
            "cmp al, '0'\n"
            "jne again\n"
            "hlt"
        ),
    ),
)

QUIZ = (
    Question(
        id="fast",
        asks="Why is a virtual machine with KVM nearly as fast as a real one?",
        choices=(
            "its instructions are translated only once",
            "the processor itself carries them out, and few of them exit",
            "it has fewer devices",
        ),
        right=2,
        why="The guest is on the processor until it does what only a hypervisor can answer. TCG is what translates.",
    ),
    Question(
        id="who",
        asks="A guest writes to a disk controller's port. Who carries it out, with KVM and QEMU?",
        choices=("the processor", "KVM, in the kernel", "QEMU: KVM_RUN has returned to it"),
        right=3,
        why="KVM knows processors, memory and interrupts. What a port means, the program above it knows.",
    ),
    Question(
        id="memory",
        asks="Where is the guest's memory?",
        choices=(
            "in the hypervisor process's own memory",
            "in a part of the RAM that the kernel has put aside",
            "in the file /dev/kvm",
        ),
        right=1,
        why="KVM_SET_USER_MEMORY_REGION tells KVM an address of the process. So the host can swap, share and read it.",
    ),
    Question(
        id="endless",
        asks="A guest runs in an endless loop. Can the host still take its processor away?",
        choices=(
            "no: there is no exit",
            "only by ending the host's kernel",
            "yes: an interrupt of the host's clock is an exit too",
        ),
        right=3,
        why="KVM deals with that exit itself, lets the scheduler choose, and the program above it never hears of it.",
    ),
)

NOTES = (
    "About 25 minutes with the exercise. Machine code frightens some; the four pieces of the page are the lesson, "
    "and the guests can be read as words.",
    "The page needs a /dev/kvm in `vm`. It is there wherever machines are emulated, as QEMU emulates AMD's SVM, and "
    "on a host with KVM if its module allows nesting (kvm_intel.nested=1, the default since Linux 4.20).",
    "Students ask: are these exits real? Where `vm` is emulated, the exits of its processor are QEMU's doing; for the "
    "Linux in it, and for the page, there is no difference. That is the lesson's claim, applied to the lesson.",
    "Students ask where interrupts are. Without KVM_CREATE_IRQCHIP there is no interrupt controller, so `hlt` can only "
    "be the end; with it, KVM deals with `hlt` itself, and KVM_RUN would not return.",
)
