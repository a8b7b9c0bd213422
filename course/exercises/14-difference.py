"""What lesson 14 asks: docs/teaching-form.md says how this file is used."""

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def containers(node: str) -> dict[str, int]:
    """Return what a node's kernel has charged to each of its running containers, in bytes."""
    rows = lab.node(node).view()["containers"]
    return {one["name"]: one["memory"]["usage_bytes"] for one in rows if one["status"] == "running"}


def heavy_bytes() -> int:
    """Return what the container heavy costs; 0 if there is none."""
    return containers(lab.default_node).get("heavy", 0)


def clone_bytes() -> int:
    """Return what the machine m1 has for itself."""
    return int(lab.machine("m1").view()["memory"]["private_bytes"])


PREDICTIONS = (
    Question(
        id="shared",
        asks="In which of the eight rows will the container give the same answer as its node?",
        choices=(
            "in none: it is isolated",
            "kernel, time of its start, loaded modules",
            "kernel, processes, host name",
            "in all but the host name",
        ),
        right=2,
    ),
    Question(
        id="doors",
        asks="Root in a container, root in a machine: who may load a kernel module?",
        choices=("both", "neither", "only the one in the container", "only the one in the machine"),
        right=4,
    ),
    Question(
        id="phases",
        asks="A machine is booted from nothing. Where does most of the time go?",
        choices=(
            "to QEMU, which must build a whole computer",
            "to the guest: its kernel and its first programs",
            "to the lab, which waits for an answer",
        ),
        right=2,
    ),
    Question(
        id="ready",
        asks="An application needs three seconds until it is ready. Which is ready first?",
        choices=(
            "a new container of it",
            "a machine woken from a snapshot that was taken when it was ready",
            "both after the same time",
        ),
        right=2,
    ),
    Question(
        id="given",
        asks="A clone is given 256 MiB and does nothing. How much does it have for itself alone?",
        choices=("256 MiB: they are given", "tens of MiB", "nothing at all, as long as it does nothing"),
        right=2,
    ),
    Question(
        id="idle",
        asks="For three seconds nobody does anything. Who uses processor time?",
        choices=("neither", "the machines only", "the containers only", "both"),
        right=2,
    ),
)

EXERCISES = (
    Exercise(
        id="heavy",
        asks=(
            "The third case: a container is as light as what you put into it. Make a container `heavy` that costs more "
            "memory than the machine `m1` has for itself (128 MiB at most, please)."
        ),
        facts=(
            Fact("no container `heavy` is running", lambda: heavy_bytes() > 0),
            Fact("`heavy` costs less than the machine `m1`", lambda: heavy_bytes() > clone_bytes()),
            Fact("`heavy` costs more than 128 MiB", lambda: heavy_bytes() < 160 << 20),
        ),
        hints=(
            "A program's own memory counts, and so do files that lie in memory.",
            "`--tmpfs /m` gives the container a folder in memory; write a large file there.",
            "`head -c 64m /dev/zero > /m/file` writes 64 MiB of zeros.",
        ),
        solution="%%container heavy --tmpfs /m\nhead -c 64m /dev/zero > /m/file",
    ),
    Exercise(
        id="tenant",
        asks=(
            "A customer whom you do not know brings a container. Run it as `tenant`, for some minutes, so that its "
            "kernel is *not* the one of your other containers."
        ),
        facts=(
            Fact("there is no machine `pod`: make one of that name for the customer", lambda: bool(lab.machine("pod"))),
            Fact("no container `tenant` is running in `pod`", lambda: "tenant" in containers("pod")),
            Fact(
                "`tenant` is also beside your other containers",
                lambda: "tenant" not in containers(lab.default_node),
            ),
        ),
        hints=(
            "Whose kernel a container shares is a question of its node, and a machine can be a node.",
            "`%vm start pod` makes the machine.",
            "`--on pod` behind `%%container`, or behind `%container run`, chooses the node.",
        ),
        solution="%vm start pod\n%container run -d --name tenant --on pod busybox sleep 600",
    ),
)

QUIZ = (
    Question(
        id="add",
        asks="You want to know what twenty clones of one template cost together. Which sizes do you add up?",
        choices=("resident", "private", "proportional"),
        right=3,
        why="Resident sizes count common pages twenty times, private sizes not at all. Proportional ones count each "
        "page once: a twentieth for each.",
    ),
    Question(
        id="number",
        asks="Two programs both report `user:[4026531837]`. Are they in the same user namespace?",
        choices=("yes", "no", "only if they run on the same kernel"),
        right=3,
        why="It is the number of every kernel's first user namespace.",
    ),
    Question(
        id="root",
        asks="Why may root in a machine reboot its kernel, and root in a container not?",
        choices=(
            "because containers are less trusted",
            "because the machine's kernel is nobody else's",
            "because QEMU filters the call",
        ),
        right=2,
        why="The right is the same. What differs is who else would be hit.",
    ),
    Question(
        id="boot",
        asks="An application needs ten seconds to start. A cloud has new machines with it ready in tenths of a "
        "second. How can that be?",
        choices=(
            "their kernels boot faster, as the machines have hardly any devices",
            "they are not booted but woken, from a machine that was saved when it was ready",
            "they are containers in truth, which share one kernel that runs already",
        ),
        right=2,
        why="Waking costs the reading of the devices' state; memory comes page by page, when it is touched.",
    ),
)

NOTES = (
    "About 25 minutes with both exercises. The cold boot takes 4 to 10 seconds; talk about the phases while it runs.",
    "Students ask: are the numbers fair, as the machines are emulated? The sizes hardly change with KVM; the times of "
    "the guest do, several times over. The order does not.",
    "The machines' idle time includes what looking at them costs, some milliseconds. Ask: how would you measure "
    "without looking?",
)
