"""What lesson 4 asks: docs/teaching-form.md says how this file is used."""

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

NETWORK = "0x020000"  # the class of network cards (PCI Code and ID Assignment Specification)


def runs() -> bool:
    """Tell whether the machine blind runs."""
    return bool(lab.machine("blind").view()["status"] == "running")


def made() -> int:
    """Return how many devices QEMU has on the PCI bus, those of the board not counted."""
    return sum(1 for one in lab.machine("blind").view()["devices"] if one["bus"] == "pci")


def classes() -> list[str]:
    """Return the class of each card that the guest knows and that is none of the board's."""
    return lab.run("cat /sys/bus/pci/devices/0000:00:0[1-9].0/class", on="blind").out.split()


PREDICTIONS = (
    Question(
        id="cpuid",
        asks="The same function runs on the host and in the guest. Who answers in the guest?",
        choices=(
            "the host's processor: both answers are the same",
            "what runs the guest: it gives an answer of its own",
            "nobody: a guest may not ask",
        ),
        right=2,
    ),
    Question(
        id="module",
        asks="In `vm` an ordinary Linux is running. Can it become a hypervisor now?",
        choices=(
            "no: a hypervisor has to be there before the operating system",
            "only after a restart",
            "yes, as it is",
        ),
        right=3,
    ),
    Question(
        id="dom0",
        asks="What is Domain-0, the system in which `xl list` was typed?",
        choices=("the hypervisor itself", "a guest of the hypervisor", "a process of this computer"),
        right=2,
    ),
    Question(
        id="sigstop",
        asks="SIGSTOP, two seconds, SIGCONT. By how much has the guest's clock moved on?",
        choices=("by two seconds", "hardly, as after a pause in lesson 2", "backwards"),
        right=1,
    ),
    Question(
        id="remove",
        asks="The guest has removed one of its cards. Does QEMU still have it?",
        choices=("yes, as before", "no: it is gone", "yes, but it is marked as broken"),
        right=1,
    ),
    Question(
        id="defaults",
        asks="Which cards does a QEMU have that was asked for none?",
        choices=("none at all", "those of the board only", "those of the board, a graphics card and a network card"),
        right=3,
    ),
)

EXERCISES = (
    Exercise(
        id="blind",
        asks=(
            "Make a machine `blind` whose guest has forgotten its network card, and only that one, "
            "while QEMU still has all of them. (Network cards are of class 0x020000.)"
        ),
        facts=(
            Fact("there is no machine `blind` that runs", runs),
            Fact("the guest still has its network card", lambda: NETWORK not in classes()),
            Fact("the guest has lost other cards as well", lambda: len(classes()) == made() - 1),
        ),
        hints=(
            "In this lesson a guest has forgotten another card. Which file did it write to?",
            "Each folder in /sys/bus/pci/devices has a file `class`.",
            "`grep -l 0x020000 /sys/bus/pci/devices/*/class` names the folder in which there is a file `remove`.",
        ),
        solution=("%%vm blind\ncard=$(grep -l 0x020000 /sys/bus/pci/devices/*/class)\necho 1 > ${card%/class}/remove"),
    ),
)

QUIZ = (
    Question(
        id="kvm",
        asks="What speaks for calling KVM a type 1 hypervisor?",
        choices=(
            "it is part of the kernel, which rules the hardware",
            "its machines are processes",
            "it is older than Linux",
        ),
        right=1,
        why="And that its machines are processes speaks for type 2. The two words divide less than they seem to.",
    ),
    Question(
        id="name",
        asks="A program reads `KVMKVMKVM` by CPUID. What does it know for sure?",
        choices=(
            "it runs on KVM",
            "somebody who lends the processor answers with this name",
            "it runs on a real processor",
        ),
        right=2,
        why="Who lends a processor answers for it, and may answer with any name. VirtualBox does use this one.",
    ),
    Question(
        id="drivers",
        asks="Xen has next to no drivers. Who drives disk and network?",
        choices=("nobody: Xen has no devices", "the firmware", "Domain-0, a guest with rights"),
        right=3,
        why="So a fault in a driver is a fault in a guest. That guest is trusted, though: it can reach all data.",
    ),
    Question(
        id="late",
        asks="A laptop on which a KVM machine runs was asleep for an hour. Why may the guest misbehave afterwards?",
        choices=(
            "its memory is empty",
            "its clock has moved on by an hour in which it did not live",
            "its devices are gone",
        ),
        right=2,
        why="Nobody asked the hypervisor to stop the guest's clock. Time limits of an hour have run out at once.",
    ),
)

NOTES = (
    "About 25 minutes with the exercise. A machine with Xen is made ready by `vmcontainer setup --system xen`; "
    "without it, the first cell on Xen takes half a minute to two minutes, and the fetching needs the network.",
    "Students ask: is my cloud server's host a real computer? The bit says whether there is a hypervisor, never how "
    "many. Steal time (`st` in top, the eighth number of /proc/stat) is what a guest can learn of its neighbours.",
    "Students ask why the host has no CPUID on an ARM computer. There the same is read from device tree or ACPI, "
    "and the cell with machine code cannot run; the guest here is x86-64 everywhere, so its half works.",
    "Goldberg's division is in his thesis, Architectural Principles for Virtual Computer Systems (Harvard, 1973).",
)
