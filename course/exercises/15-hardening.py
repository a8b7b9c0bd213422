"""What lesson 15 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

NODE = "target"


SEEN: dict[str, Any] = {}
"""What the target's kernel said of timekeeper when the first fact was asked; looking is dear under emulation."""


def look() -> bool:
    """Look at it anew; tell whether it runs."""
    view = lab.node(NODE).view()
    walls = [one for one in view["isolation"] if one["container"] == "timekeeper"]
    counted = [one for one in view["containers"] if one["name"] == "timekeeper"]
    SEEN.clear()
    for row in (*walls, *counted):
        SEEN.update(row)
    return bool(walls)


def root_is_read_only() -> bool:
    """Tell whether its process 1 has a root that cannot be written (the fourth word of a line of /proc/PID/mounts)."""
    mounts = lab.run(["cat", f"/proc/{SEEN['pid']}/mounts"], on=NODE).out
    options = next(line.split()[3] for line in mounts.splitlines() if line.split()[1] == "/")
    return "ro" in options.split(",")


PREDICTIONS = (
    Question(
        id="leaks",
        asks=(
            "How much does a container with all its walls know about its node: the kernel's release, the number of its "
            "boot, how long it has been running, where on the node the container's files are?"
        ),
        choices=("nothing of it", "the release only, as all programs need it", "all four"),
        right=3,
    ),
    Question(
        id="side",
        asks="Can `chatty` tell `spy` a number, without network, shared files or a hole in the kernel?",
        choices=(
            "no: there is nothing that both of them can touch",
            "only if they share a namespace",
            "yes, whatever walls are up",
        ),
        right=3,
    ),
    Question(
        id="wall",
        asks="You take away exactly one wall. Without which one do most doors open?",
        choices=("the filter of system calls", "the bound on capabilities", "the read-only paths", "the device list"),
        right=2,
    ),
    Question(
        id="core",
        asks=(
            "The container writes the name of a program *of its own* into `core_pattern` and lets a process crash. "
            "Who runs that program?"
        ),
        choices=(
            "nobody: on the node there is no such program",
            "the container's root, with no capability",
            "the node's root, with all of them",
        ),
        right=3,
    ),
    Question(
        id="rootless",
        asks=(
            "User 1000 becomes user 0 of his own user namespace. Which of these can he do: mount in a mount namespace "
            "of his own, change the host's name, set the clock, make a disk's file, look at process 1?"
        ),
        choices=("all: he has every capability", "only the mount", "nothing: he is user 1000 in truth"),
        right=2,
    ),
    Question(
        id="host",
        asks="What can the root of the guest reach?",
        choices=(
            "all of the guest, and the file here: root may read everything",
            "all of the guest, and nothing here",
            "not even all of the guest: QEMU has a filter",
        ),
        right=2,
    ),
)

EXERCISES = (
    Exercise(
        id="timekeeper",
        asks=(
            "A program is to set the clock of `target`, and nothing else. Build its container, named `timekeeper`: of "
            "all capabilities it has CAP_SYS_TIME alone, its root file system cannot be written, it has at most 16 "
            "processes, and no other wall is missing."
        ),
        facts=(
            Fact("no container `timekeeper` is running on `target`", look),
            Fact("`timekeeper` cannot set the clock", lambda: "SYS_TIME" in SEEN["capabilities"]["effective"]),
            Fact("it has other capabilities as well", lambda: SEEN["capabilities"]["bounding"] == ["SYS_TIME"]),
            Fact("its root file system can be written", root_is_read_only),
            Fact("it may have more than 16 processes", lambda: (SEEN["pids"]["limit"] or 99) <= 16),
            Fact(
                "the filter of system calls or no_new_privs is missing",
                lambda: SEEN["seccomp"] == "filter" and SEEN["no_new_privs"],
            ),
        ),
        hints=(
            "Begin with nothing: one option takes all capabilities away, another gives one back.",
            "`--cap-drop ALL` and `--cap-add`; `%%container?` tells how the other two options are called.",
            "`--read-only` and `--pids-limit`. And do not forget on which machine it is to run.",
        ),
        solution=(
            "%%container timekeeper --on target --cap-drop ALL --cap-add SYS_TIME --read-only --pids-limit 16\n"
            "date -s @$(date +%s) >/dev/null && echo the clock is set"
        ),
    ),
)

QUIZ = (
    Question(
        id="third",
        asks="In the third way out the container had no capability. What was it that let it out?",
        choices=(
            "a hole in the kernel, which let a process without capabilities write that file",
            "it was user 0, to whom the file belongs, and the kernel starts that program outside of all namespaces",
            "the filter of system calls, which was not up for a container without capabilities",
        ),
        right=2,
        why="All parts did what they are made for. One wall was missing, and no other stood behind it.",
    ),
    Question(
        id="pipe",
        asks='A hole in the kernel\'s pipes is found, which every program may use ("Dirty Pipe", 2022). What protects?',
        choices=("dropping all capabilities", "a read-only root file system", "a kernel of its own"),
        right=3,
        why=(
            "Pipes need no capability, the usual filter lets them through, and the hole wrote to files that were "
            "mounted read-only. In a virtual machine it breaks the guest's kernel, and stays there."
        ),
    ),
    Question(
        id="tenants",
        asks="You run code that strangers send you. Which is the best beginning?",
        choices=(
            "a container for each of them: they are isolated",
            "a virtual machine for each of them, perhaps with containers in it",
            "a privileged container, so that nothing fails",
        ),
        right=2,
        why="Strangers are many tenants on one kernel otherwise, and a single hole in it opens all containers at once.",
    ),
    Question(
        id="escape",
        asks="What must go wrong for the root of a guest to reach the computer below it?",
        choices=(
            "a namespace of the guest is left out, so that it sees the processes outside",
            "the hypervisor has a hole, and then the walls around its process have one, too",
            "the guest's kernel crashes, and what ran in it goes on outside",
        ),
        right=2,
        why="It has happened (VENOM, 2015). The devices that a hypervisor plays are the door; the fewer, the smaller.",
    ),
)

NOTES = (
    "About 25 minutes with the exercise; the three ways out are what is remembered, so leave time for them.",
    "Say the rule at the beginning aloud. All attacks run in the guest `target`; the cells never take a wall from a "
    "container on the host.",
    "Students ask: is Docker this weak? No: in each way out an option was given that Docker has, too, and whose manual "
    "warns of it. Ask back: who of you has typed --privileged because something did not work?",
    "Students ask: can a virtual machine not be broken out of? It can, and has been; show the two lines of the table "
    "without a wall next to VENOM, and compare what had to be found: any of some 300 system calls, or one of nine "
    "devices.",
    "If the spy receives another number, somebody else starts processes in `target` just then, perhaps a second cell; "
    "run the cell again.",
)
