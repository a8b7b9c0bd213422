"""What lesson 7 asks: docs/teaching-form.md says how this file is used."""

import re
from pathlib import Path
from urllib.request import urlopen

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question

LISTEN = "0A"  # proc(5), /proc/net/tcp: the state TCP_LISTEN


def ports() -> list[int]:
    """Return the TCP ports of this computer on which the QEMU of `arm` listens, as the host's kernel knows them."""
    pid = lab.machine("arm").view()["qemu"]["pid"]
    open_files = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        int(row[1].partition(":")[2], 16) for row in rows if row[3] == LISTEN and f"socket:[{row[9]}]" in open_files
    ]


def answers() -> str:
    """Return what the guest's servers answer on these ports."""
    found = ""
    for port in ports():
        try:
            found += urlopen(f"http://127.0.0.1:{port}/", timeout=5).read().decode(errors="replace")
        except OSError:
            continue
    return found


PREDICTIONS = (
    Question(
        id="arm",
        asks="What will happen when you start Linux for arm64 on this computer?",
        choices=(
            "an error: this processor does not understand such instructions",
            "it starts, and says that it is an `aarch64`",
            "it starts, and says the same as the guest `vm`: they share one processor",
        ),
        right=2,
    ),
    Question(
        id="shell",
        asks="A prompt is waiting in the machine `shell`. Which kernel is below it?",
        choices=("Linux, as everywhere in this lab", "the host's kernel", "none: the program itself is the system"),
        right=3,
    ),
    Question(
        id="foreign",
        asks="A program for arm64 is started in your container. What will happen?",
        choices=(
            "it runs, more slowly, because it is translated",
            "the kernel refuses to start it",
            "it starts and crashes",
        ),
        right=2,
    ),
    Question(
        id="label",
        asks="Now its header says x86-64. What will happen?",
        choices=("the kernel refuses it again", "it starts, and is dead a moment later", "it runs"),
        right=2,
    ),
    Question(
        id="disk",
        asks="The guest's disk is a file now. Can programs that know nothing of this lab read the guest's note in it?",
        choices=(
            "yes: format and file system are common ones",
            "no: only a guest can read a virtual disk",
            "only the size: the contents are encrypted",
        ),
        right=1,
    ),
)

EXERCISES = (
    Exercise(
        id="reach",
        asks=(
            "Let the guest `arm` answer HTTP on a port of your computer, with a text that tells the kind of its "
            "processor, `aarch64`."
        ),
        facts=(
            Fact(
                "there is no guest `arm` with a kernel for aarch64",
                lambda: lab.node("arm").view()["kernel"]["machine"] == "aarch64",
            ),
            Fact("no port of this computer leads to `arm`", lambda: ports() != []),
            Fact("what answers there does not say `aarch64`", lambda: re.search("aarch64", answers()) is not None),
        ),
        hints=(
            "You have done the same with `vm`: a cell that publishes a port, writes a page and starts `httpd`.",
            "`--publish 0:80` takes any free port of your computer. `uname -m` tells the processor.",
            "The page is `/root/index.html`; `$(uname -m)` puts the answer into it.",
        ),
        solution=('%%vm arm --publish 0:80\necho "hello from an $(uname -m)" > /root/index.html\nhttpd -p 80 -h /root'),
    ),
)

QUIZ = (
    Question(
        id="windows",
        asks="Your server runs Linux. A colleague asks for a Windows container on it. What do you answer?",
        choices=(
            "it needs an image for Windows, and that is all",
            "Windows programs need a Windows kernel: it takes a virtual machine",
            "it works if the container is privileged",
        ),
        right=2,
        why="A container brings no kernel. On Linux, Windows containers run in a virtual machine, and Linux containers "
        "on Windows and macOS do the same.",
    ),
    Question(
        id="error",
        asks="A container ends at once with `exec format error`. What do you look at first?",
        choices=(
            "whether the image is for this kind of processor",
            "whether there is enough memory",
            "whether the file has the right to be executed",
        ),
        right=1,
        why="That text is ENOEXEC: no format handler of the kernel accepted the file. A missing right would be EACCES.",
    ),
    Question(
        id="kvm",
        asks="Why does hardware help (KVM) not make the arm64 guest faster on a PC?",
        choices=(
            "because the guest is too small",
            "because KVM lets the real processor run the guest's code, and this one does not understand it",
            "because arm64 has no virtualisation",
        ),
        right=2,
        why="KVM takes away the translation, so both sides must speak the same language.",
    ),
    Question(
        id="qemu-user",
        asks="With `binfmt_misc` and `qemu-aarch64` an arm64 container runs on a PC. "
        "Which kernel serves its system calls?",
        choices=("a small arm64 kernel inside QEMU", "none", "the PC's"),
        right=3,
        why="QEMU's user mode translates instructions and hands system calls on. "
        "So the container still shares the kernel.",
    ),
)

NOTES = (
    "About 20 minutes, 25 with the exercise. The arm64 guest must have been made before (python course/build.py "
    "prepares it, as does: vmcontainer setup --arch arm64); otherwise the first cell with it takes half a minute and "
    "the network.",
    "Students ask: why is arm64 not slower than x86-64 here? Because without KVM both are translated, and arm64 is the "
    "simpler one.",
    "Students ask: may I use my Windows image? Yes, %vm disk import reads it; without KVM it needs very long to start. "
    "The lesson's point is the firmware screen and that the format is known.",
    "What goes wrong: a student's computer has a handler of binfmt_misc for arm64 (Docker Desktop installs one). Then "
    "the foreign program runs, and the cell says so: let the student find the handler.",
)
