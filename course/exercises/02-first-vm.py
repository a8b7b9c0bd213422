"""What lesson 2 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def view(name: str) -> dict[str, Any]:
    """Return what the hypervisor says of a machine."""
    return lab.machine(name).view()


def given_bytes(name: str) -> int:
    """Return how much memory the hypervisor has given to a machine."""
    return int(view(name)["memory"]["given_bytes"])


PREDICTIONS = (
    Question(
        id="uptime",
        asks="This cell makes a new machine and asks it at once how long it has been running. What will it say?",
        choices=(
            "a small part of a second",
            "some seconds, more than it has existed",
            "hours: as long as this computer",
        ),
        right=2,
    ),
    Question(
        id="equal",
        asks="Kernel, memory size, process 1: which of them are the same in the guest as on the host?",
        choices=("all three", "the kernel", "process 1", "none"),
        right=4,
    ),
    Question(
        id="file",
        asks="What will the host's file say afterwards?",
        choices=("what the guest wrote", "what it said before", "nothing: it is empty then"),
        right=2,
    ),
    Question(
        id="first",
        asks="What becomes of the first machine when a bigger one is made?",
        choices=("it is replaced by the bigger one", "it gets more memory too", "nothing: both run"),
        right=3,
    ),
    Question(
        id="processes",
        asks="How many processes of the host is one virtual machine, with everything that runs in it?",
        choices=("one", "one for each virtual CPU", "one for each process in the guest"),
        right=1,
    ),
    Question(
        id="clock",
        asks="By how much will the guest's clock have moved on between the two readings?",
        choices=("by more than two seconds", "by less than two seconds", "backwards"),
        right=2,
    ),
    Question(
        id="needle",
        asks="Will the host's list of processes show the word?",
        choices=("yes, with a process number of the host", "yes, but without a number", "no"),
        right=3,
    ),
)

EXERCISES = (
    Exercise(
        id="twins",
        asks=(
            "Make two machines, `left` and `right`. `right` has at least 1.5 times the memory of `left`. "
            "`left` runs, and time stands still in `right`."
        ),
        facts=(
            Fact("there is no machine `left` that runs", lambda: view("left")["status"] == "running"),
            Fact("there is no machine `right`", lambda: view("right")["status"] != ""),
            Fact("`right` has not enough memory", lambda: given_bytes("right") >= 1.5 * given_bytes("left")),
            Fact("time goes on in `right`", lambda: view("right")["status"] == "paused"),
        ),
        hints=(
            "Two cells with `%%vm` and a name make two machines. One of them needs an option.",
            "`--memory 512m` gave a machine more memory. Where did time stand still in this lesson?",
            "`%vm pause right` stands in a cell of its own, after the machine was made.",
        ),
        solution=(
            "from IPython import get_ipython\n\n"
            'get_ipython().run_cell_magic("vm", "left", "true")\n'
            'get_ipython().run_cell_magic("vm", "right --memory 512m", "true")\n'
            "%vm pause right"
        ),
    ),
)

QUIZ = (
    Question(
        id="type",
        asks="QEMU is a program on a Linux host. Which type of hypervisor is it then?",
        choices=("type 1 (bare metal)", "type 2 (hosted)", "none: it is an emulator only"),
        right=2,
        why="It runs on an operating system that was there before. Lesson 4 asks where KVM belongs.",
    ),
    Question(
        id="thread",
        asks="What is a virtual CPU for the host's scheduler?",
        choices=("a thread, like any other", "one of the host's processors, taken away from others", "a process"),
        right=1,
        why="So a machine with eight virtual CPUs may run on a host with two; they take turns.",
    ),
    Question(
        id="frozen",
        asks="A program times its loop; meanwhile its machine is paused for a while. What does it measure?",
        choices=(
            "the loop and the pause",
            "the loop alone, as far as the guest's clock can tell",
            "it ends with an error",
        ),
        right=2,
        why=(
            "A pause stops the guest's clock with the guest, so nothing in it can notice. "
            "Only a clock from outside tells it later."
        ),
    ),
)

NOTES = (
    "About 20 minutes. The machine with 512 MB may boot for some seconds if nobody has asked for that size before.",
    "Students ask: where are the guest's files on the host? In one file, the disk image, which is only read; "
    "what the guest changed is in QEMU's memory.",
    "Students ask whether the host can look into the guest nevertheless. Yes: its memory is memory of a process. "
    "The host is not kept from looking, it only has no list. Confidential computing (SEV, TDX) encrypts that memory.",
)
