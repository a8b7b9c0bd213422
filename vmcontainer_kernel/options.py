"""What may be written behind ``%%vm`` and ``%%container``: names as `docker run` and IPython's ``%%script`` have them.

Parsing ends here: what comes out is typed (bytes, CPUs, seconds), and what is wrong is a `UserError` that says which.
"""

from __future__ import annotations

import argparse
import keyword
import re
import shlex
from typing import Any, NoReturn

from IPython.core import magic_arguments as ipython

from .errors import UserError

__all__ = ["container_arguments", "container_options", "parse", "parse_size", "vm_arguments"]

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([bkmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return bytes for ``64m``, ``1g``, ``512KiB`` or a plain number; units are powers of 1024, as docker's are."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if not size:
        raise UserError(f"{text!r} is no size", hint="write a number and a unit: 64m, 1g, 512k", where="--memory")
    return size


def _number(text: str | None, option: str, *, whole: bool = False) -> float | None:
    if text is None:
        return None
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{option} {text}: this must be {kind} greater than 0", where=option)
    return value


def _stacked(*decorators: Any) -> Any:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


argument: Any = ipython.argument
_named: Any = ipython.magic_arguments

_RUN = (
    argument("--out", metavar="VAR", help="put the standard output into this variable, and do not show it"),
    argument("--err", metavar="VAR", help="put the standard error into this variable, and do not show it"),
    argument("--proc", metavar="VAR", help="with --bg: put an object into this variable that waits, reads and kills"),
    argument("--bg", action="store_true", help="go on at once; the command runs in the background"),
    argument("--no-raise-error", action="store_true", help="a status other than 0 is no error; see _exit_code"),
    argument("--timeout", metavar="SECONDS", help="end the command after so many seconds"),
    argument("--explain", action="store_true", help="show what would be done, and do nothing"),
    argument("-e", "--env", metavar="NAME=VALUE", action="append", default=[], help="set a variable"),
    argument("-u", "--user", metavar="UID[:GID]", default="", help="run as this user, a number or a name"),
    argument("-w", "--workdir", metavar="FOLDER", default="", help="run in this folder"),
    argument("-t", "--tty", action="store_true", help="give the command a terminal (pty)"),
)

_VM = (
    argument("name", nargs="?", default="", help="the machine; made if there is none of that name (default: vm)"),
    argument("--name", dest="name_option", metavar="NAME", default="", help="the same, as an option"),
    argument("-m", "--memory", metavar="SIZE", help="memory of a new machine, as 256m or 1g (default: 256m)"),
    argument("--cpus", metavar="N", help="virtual CPUs of a new machine (default: 1)"),
)

_CONTAINER = (
    argument("name", nargs="?", default="", help="a container that stays; later cells run inside it"),
    argument("--name", dest="name_option", metavar="NAME", default="", help="the same, as an option"),
    argument("--on", metavar="NODE", default="", help="the node whose kernel it shares: host, or a machine's name"),
    argument("--image", default=None, help="the image (default: busybox)"),
    argument("-m", "--memory", metavar="SIZE", help="memory limit, as 64m"),
    argument("--cpus", metavar="N", help="CPU limit, as 0.5"),
    argument("--pids-limit", metavar="N", help="how many processes there may be"),
    argument("-h", "--hostname", metavar="NAME", help="host name inside"),
    argument("--network", "--net", choices=("none", "host"), help="none: only lo (default); host: the node's"),
    argument("--read-only", action="store_true", help="the root file system cannot be written"),
    argument("--cap-add", metavar="CAP", action="append", default=[], help="a capability more"),
    argument("--cap-drop", metavar="CAP", action="append", default=[], help="a capability less"),
    argument(
        "--without",
        metavar="KIND,…",
        default="",
        help="leave out pid uts ipc net cgroup caps no-new-privs mask seccomp",
    ),
)


def vm_arguments(name: str) -> Any:
    """Return the decorator that gives a function the options of ``%%vm``."""
    return _stacked(_named(name), *_VM, *_RUN)


def container_arguments(name: str) -> Any:
    """Return the decorator that gives a function the options of ``%%container``."""
    return _stacked(_named(name), *_CONTAINER, *_RUN)


def parse(magic: Any, line: str) -> argparse.Namespace:
    """Parse the line behind a magic; a wrong one is a `UserError`.

    IPython's own `UsageError` would be shown and then forgotten: no tool that runs notebooks sees such a cell fail.
    """
    parser = magic.parser

    def refuse(message: str) -> NoReturn:
        raise UserError(message, hint=f"{_title(parser)}? lists the options")

    parser.error = refuse
    try:
        words = shlex.split(line)  # as a shell does: IPython's own way leaves the quotes in
    except ValueError as error:
        refuse(f"{line.strip()}: {error}")
    options: argparse.Namespace = parser.parse_args(words)
    if options.name and options.name_option and options.name != options.name_option:
        raise UserError(f"two names: {options.name} and {options.name_option}")
    options.name = options.name or options.name_option
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?", options.name):
        raise UserError(f"{options.name!r} cannot be a name", hint="use letters, digits, '-', '_' and '.'")
    options.timeout_s = _number(options.timeout, "--timeout")
    options.memory_bytes = parse_size(options.memory) if options.memory is not None else None
    options.env = dict(_variable(text) for text in options.env)
    _check_variables(options)
    return options


def _check_variables(options: argparse.Namespace) -> None:
    for option in ("out", "err", "proc"):
        name = getattr(options, option)
        if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
            raise UserError(f"--{option} {name}: {name!r} cannot be a variable", where=f"--{option}")
    if options.proc and not options.bg:
        raise UserError("--proc is for a command in the background", hint="add --bg")
    if options.bg and (options.out or options.err or options.timeout_s):
        hint = "with --bg --proc p: p.out, p.err, p.wait(timeout_s)"
        raise UserError("--out, --err and --timeout are for a command that is waited for", hint=hint)


def _title(parser: argparse.ArgumentParser) -> str:
    return "%%" + parser.prog.lstrip("%")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--env {text}: write NAME=VALUE", where="--env")
    return name, value


def vm_cpus(options: argparse.Namespace) -> int | None:
    """Return the number of virtual CPUs asked for."""
    number = _number(options.cpus, "--cpus", whole=True)
    return None if number is None else int(number)


def container_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what describes the container itself, in the words of `container.options.Options`; only what was given."""
    cpus, pids = _number(options.cpus, "--cpus"), _number(options.pids_limit, "--pids-limit", whole=True)
    given = {
        "image": options.image,
        "memory_bytes": options.memory_bytes,
        "cpus": cpus,
        "pids_limit": None if pids is None else int(pids),
        "hostname": options.hostname,
        "network": options.network,
        "read_only": options.read_only or None,
        "cap_add": options.cap_add or None,
        "cap_drop": options.cap_drop or None,
        "without": [word for word in options.without.replace(",", " ").split()] or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def process_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what describes the process: env, workdir, user, tty; only what was given."""
    given = {"env": options.env, "workdir": options.workdir, "user": options.user, "tty": options.tty}
    return {key: value for key, value in given.items() if value}
