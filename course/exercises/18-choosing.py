"""What lesson 18 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

MIB = 1 << 20
SETTING = "cat /proc/sys/vm/overcommit_memory"


def containers(node: str) -> dict[str, dict[str, Any]]:
    """Return the containers of a node that run, by name."""
    return {one["name"]: one for one in lab.node(node).view()["containers"] if one["status"] == "running"}


def runs(machine: str) -> bool:
    """Tell whether there is a machine of this name that runs."""
    return bool(lab.machine(machine).view()["status"] == "running")


def promises_less(node: str) -> bool:
    """Tell whether this kernel never promises more memory than there is (proc_sys_vm(5), overcommit_memory)."""
    return lab.run(SETTING, on=node).out.strip() == "2"


def pupil_apart() -> bool:
    """Tell whether `pupil` runs in `school`, and on no kernel that others use."""
    return "pupil" in containers("school") and "pupil" not in containers(lab.default_node)


def apps() -> list[dict[str, Any]]:
    """Return the two customers' containers."""
    return [containers(name)["app"] for name in ("red", "blue")]


def apart() -> bool:
    """Tell whether the customers' machines are two processes of the host, and neither is where containers live."""
    pids = {lab.machine(name).view()["qemu"]["pid"] for name in ("red", "blue")}
    return len(pids) == 2 and lab.default_node not in ("red", "blue")


def bounded(what: str, most: int) -> bool:
    """Tell whether both containers have a limit of at most this."""
    key = "limit_bytes" if what == "memory" else "limit"
    return all(0 < (one[what][key] or 0) <= most for one in apps())


PREDICTIONS = (
    Question(
        id="all",
        asks="Which of the three places meets all four needs?",
        choices=("the container", "the machine", "the container in the machine", "none of them"),
        right=4,
    ),
    Question(
        id="shop",
        asks="The shop needs an image, and a hundred of them. What fits?",
        choices=("a container", "a machine", "a container in a machine of its own"),
        right=1,
    ),
    Question(
        id="school",
        asks="The school needs images, and a kernel for each that is nobody else's. What fits?",
        choices=("a container", "a machine", "a container in a machine of its own"),
        right=3,
    ),
    Question(
        id="bank",
        asks="The bank needs its own settings of the kernel, and a kernel of its own. What fits?",
        choices=("a container", "a machine", "a container in a machine of its own"),
        right=2,
    ),
)

EXERCISES = (
    Exercise(
        id="contracts",
        asks=(
            "Put up what each customer needs. `shop`: a container on your node. `pupil`: a container in a machine "
            "named `school`. `bank`: a machine whose kernel never promises more memory than there is "
            "(2 in `/proc/sys/vm/overcommit_memory`), while the other kernels stay as they are."
        ),
        facts=(
            Fact("no container `shop` runs on your node", lambda: "shop" in containers(lab.default_node)),
            Fact(
                "there is no container `pupil` in a machine `school`, or there is one on your node as well",
                pupil_apart,
            ),
            Fact("there is no machine `bank` that runs", lambda: runs("bank")),
            Fact("the kernel of `bank` still promises more memory than there is", lambda: promises_less("bank")),
            Fact("the setting of `school` was changed as well", lambda: not promises_less("school")),
        ),
        hints=(
            "The three cells with which this lesson began made one of each kind.",
            "`--on school` puts a container into the machine of that name; the machine has to be there.",
            "In `%%vm bank` you are root: `echo 2 > /proc/sys/vm/overcommit_memory`.",
        ),
        solution=(
            "from IPython import get_ipython\n\n"
            "cell = get_ipython().run_cell_magic\n"
            'cell("container", "shop", "true")\n'
            'cell("vm", "school", "true")\n'
            'cell("container", "pupil --on school", "true")\n'
            'cell("vm", "bank", "echo 2 > /proc/sys/vm/overcommit_memory")'
        ),
    ),
    Exercise(
        id="platform",
        asks=(
            "A machine for each, named `red` and `blue`. In each a container named `app` that stays, from the same "
            "image, with at most 64 MiB of memory and at most 32 processes, and its root read-only."
        ),
        facts=(
            Fact("there is no machine `red` that runs", lambda: runs("red")),
            Fact("there is no machine `blue` that runs", lambda: runs("blue")),
            Fact("`red` and `blue` are not apart", apart),
            Fact("`red` has no running container `app`", lambda: "app" in containers("red")),
            Fact("`blue` has no running container `app`", lambda: "app" in containers("blue")),
            Fact("the two come from different images", lambda: len({one["image"] for one in apps()}) == 1),
            Fact("one of them may take more than 64 MiB of memory", lambda: bounded("memory", 64 * MIB)),
            Fact("one of them may have more than 32 processes", lambda: bounded("pids", 32)),
            Fact(
                "the root of one of them can be written to",
                lambda: all(lab.run("touch /x", on=name, container="app").status for name in ("red", "blue")),
            ),
        ),
        hints=(
            "Four cells: two machines, and in each a container. `%%container?` lists the options for limits.",
            "`--memory` and `--pids-limit` are the limits; `--read-only` is the root.",
            "`%%container app --on red --memory 64m --pids-limit 32 --read-only`, and the same for `blue`.",
        ),
        solution=(
            "from IPython import get_ipython\n\n"
            "cell = get_ipython().run_cell_magic\n"
            'limits = "--memory 64m --pids-limit 32 --read-only"\n'
            'for name in ("red", "blue"):\n'
            '    cell("vm", name, "true")\n'
            '    cell("container", f"app --on {name} {limits}", "true")'
        ),
    ),
)

QUIZ = (
    Question(
        id="secure",
        asks='"We use containers, so we are secure." What do you ask first?',
        choices=("which engine?", "secure against whom?", "which version of the kernel?"),
        right=2,
        why="Without somebody to be protected from, a wall is only a cost. Own code, colleagues and strangers differ.",
    ),
    Question(
        id="both",
        asks="What does a container in a machine of its own cost, compared with a container alone?",
        choices=(
            "the memory and the start of a kernel",
            "nothing, as clones share everything",
            "the image has to be built anew",
        ),
        right=1,
        why=(
            "Clones share what they do not write to, and that makes it cheaper. "
            "Each still keeps what it has written itself."
        ),
    ),
    Question(
        id="other-system",
        asks="A customer brings a program for another operating system. What fits?",
        choices=("a container with that system's image", "a machine", "a container without seccomp"),
        right=2,
        why="An image has no kernel in it. A program calls a kernel of its own kind, and only a machine brings one.",
    ),
    Question(
        id="fault",
        asks="Six machines with five containers each. One container brings its kernel down. How many are gone?",
        choices=("one", "five", "thirty"),
        right=2,
        why="All that share that kernel, and no more. The number of kernels is the number of such walls.",
    ),
)

NOTES = (
    "About 20 minutes, and 20 for the capstone. It makes a good examination: "
    "`%lab progress --export` collects the results.",
    "Let groups take one customer each and argue for the wrong place first: which need breaks it?",
    "Students ask which one companies use. Most use all three: machines rented from a cloud, containers in them, "
    "and for functions and builds of strangers' code a small machine for each.",
    "Students ask about Windows and macOS. Docker there runs a Linux machine and puts the containers in it.",
)
