"""What lesson 1 asks: docs/teaching-form.md says how this file is used."""

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def boot(name: str) -> tuple[str, float]:
    """Return which start of a kernel a node comes from, and how long it has been running."""
    kernel = lab.node(name).view()["kernel"]
    return kernel["boot_id"], kernel["uptime_s"]


def is_running(container: str) -> bool:
    """Tell whether the node of containers runs a process of this one."""
    return any(one["container"] == container for one in lab.node(lab.default_node).view()["processes"])


PREDICTIONS = (
    Question(
        id="number",
        asks="`$$` is the shell's own process number. Which one will it be in a container?",
        choices=("1", "the next free number of this computer, some thousands", "0"),
        right=1,
    ),
    Question(
        id="again",
        asks="The same in a virtual machine. Which process will the shell be there, and who is process 1?",
        choices=(
            "process 1, as in the container",
            "another one; process 1 is the program that the machine started first",
            "another one; process 1 is QEMU, which makes the machine",
        ),
        right=2,
    ),
    Question(
        id="kernels",
        asks="Which boot IDs are equal?",
        choices=(
            "the container's and the virtual machine's",
            "the virtual machine's and the host's",
            "the container's and that of the node it runs on",
            "none, or all three",
        ),
        right=3,
    ),
    Question(
        id="failure",
        asks="What will the notebook do when a command fails?",
        choices=(
            "it says so, the cell counts as failed, and all goes on",
            "it prints what the command wrote, and the cell counts as done",
            "the lab ends all it has started, to be on the safe side",
        ),
        right=1,
    ),
)

EXERCISES = (
    Exercise(
        id="pair",
        asks="Make a virtual machine named `second`, beside the one that you have, and a container named `first`.",
        facts=(
            Fact("there is no running machine `second`", lambda: lab.machine("second").view()["status"] == "running"),
            Fact("no process of a container `first` is running", lambda: is_running("first")),
            Fact("`second` does not answer as a kernel of its own", lambda: boot("second") != boot("host")),
        ),
        hints=(
            "The name follows `%%vm` or `%%container` in the same line. You need two cells, one for each of them.",
            "`%%vm second` is the first line of the one cell; below it any command will do, such as `true`.",
            "The other cell begins with `%%container first`.",
        ),
        solution=(
            "from IPython import get_ipython\n\n"
            'get_ipython().run_cell_magic("vm", "second", "true")\n'
            'get_ipython().run_cell_magic("container", "first", "true")'
        ),
    ),
)

QUIZ = (
    Question(
        id="kernel",
        asks="A container and a plain process run on the same node. What have they in common?",
        choices=("the process number", "the kernel", "nothing"),
        right=2,
        why="Both are processes of that kernel. The container has walls around it.",
    ),
    Question(
        id="other-system",
        asks="Which of the two can run another operating system than the one below it?",
        choices=("the container", "the virtual machine", "both"),
        right=2,
        why="It brings a kernel of its own. A container takes the kernel that is there.",
    ),
    Question(
        id="witness",
        asks="Two programs read the same boot ID. What follows?",
        choices=(
            "they are in the same container",
            "their kernels come from the same start of a kernel",
            "they were started at the same time",
        ),
        right=2,
        why=(
            "The number is drawn once in a kernel's life. Programs of one kernel read the same; "
            "so do two copies of a machine that was saved after somebody had read it."
        ),
    ),
)

NOTES = (
    "About 15 minutes, and five more for the exercise. The first machine takes seconds if there is no template yet.",
    "Let the class vote on each prediction before anybody runs the cell; the wrong answers are the lesson.",
    "Students ask: is a virtual machine not just a process too? Yes, on the host. Lesson 2 shows it. "
    "The question here is who answers when a program asks for the kernel.",
    "Students ask why the doctor says no to KVM although the computer is new. Rented computers often do not pass it "
    "on; nothing in this course needs it, everything is only faster with it.",
)
