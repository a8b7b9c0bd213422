"""What lesson 13 asks: docs/teaching-form.md says how this file is used."""

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

LOOK = """
pid=$(runc state mine 2>/dev/null | sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')
echo "${pid:-0}"
tr '\\0' ' ' < /proc/$pid/cmdline; echo
nsenter -t $pid -u hostname
cat /sys/fs/cgroup$(cut -d: -f3 /proc/$pid/cgroup)/pids.max
"""
SEEN: list[str] = []
"""What the kernel said of the process of `mine` when the first fact was asked: pid, program, host name, limit."""


def look() -> bool:
    """Look at it anew; tell whether there is such a process."""
    lines = [line.strip() for line in lab.run(LOOK, on="vm").out.splitlines()]
    SEEN[:] = [*lines, "", "", ""][:4]
    return SEEN[0] not in ("", "0")


PREDICTIONS = (
    Question(
        id="steps",
        asks="The process exists. How many steps are there from here until your program runs in it, behind all walls?",
        choices=("one: the kernel makes containers", "eight, one for each wall of lesson 9", "more than twenty"),
        right=3,
    ),
    Question(
        id="same",
        asks="Two runtimes run the same bundle. In how many of the lines that the probe prints will they differ?",
        choices=("in none", "in those about rights and filter", "in nearly all: they are different programs"),
        right=1,
    ),
    Question(
        id="created",
        asks="`create` has returned, and nobody has said `start`. Is there a process, and what does it run?",
        choices=("there is none yet", "there is one, and it runs the runtime", "there is one: your program, stopped"),
        right=2,
    ),
    Question(
        id="parent",
        asks="Which process is the parent of the container's first process?",
        choices=("the `runc` that made it", "the `runc` that started it", "process 1 of the machine"),
        right=3,
    ),
    Question(
        id="delete",
        asks="The container is running. What will `runc delete box` do?",
        choices=("end the program and remove all", "refuse", "remove it, and the program runs on"),
        right=2,
    ),
    Question(
        id="hook",
        asks="The hook runs outside, on the node. Where will the card be when the program looks?",
        choices=("in the container only", "on the node only", "in both"),
        right=1,
    ),
)

EXERCISES = (
    Exercise(
        id="mine",
        asks=(
            "Make a container `mine` with runc that waits at its door: created, not started. Its host name is "
            "`lantern`, and it may have at most 12 processes."
        ),
        facts=(
            Fact("runc has no container `mine` with a process", look),
            Fact("its program has been started", lambda: SEEN[1] == "runc init"),
            Fact("its host name is not `lantern`", lambda: SEEN[2] == "lantern"),
            Fact("it may have more than 12 processes, or fewer", lambda: SEEN[3] == "12"),
        ),
        hints=(
            "Change two fields of `config`, write the bundle, and use the first of the four commands.",
            'The fields are `config["hostname"]` and `config["linux"]["resources"]["pids"]["limit"]`.',
            'After `write_bundle(…)`: the cell with `runc create` above, but with another name. Take `config["hooks"]` '
            "out if you do not want the card.",
        ),
        solution=(
            'config["hostname"] = "lantern"\n'
            'config["linux"]["resources"]["pids"]["limit"] = 12\n'
            'config["hooks"] = {}\n'
            'write_bundle("/srv/bundle", "exec sleep 1000")\n'
            'vm("cd /srv/bundle && runc create mine </dev/null >/dev/null 2>&1")'
        ),
    ),
)

QUIZ = (
    Question(
        id="who",
        asks="`docker run -d` has returned, and the container runs. Which of these programs runs no more?",
        choices=("dockerd", "containerd-shim", "runc"),
        right=3,
        why="A runtime makes the process and ends. The shim stays: it holds output and exit status.",
    ),
    Question(
        id="image",
        asks="What does runc know about images and layers?",
        choices=("nothing: it gets a folder", "it unpacks the layers", "it checks their digests"),
        right=1,
        why="Images are the engine's affair. Below the contract there is only a bundle: a folder and a config.json.",
    ),
    Question(
        id="kata",
        asks="Kata Containers starts a virtual machine for each pod. Why can Kubernetes use it, unchanged?",
        choices=(
            "it offers the same commands below the same contract",
            "Kubernetes was built for virtual machines",
            "it cannot: its containers are no real ones",
        ),
        right=1,
        why="Whoever keeps the contract can be put in. What stands behind create and start is nobody else's affair.",
    ),
)

NOTES = (
    "About 25 minutes with the exercise.",
    "Students ask: so is Docker superfluous? For starting a process, yes. Images, builds, networks, restarts, and one "
    "good command line are what it gives. Let them list what they would miss after writing config.json by hand.",
    "Students ask: which runtime is the best? Ask back: for what? crun starts faster, runc is used most, Kata and "
    "gVisor keep strangers apart better, and all are put in at the same place.",
    "The first call of runc in a machine is slower, as its nine megabytes are read and translated for the first time.",
)
