"""What lesson 3 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def lantern() -> list[dict[str, Any]]:
    """Return the processes of the container lantern, as the node's kernel knows them."""
    processes = lab.node(lab.default_node).view()["processes"]
    return [one for one in processes if one["container"] == "lantern"]


def shares(kind: str) -> bool:
    """Tell whether all of them are in the namespace of the node's own programs."""
    nodes = lab.run(f"stat -L -c %i /proc/self/ns/{kind}", on=lab.default_node).out
    return all(one["namespaces"][kind] == int(nodes) for one in lantern())


PREDICTIONS = (
    Question(
        id="list",
        asks="Does the container's process 1 appear in the node's list?",
        choices=("no, as little as a program in a guest does", "yes, as process 1", "yes, with another number"),
        right=3,
    ),
    Question(
        id="kernel",
        asks="The kernel's release and its boot ID, in a container and on its node: which of them are equal?",
        choices=("both", "the release only", "neither"),
        right=1,
    ),
    Question(
        id="memory",
        asks="How much memory will it see, and for how long will it say that it has been running?",
        choices=(
            "64 MiB, and no time at all",
            "64 MiB, and as long as its node",
            "all the memory of its node, and as long as its node",
        ),
        right=3,
    ),
    Question(
        id="pid",
        asks="Without a `pid` namespace, what will `$$` be?",
        choices=(
            "1, as always in a container",
            "the next free number of the node",
            "nothing: there are no process numbers then",
        ),
        right=2,
    ),
    Question(
        id="name",
        asks="One container gets a name by `--hostname`, the other has no `uts` namespace. What will the two print?",
        choices=("the same: the node's name", "the given name, and the node's", "the given name, and an error"),
        right=2,
    ),
    Question(
        id="links",
        asks="How many network interfaces does it have?",
        choices=("none", "one", "as many as its node"),
        right=2,
    ),
    Question(
        id="order",
        asks="From fast to slow: process, container, clone of a virtual machine?",
        choices=(
            "process, container, machine",
            "container, process, machine",
            "all about equal: it is the same program",
        ),
        right=1,
    ),
    Question(
        id="row",
        asks="Process number, host name, processes in sight, kernel: where is the container's answer the node's?",
        choices=("for none", "for the kernel", "for the kernel and the host name", "for all"),
        right=2,
    ),
)

EXERCISES = (
    Exercise(
        id="lantern",
        asks=(
            "Make a container named `lantern` that shares the host name with its node, and nothing else of the three: "
            "its process numbers and its network stay its own."
        ),
        facts=(
            Fact("no process of a container `lantern` is running", lambda: lantern() != []),
            Fact("`lantern` has a host name of its own", lambda: shares("uts")),
            Fact("`lantern` shares the process numbers of the node", lambda: not shares("pid")),
            Fact("`lantern` shares the network of the node", lambda: not shares("net")),
        ),
        hints=(
            "A container stays if it has a name: the word behind `%%container`.",
            "The option that leaves a namespace out is the one that you have just tried on all three.",
            "The host name belongs to the namespace `uts`.",
        ),
        solution="%%container lantern --without uts\nhostname",
    ),
)

QUIZ = (
    Question(
        id="numbers",
        asks="A program in a container is process 1. How many numbers does that one process have?",
        choices=("one", "two: one in the container and one on its node", "one for each container on the node"),
        right=2,
        why="One process, one record in the kernel, one number in each `pid` namespace from which it can be seen.",
    ),
    Question(
        id="release",
        asks="You update a container's image. What happens to the kernel release that it reports?",
        choices=(
            "it changes with the image",
            "nothing: the kernel is the node's",
            "it is the image's or the node's newer one",
        ),
        right=2,
        why="An image has no kernel in it. The kernel that answers is the one on which the container runs.",
    ),
)

NOTES = (
    "About 25 minutes with the exercise.",
    "Students ask: is a container without namespaces still a container? The kernel does not know that word. "
    "Ask back: which walls does this program need, and against whom?",
)
