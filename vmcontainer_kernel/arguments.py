"""What may be written behind ``%%vm`` and ``%%container``, and how each word is read: sizes, numbers, times, files.

Names and meanings are docker-run(1)'s where it has them; `options` puts what was read into the engine's words.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from IPython.core import magic_arguments as ipython

from .errors import SpecError, UserError

__all__ = [
    "ASM",
    "CELL",
    "CONTAINER",
    "CREATE",
    "LIMITS",
    "RUN",
    "VM",
    "argument",
    "parse_duration",
    "parse_number",
    "parse_rate",
    "parse_size",
    "parse_volume",
    "read_profile",
    "read_variables",
]

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)")


def parse_size(text: str, where: str = "--memory") -> int:
    """Return bytes for ``64m``, ``1g``, ``512KiB`` or a plain number; units are powers of 1024, as docker's are."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if not size:
        raise UserError(f"{text!r} is no size", hint="write a number and a unit: 64m, 1g, 512k", where=where)
    return size


def parse_duration(text: str, where: str) -> float:
    """Return seconds for ``30s``, ``500ms``, ``1m30s`` or a plain number."""
    parts = [*_DURATION.finditer(text)]
    if not text or "".join(part[0] for part in parts) != text:
        raise UserError(f"{where} {text}: this is no time", hint="write 30s, 500ms or 1m30s", where=where)
    return math.fsum(float(part[1]) * _SECONDS[part[2]] for part in parts)


def parse_number(text: str | None, option: str, *, whole: bool = False, low: float | None = None) -> float | None:
    """Return a number above 0 (or from `low`), None for None; `option` is named if it is none."""
    if text is None:
        return None
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 if low is None else value >= low) or value >= 1e9:
        kind, bound = (
            "a whole number" if whole else "a number",
            "greater than 0" if low is None else f"of at least {low:g}",
        )
        raise UserError(f"{option} {text}: this must be {kind} {bound}", where=option)
    return value


def parse_rate(text: str, option: str, *, sized: bool) -> str:
    """Return ``/dev/NAME:NUMBER`` with a plain number for ``/dev/NAME:1mb``."""
    path, _, rate = text.rpartition(":")
    number = parse_size(rate, option) if sized else int(parse_number(rate, option, whole=True) or 0)
    return f"{path}:{number}"


def parse_volume(text: str) -> str:
    """Return ``SOURCE:TARGET[:OPTIONS]`` with a folder of this computer as an absolute path."""
    source, colon, rest = text.partition(":")
    if colon and source.startswith((".", "~")):
        source = os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111 - as a shell: links stay
    return f"{source}{colon}{rest}"


def read_profile(text: str) -> str:
    """Return a ``--security-opt`` with a seccomp profile's text in the place of its file's name."""
    key, equals, value = text.partition("=")
    if key != "seccomp" or not equals or value in ("unconfined", "builtin"):
        return text
    from .container.seccomp.docker_profile import convert

    try:
        profile = json.loads(Path(value).read_text())
        convert(profile, ())  # here its name is known
        return f"seccomp={json.dumps(profile)}"
    except OSError as error:
        raise UserError(f"--security-opt {text}: {error.strerror}", hint="give a file, or unconfined") from None
    except ValueError as error:
        raise UserError(f"--security-opt {text}: no JSON: {error}") from None
    except SpecError as error:
        raise SpecError(f"--security-opt {text}: {error.message}", hint=error.hint, where=error.where) from None


def read_variables(path: str) -> dict[str, str]:
    """Read ``--env-file``: NAME=VALUE a line, ``#`` begins a comment, a name alone takes this process's value."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(f"--env-file {path}: {error.strerror}", where="--env-file") from None
    found = {}
    for line in lines:
        name, equals, value = line.strip().partition("=")
        if name and not name.startswith("#"):
            found[name] = value if equals else os.environ.get(name, "")
    return found


argument: Any = ipython.argument


def _many(*names: str, metavar: str, help: str) -> Any:
    return argument(*names, metavar=metavar, action="append", default=[], help=help)


def _text(*names: str, metavar: str, help: str) -> Any:
    return argument(*names, metavar=metavar, default="", help=help)


def _flag(*names: str, help: str) -> Any:
    return argument(*names, action="store_true", help=help)


RUN = (
    argument("--out", metavar="VAR", help="put the standard output into this variable, and do not show it"),
    argument("--err", metavar="VAR", help="put the standard error into this variable, and do not show it"),
    argument("--proc", metavar="VAR", help="with --bg: put an object into this variable that waits, reads and kills"),
    _flag("--bg", help="go on at once; the command runs in the background"),
    _flag("--no-raise-error", help="a status other than 0 is no error; see _exit_code"),
    argument("--timeout", metavar="SECONDS", help="end the command after so many seconds"),
    _flag("--explain", help="show what would be done, and do nothing"),
    _many("-e", "--env", metavar="NAME=VALUE", help="set a variable"),
    _text("-u", "--user", metavar="UID[:GID]", help="run as this user, a number or a name"),
    _text("-w", "--workdir", metavar="FOLDER", help="run in this folder"),
    _flag("-t", "--tty", help="give the command a terminal (pty)"),
)

VM = (
    argument("name", nargs="?", default="", help="the machine; made if there is none of that name (default: vm)"),
    argument("--name", dest="name_option", metavar="NAME", default="", help="the same, as an option"),
    argument("-m", "--memory", metavar="SIZE", help="memory of a new machine, as 256m or 1g (default: 256m)"),
    argument("--cpus", metavar="N", help="virtual CPUs of a new machine (default: 1)"),
    argument("--max-cpus", metavar="N", help="how many it may get later, by %%vm update (default: as --cpus)"),
    argument("-c", "--cpu-shares", metavar="N", help="weight of a new machine where CPUs are contended (others: 1024)"),
    argument("--cpu-quota", metavar="US", help="CPU time of a new machine in each 100000 us, as 50000 for half a CPU"),
    argument("--arch", metavar="ARCH", default="", help="processor of a new machine: x86_64 (default), arm64"),
    argument("--system", metavar="NAME", default="", help="what a new machine boots: %%vm systems lists it"),
    argument(
        "--network",
        "--net",
        metavar="NAME",
        default="",
        help="none; user: with a way out; NAME: a network of this notebook's machines, made if there is none",
    ),
    _many(
        "-p",
        "--publish",
        metavar="[[IP:]PORT:]PORT",
        help="a port of this computer, and the machine's that it leads to",
    ),
    _many("-v", "--volume", metavar="FOLDER:PLACE[:ro]", help="copy a folder in before, and its changes back after"),
    _many("--disk", metavar="NAME[:FOLDER][:ro]", help="attach a disk (%%vm disk), and mount it in FOLDER"),
)

ASM = (
    argument(
        "name", nargs="?", default="", help="a variable that takes the result: its code, exits, registers, output"
    ),
    argument(
        "--run",
        choices=("kvm", "qemu", "none"),
        default="kvm",
        help="what runs it; qemu: as the boot sector of machine NAME; none: the machine code is shown",
    ),
    argument("--steps", metavar="N", help="stop after each instruction, at most so many"),
    argument("--bits", choices=("16", "32", "64"), default="16", help="mode of the processor: real, protected, long"),
    argument("--origin", metavar="ADDRESS", default="0x7c00", help="where the code lies in memory (default: 0x7c00)"),
    argument("-m", "--memory", metavar="SIZE", default="640k", help="memory from address 0 on (default: 640k)"),
    _text("--registers", metavar="NAME=VALUE,…", help="registers at the start, as ax=1,bx=0x20 (others: 0)"),
    _text("--input", metavar="TEXT", help="what the serial port, 0x3f8, gives to read"),
    argument("--timeout", metavar="SECONDS", default="2", help="end the code after so many seconds (default: 2)"),
)

_LIMITS = (
    argument("-m", "--memory", metavar="SIZE", help="memory limit, as 64m"),
    argument("--memory-swap", metavar="SIZE", help="memory and swap together; -1: no limit"),
    argument("--memory-reservation", metavar="SIZE", help="memory left to it when the node is short of it"),
    argument("--cpus", metavar="N", help="CPU limit, as 0.5"),
    argument("-c", "--cpu-shares", metavar="N", help="its weight where CPUs are contended (others have 1024)"),
    _text("--cpuset-cpus", metavar="LIST", help="the CPUs it may use, as 0-1,3"),
    _text("--cpuset-mems", metavar="LIST", help="the memory nodes it may use"),
    argument("--pids-limit", metavar="N", help="how many processes there may be"),
    argument("--blkio-weight", metavar="N", help="its weight where disks are contended, 10 to 1000"),
)

_RATES = tuple(
    _many(f"--device-{what}", metavar="DEVICE:RATE", help=text)
    for what, text in (
        ("read-bps", "bytes read a second, as /dev/vda:1mb"),
        ("write-bps", "bytes written a second"),
        ("read-iops", "reads a second"),
        ("write-iops", "writes a second"),
    )
)

_FILES = (
    _many("-v", "--volume", metavar="FROM:TO[:ro]", help="show a folder of the node, or a named volume, at TO"),
    _many("--mount", metavar="KEY=VALUE,…", help="the same in words: type=bind|volume|tmpfs,source=…,target=…"),
    _many("--tmpfs", metavar="TO[:OPTIONS]", help="a file system in memory at TO"),
    argument("--shm-size", metavar="SIZE", help="size of /dev/shm (default: 64m)"),
    _many("--device", metavar="PATH[:TO][:rwm]", help="a device of the node"),
    _flag("--read-only", help="the root file system cannot be written"),
)

_WALLS = (
    argument(
        "--without",
        metavar="KIND,…",
        default="",
        help="leave out pid uts ipc net cgroup caps no-new-privs mask masked-paths readonly-paths seccomp devices; "
        "in a machine also root",
    ),
    _flag("--privileged", help="all capabilities, all devices, nothing masked: root of the node, nearly"),
    _many("--cap-add", metavar="CAP", help="a capability more"),
    _many("--cap-drop", metavar="CAP", help="a capability less"),
    _many(
        "--security-opt",
        metavar="OPT",
        help="seccomp=unconfined|builtin|FILE, no-new-privileges[:false], systempaths=…",
    ),
    _many("--ulimit", metavar="NAME=SOFT[:HARD]", help="a limit of ulimit, as nofile=64"),
    _many("--sysctl", metavar="NAME=VALUE", help="a kernel setting of its namespaces"),
    argument("--oom-score-adj", metavar="N", help="who is killed first when memory ends, -1000 to 1000"),
    _text("--pid", metavar="host|container:C", help="share the pid namespace"),
    _text("--ipc", metavar="host|container:C", help="share the IPC namespace"),
    _text("--uts", metavar="host|container:C", help="share the host name"),
    _text("--userns", metavar="host|container:C", help="share the user namespace"),
    _text("--cgroupns", metavar="host|container:C", help="share the cgroup namespace"),
    _many("--time-offset", metavar="CLOCK=SECONDS", help="a time namespace; boottime or monotonic is so much ahead"),
)

_NAMES = (
    _text("-h", "--hostname", metavar="NAME", help="host name inside"),
    _text("--domainname", metavar="NAME", help="NIS domain name inside"),
    argument("--network", "--net", metavar="NAME", help="none (default), bridge, a network, host, container:C"),
    _many("--network-alias", metavar="NAME", help="one more name of it in its network"),
    _many("-p", "--publish", metavar="[[IP:]PORT:]PORT", help="a port of the node that leads to one of its own"),
    _many("--add-host", metavar="NAME:ADDRESS", help="one more line of /etc/hosts"),
    _many("--group-add", metavar="GROUP", help="one more group of the user"),
    _many("-l", "--label", metavar="NAME=VALUE", help="a note, shown by inspect"),
)

_LIFE = (
    argument("--restart", metavar="POLICY", help="start it again: no, on-failure[:N], always, unless-stopped"),
    _text("--stop-signal", metavar="SIGNAL", help="what stop sends (default: TERM)"),
    argument("--stop-timeout", metavar="SECONDS", help="how long stop waits before it kills (default: 10)"),
    _text("--health-cmd", metavar="COMMAND", help="run this now and then; a status other than 0 is unhealthy"),
    argument("--health-interval", metavar="TIME", help="how often (default: 30s)"),
    argument("--health-timeout", metavar="TIME", help="how long a check may take (default: 30s)"),
    argument("--health-start-period", metavar="TIME", help="how long failures do not count at first (default: 0s)"),
    argument("--health-retries", metavar="N", help="how many failures in a row (default: 3)"),
    _flag("--no-healthcheck", help="leave the image's own check out"),
)

CELL = (
    argument("name", nargs="?", default="", help="a container that stays; later cells run inside it"),
    _flag("-d", "--detach", help="the cell is the container's first process, and runs on"),
    _flag("--timings", help="show afterwards how long each step of the start took"),
)

CREATE = (
    argument("--name", dest="name_option", metavar="NAME", default="", help="its name, as an option"),
    argument("--on", metavar="NODE", default="", help="the node whose kernel it shares: host, or a machine's name"),
    argument("--image", default=None, help="the image (default: busybox)"),
    argument("--entrypoint", metavar="PROGRAM", default=None, help="run this instead of the image's entry point"),
    argument("--env-file", metavar="FILE", action="append", default=[], help="set the variables of a file"),
    _flag("-i", "--interactive", help="with --detach: keep its input open, for attach"),
    _flag("--rm", help="remove it when it has ended (a container without a name always is)"),
    *_LIMITS,
    *_RATES,
    *_FILES,
    *_NAMES,
    *_WALLS,
    *_LIFE,
)
"""What describes a container, without its name; `CELL` adds what only a cell can say."""

CONTAINER = (*CELL, *CREATE)
LIMITS = _LIMITS
