"""What lesson 9 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

Process = dict[str, Any]


def first_of(name: str) -> Process:
    """Return process 1 of a container on the default node, or nothing."""
    processes = lab.node(lab.default_node).view()["processes"]
    found = [one for one in processes if one["container"] == name and one["pids"][-1] == 1]
    return found[0] if found else {}


def share(kind: str) -> bool:
    """Tell whether `app` and `helper` are in one namespace of this kind."""
    return bool(first_of("app")["namespaces"][kind] == first_of("helper")["namespaces"][kind])


def is_its_own(kind: str) -> bool:
    """Tell whether it is another namespace than the node's: sharing that one is no pod."""
    nodes = lab.run(f"stat -L -c %i /proc/self/ns/{kind}", on=lab.default_node).out
    return bool(first_of("app")["namespaces"][kind] != int(nodes))


def half_walled() -> list[bool]:
    """Return of each process of user 1000 in `vm` that has a user namespace of its own, but the machine's files and
    process numbers, whether its network is its own too.
    """
    asked = "; ".join(f"stat -L -c %i /proc/self/ns/{kind}" for kind in ("user", "mnt", "net"))
    user, mnt, net = (int(number) for number in lab.run(asked, on="vm").out.split())
    found = []
    for one in lab.node("vm").view()["processes"]:
        its = one["namespaces"]
        if one["uid"] == 1000 and its and its["user"] != user and its["mnt"] == mnt and len(one["pids"]) == 1:
            found.append(its["net"] != net)
    return found


PREDICTIONS = (
    Question(
        id="moved",
        asks="Which number has the calling program after `unshare` with the bit of `pid`, and which one its child?",
        choices=(
            "the program 1, the child 2",
            "the program its old one, the child 1",
            "the program its old one, the child the node's next free one",
        ),
        right=2,
    ),
    Question(
        id="kill9",
        asks="Root in the container sends `KILL` to process 1 of the container. What happens?",
        choices=(
            "the container ends",
            "nothing at all",
            "process 1 ends, and the next process becomes number 1",
        ),
        right=2,
    ),
    Question(
        id="leak",
        asks=(
            "A process gets a mount namespace of its own by `unshare` alone (in the table: the way *shared*) and "
            "mounts something below `/tmp/tree`. Do the processes outside see it?"
        ),
        choices=(
            "no, that is what the namespace is for",
            "yes, and it sees what they mount",
            "no, but it sees what they mount",
        ),
        right=2,
    ),
    Question(
        id="owner",
        asks="User 1000 is root in a user namespace and makes a file. Who owns that file, as the node sees it?",
        choices=("root, number 0", "user 1000", "nobody, number 65534"),
        right=2,
    ),
    Question(
        id="clock",
        asks="What is ahead in a container with `--time-offset boottime=864000`?",
        choices=("the uptime and the date", "only the date", "only the uptime"),
        right=3,
    ),
)

EXERCISES = (
    Exercise(
        id="pod",
        asks=(
            "Kubernetes calls containers that share some walls a *pod*. Make one: containers `app` and `helper` which "
            "share one network and one `ipc` namespace, not the node's, and have process numbers and files for "
            "themselves."
        ),
        facts=(
            Fact("no container `app` is running", lambda: first_of("app") != {}),
            Fact("no container `helper` is running", lambda: first_of("helper") != {}),
            Fact("they have different networks", lambda: share("net")),
            Fact("they have different `ipc` namespaces", lambda: share("ipc")),
            Fact("the network is the node's", lambda: is_its_own("net")),
            Fact("the `ipc` namespace is the node's", lambda: is_its_own("ipc")),
            Fact("they share process numbers", lambda: not share("pid")),
            Fact("they share files", lambda: not share("mnt")),
        ),
        hints=(
            "The second container joins namespaces of the first, by setns(2). The first one is an ordinary container.",
            "`%%container?` lists `--network` and `--ipc`; both take `container:NAME`.",
            "The second line is `%container run --detach --name helper --network container:app …`",
        ),
        solution=(
            "%container run --detach --name app busybox sleep 600\n"
            "%container run --detach --name helper --network container:app --ipc container:app busybox sleep 600"
        ),
    ),
    Exercise(
        id="half",
        asks=(
            "Walls can be put up one by one. Let user 1000 of the machine `vm` run a program which is cut off from the "
            "network, but still has the machine's files and process numbers. It should go on running after the cell."
        ),
        facts=(
            Fact(
                "no program of user 1000 has a user namespace of its own and the machine's files",
                lambda: half_walled() != [],
            ),
            Fact("it has the machine's network", lambda: any(half_walled())),
        ),
        hints=(
            "Only one kind of namespace may be made by an ordinary user. It comes first and makes the other possible.",
            "`unshare -U` makes a user namespace, `-r` maps root, and `-n` makes a network namespace.",
            "In the cell: `%%vm --user 1000`, then `unshare -Urn sleep 600`, in the background.",
        ),
        solution="%%vm --user 1000\nunshare -Urn sleep 600 > /dev/null 2>&1 &\nsleep 1",
    ),
)

QUIZ = (
    Question(
        id="process",
        asks="A process that was never put into a container: in how many namespaces is it?",
        choices=("in none", "in one of each kind", "only in a `user` namespace"),
        right=2,
        why="Those that the kernel made at boot are namespaces like any other. Only their numbers are special.",
    ),
    Question(
        id="stop",
        asks="A container takes ten seconds to stop, each time. What is the most likely reason?",
        choices=(
            "its process 1 has no handler for `TERM`, so the engine waits and then sends `KILL`",
            "the kernel needs that long to take down the namespaces",
            "its zombies have to be buried first",
        ),
        right=1,
        why="For process 1 a signal without a handler is ignored, `KILL` from outside excepted. A handler, or a small "
        "init program before yours, helps.",
    ),
    Question(
        id="rootless",
        asks="Root in a user namespace changes the date. What does the kernel say?",
        choices=(
            "it works: this root has all capabilities",
            "it is refused: the clock does not belong to this user namespace",
            "it works, but only in its own time namespace",
        ),
        right=2,
        why="Capabilities count for what the user namespace owns. The date belongs to no namespace, "
        "so to the first one.",
    ),
    Question(
        id="debug",
        asks="A container's image has no network tools. How do you look at its connections with those of the node?",
        choices=(
            "with `nsenter -n`: join its network, and keep the node's files",
            "with `nsenter -m`: join its files, and keep the node's network",
            "not at all: a program sees all walls of a container, or none",
        ),
        right=1,
        why="The walls are independent of each other, and setns(2) joins one at a time.",
    ),
)

NOTES = (
    "About 20 minutes for the text and 10 for the exercises. If time is short leave out `ipc` and `cgroup`: they are "
    "the least surprising ones.",
    "Students ask: why is the first process so special? Because the kernel needs somebody who inherits orphans, and "
    "must not lose it by accident; on a computer without containers the same rule protects init.",
    "Students ask: if anybody can be root in a user namespace, is that not dangerous? It opens kernel code to ordinary "
    "users that only root could reach before, and several holes were found that way. So some distributions and "
    "Docker's filter forbid it.",
    "`/tmp/walls.py` is in the machine. After `%lab reset` run its cell again before those that use it.",
)
