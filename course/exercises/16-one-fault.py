"""What lesson 16 asks: docs/teaching-form.md says how this file is used."""

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

GUESTS = ("left", "right")


def runs_on(guest: str) -> set[str]:
    """Return the names of the containers that have a living process on a guest's kernel."""
    return {str(one["container"]) for one in lab.node(guest).view()["processes"] if one["container"]}


def survives(service: str) -> bool:
    """Tell whether a copy of a service is left, whichever of the two guests crashes."""
    return all({f"{service}-1", f"{service}-2"} & runs_on(guest) for guest in GUESTS)


PREDICTIONS = (
    Question(
        id="panic",
        asks="The kernel of `glass` is about to crash. Which of the containers will be there afterwards?",
        choices=(
            "`pebble` and `harbour`: those that run on another kernel",
            "all but `cup`: it is `cup` that tried it first",
            "only `harbour`: with one guest the hypervisor loses the other one, too",
            "all four: containers are isolated from each other",
        ),
        right=1,
    ),
    Question(
        id="bell",
        asks="How did QEMU learn that the kernel in its guest had panicked?",
        choices=(
            "it reads the words on the serial port",
            "it sees that no instructions are carried out any more",
            "the dying kernel told it, by writing to a virtual device",
        ),
        right=3,
    ),
    Question(
        id="oops",
        asks="The kernel of `glass` meets an impossible instruction while it loads a driver for the process `insmod`. "
        "What ends?",
        choices=("the process `insmod`", "every process of `glass` that uses the network", "the kernel and all on it"),
        right=1,
    ),
    Question(
        id="policy",
        asks="`panic_on_oops` is 1 now, and the second spoilt driver is loaded. Who is gone afterwards?",
        choices=("`insmod` only, as before", "`cup` and `plate`", "`cup`, `plate` and `pebble`"),
        right=2,
    ),
    Question(
        id="oom",
        asks="`cup` takes more and more memory in small pieces, until there is none left. "
        "Whose program does the kernel end first?",
        choices=(
            "the last one of `cup`: it asked for what is not there",
            "the one of `plate`: it is the biggest",
            "none: the kernel panics",
        ),
        right=2,
    ),
)

EXERCISES = (
    Exercise(
        id="apart",
        asks=(
            "Let the four containers run on two guests, `left` and `right`, so that a crash of either one takes at "
            "most one copy of each service."
        ),
        facts=(
            Fact(
                "the guests `left` and `right` are not both running",
                lambda: all(lab.machine(guest).view()["status"] == "running" for guest in GUESTS),
            ),
            Fact(
                "not all of `web-1`, `web-2`, `db-1` and `db-2` are running on them",
                lambda: {"web-1", "web-2", "db-1", "db-2"} <= runs_on("left") | runs_on("right"),
            ),
            Fact("one crash would take both copies of `web`", lambda: survives("web")),
            Fact("one crash would take both copies of `db`", lambda: survives("db")),
        ),
        hints=(
            "A cell that begins with `%%vm left` makes a guest of that name.",
            "The option of `%container run` and of `%%container` that names the kernel to run on is `--on`.",
            "`%container run --on left --name web-1 -d busybox sleep 3600`, and three more of that kind.",
        ),
        solution=(
            'for guest, names in {"left": ("web-1", "db-1"), "right": ("web-2", "db-2")}.items():\n'
            '    lab.run("true", on=guest)\n'
            "    for name in names:\n"
            "        %container run --on {guest} --name {name} -d busybox sleep 3600"
        ),
    ),
)

QUIZ = (
    Question(
        id="tenants",
        asks="Two customers share a kernel, each in containers with strict limits. "
        "A program of the first one reaches a bug that makes this kernel panic. What does the second one lose?",
        choices=(
            "nothing: limits protect it",
            "everything that runs on this kernel",
            "what was using the same network",
        ),
        right=2,
        why="Limits divide resources. The kernel that enforces them is one, and it is gone.",
    ),
    Question(
        id="choose",
        asks="After an oops the kernel could run on. Why do many operators let it panic?",
        choices=(
            "because its state is unknown: locks may be held for ever, and data half written",
            "because the process that was ended cannot be started again",
            "because the hypervisor would end it anyway",
        ),
        right=1,
        why="A crash is noticed, and what ran there is started elsewhere. A kernel that half works is not noticed.",
    ),
    Question(
        id="silent",
        asks="A guest's kernel hangs in an endless loop with its interrupts off. "
        "What does the bell tell the hypervisor?",
        choices=("that the guest has panicked", "nothing", "that the guest was paused"),
        right=2,
        why="The kernel must still be able to run the driver of the bell. From outside a hung kernel is a busy "
        "processor; a watchdog notices that nobody has reset it.",
    ),
    Question(
        id="host",
        asks="What can be said against: each VM can work independently, without affecting other VMs?",
        choices=(
            "nothing: that is what a hypervisor guarantees",
            "if one guest panics, the others are paused",
            "all of them depend on one host kernel and share its memory and processors",
        ),
        right=3,
        why="A guest's panic stops at the guest. A panic of the host's kernel takes all guests with it.",
    ),
)

NOTES = (
    "About 20 minutes, 25 with the exercise. Only `glass` is ever crashed; it is made anew twice, from the template.",
    "Students ask: would a real attacker need `/proc/sysrq-trigger`? No, they would use a bug of the kernel that an "
    "ordinary system call reaches. We take the administrator's way, because it works on each kernel; the effect is the "
    "same.",
    "Students ask: why is the container `harbour` not crashed as well? It would take the notebook's own computer, or "
    "the default guest, with it.",
    "What goes wrong: a student crashes `vm`. Nothing is lost: `%vm rm vm`, and the next `%%vm` cell makes it again.",
    "In a container, uid 0 with CAP_SYS_ADMIN in the initial user namespace could undo the read-only mount: "
    "that is a question for the lesson on hardening.",
)
