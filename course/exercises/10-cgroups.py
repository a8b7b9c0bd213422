"""What lesson 10 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def running(name: str) -> dict[str, Any]:
    """Return what the kernel has counted for a running container of the default node, or nothing."""
    containers = lab.node(lab.default_node).view()["containers"]
    return next((one for one in containers if one["name"] == name and one["status"] == "running"), {})


PREDICTIONS = (
    Question(
        id="parent",
        asks="`child` has no limit, its parent `box` has 3. A shell in `child` starts five programs. What happens?",
        choices=(
            "all five start: the child has no limit",
            "the parent's limit holds: starting them fails",
            "nothing is counted: the processes are not in the parent",
        ),
        right=2,
    ),
    Question(
        id="tenth",
        asks="How does the kernel hold a program to a tenth of a CPU?",
        choices=(
            "by a lower clock rate: everything takes ten times as long",
            "it runs at full speed, and stands still for most of each tenth of a second",
            "by a low priority: it runs when nobody else wants to",
        ),
        right=2,
    ),
    Question(
        id="alone",
        asks="`heavy` has four times the weight of `light`. What does `light` get while `heavy` is paused?",
        choices=("a fifth, as before", "half", "all that is free"),
        right=3,
    ),
    Question(
        id="oom",
        asks="The container may have 24 MiB. What happens to a program in it that wants more and more?",
        choices=(
            "it is told that there is no more memory, and ends with an error message",
            "it is killed; the container and its neighbour go on",
            "the container is ended, with all that is in it",
        ),
        right=2,
    ),
    Question(
        id="cache",
        asks="A container with 12 MiB reads a disk that is larger than that. What happens?",
        choices=(
            "it is killed when the page cache reaches 12 MiB",
            "it reads to the end, with the page cache at the limit",
            "it reads to the end, and the page cache is not charged to it",
        ),
        right=2,
    ),
    Question(
        id="again",
        asks="The limit is 4 MiB a second. How long does the second read of the 8 MiB take, in the ordinary way?",
        choices=(
            "two seconds, as the first",
            "longer: the first has used up what `slow` may read",
            "nearly no time",
        ),
        right=3,
    ),
)

EXERCISES = (
    Exercise(
        id="modest",
        asks=(
            "Make a container `modest` that keeps running and may use half a CPU, 48 MiB of memory and 20 processes, "
            "no more."
        ),
        facts=(
            Fact("no container `modest` is running", lambda: running("modest") != {}),
            Fact("its CPU is not limited to a half", lambda: running("modest")["cpu"]["limit_cpus"] == 0.5),
            Fact("its memory is not limited to 48 MiB", lambda: running("modest")["memory"]["limit_bytes"] == 48 << 20),
            Fact("its processes are not limited to 20", lambda: running("modest")["pids"]["limit"] == 20),
        ),
        hints=(
            "A container keeps running if it has a name. `%%container?` lists the options.",
            "One option for each limit: `--cpus`, `--memory` and `--pids-limit`.",
            "Half a CPU is `--cpus 0.5`, and 48 MiB are `--memory 48m`.",
        ),
        solution="%%container modest --cpus 0.5 --memory 48m --pids-limit 20\ntrue",
    ),
    Exercise(
        id="survivor",
        asks=(
            "Make a container `survivor` in which the kernel has killed a process for lack of memory, while the "
            "container itself is running."
        ),
        facts=(
            Fact("no container `survivor` is running", lambda: running("survivor") != {}),
            Fact("it has no memory limit", lambda: running("survivor")["memory"]["limit_bytes"] is not None),
            Fact(
                "nothing was killed in it for lack of memory",
                lambda: running("survivor")["memory"]["oom_kills"] > 0,
            ),
        ),
        hints=(
            "You need a limit, and a program which wants more than that.",
            "`dd if=/dev/zero of=/dev/null bs=100M count=1` wants 100 MiB. Let it be some other process than number 1.",
            "The cell ends with an error, which is right here; `--no-raise-error` leaves the error out.",
        ),
        solution="%%container survivor --memory 16m --no-raise-error --err _\n"
        "dd if=/dev/zero of=/dev/null bs=100M count=1",
    ),
)

QUIZ = (
    Question(
        id="slow",
        asks="A service answers slowly, but on average its container uses far less CPU than it may. Where do you look?",
        choices=(
            "at `nr_throttled`: short bursts may be held up though the average is low",
            "at its weight: it is too low",
            "at nothing in the control group: below the limit it has no effect",
        ),
        right=1,
        why="The quota counts in each 100 ms. Four threads that work for 30 ms at once use up a whole CPU's period.",
    ),
    Question(
        id="full",
        asks="A container's memory is at 100 % of its limit, without kills. Is it in trouble?",
        choices=(
            "yes, the next page kills it",
            "not if most of it is page cache",
            "no, at the limit the kernel always slows down first",
        ),
        right=2,
        why="Cache is dropped when the group needs pages. What counts is the part that cannot be dropped, and PSI.",
    ),
    Question(
        id="tree",
        asks="A group's own `memory.max` is 1 GiB, its parent's 512 MiB, its grandparent's `max`. How much may it use?",
        choices=("1 GiB: the nearest limit counts", "512 MiB, and that together with its siblings", "no limit"),
        right=2,
        why="Every limit on the way to the root holds, and a parent's counts all that is below it together.",
    ),
    Question(
        id="weight",
        asks="Which of these never makes a program slower on a computer that has nothing else to do?",
        choices=("`--cpus 0.5`", "`--cpu-shares 10`", "`--cpuset-cpus 0` for a program with four threads"),
        right=2,
        why="A weight counts only where others compete.",
    ),
)

NOTES = (
    "About 20 minutes for the text and 10 for the exercises. The plots and pauses are worth waiting for; if time is "
    "short leave out `memory.high`.",
    "Students ask: why not always set limits? A CPU quota costs latency even on an idle computer. A usual advice is: "
    "memory and processes always limited, CPU by weight.",
    "Students ask: can the container raise its own limits? Not if it cannot write the group's files: inside they are "
    "mounted read-only. And where a group is handed to somebody else on purpose, he is given the folder and "
    "`cgroup.procs`, not the files with the limits: they share out what is the parent's.",
    "On a busy computer `used` stays below `quota` in the plot: others were running. The pauses are counted anyway.",
)
