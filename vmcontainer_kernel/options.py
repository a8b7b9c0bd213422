"""From words to types: a magic's line parsed, checked, and put into the words of the engine and the node.

Parsing ends here: what comes out is typed (bytes, CPUs, seconds), and what is wrong is a `UserError` that says which.
"""

from __future__ import annotations

import argparse
import keyword
import re
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core import magic_arguments as ipython

from . import arguments as words
from .arguments import parse_duration, parse_number, parse_size
from .errors import UserError

if TYPE_CHECKING:
    from .machines import Wish

__all__ = [
    "asm_arguments",
    "container_arguments",
    "container_options",
    "limit_options",
    "parse",
    "parse_asm",
    "parse_size",
    "process_options",
    "vm_arguments",
    "vm_wish",
]

LARGEST_BARE_BYTES = 256 << 20
LONGEST_BARE_S = 60
_BARE_ONLY = ("steps", "bits", "origin", "memory", "registers", "input")
BARE_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")

_named: Any = ipython.magic_arguments


def _stacked(*decorators: Any) -> Any:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def vm_arguments(name: str) -> Any:
    """Return the decorator that gives a function the options of ``%%vm``."""
    return _stacked(_named(name), *words.VM, *words.RUN)


def container_arguments(name: str) -> Any:
    """Return the decorator that gives a function the options of ``%%container``."""
    return _stacked(_named(name), *words.CONTAINER, *words.RUN)


def asm_arguments(name: str) -> Any:
    """Return the decorator that gives a function the options of ``%%asm``."""
    return _stacked(_named(name), *words.ASM)


def parse(magic: Any, line: str) -> argparse.Namespace:
    """Parse the line behind a magic; a wrong one is a `UserError`.

    IPython's own `UsageError` would be shown and then forgotten: no tool that runs notebooks sees such a cell fail.
    """
    return checked(_parsed(magic, line))


def _parsed(magic: Any, line: str) -> argparse.Namespace:
    parser = magic.parser

    def refuse(message: str) -> NoReturn:
        raise UserError(message, hint=f"{_title(parser)}? lists the options")

    parser.error = refuse
    try:
        given = shlex.split(line)  # as a shell does: IPython's own way leaves the quotes in
    except ValueError as error:
        refuse(f"{line.strip()}: {error}")
    found: argparse.Namespace = parser.parse_args(given)
    return found


def parse_asm(magic: Any, line: str) -> argparse.Namespace:
    """Parse the line behind ``%%asm``: `steps`, `bits`, `origin`, `memory_bytes`, `register_values`, `timeout_s`."""
    options = _parsed(magic, line)
    if options.name and (not options.name.isidentifier() or keyword.iskeyword(options.name)):
        raise UserError(f"{options.name!r} cannot be a variable")
    if options.run == "qemu":
        _check_sector(magic.parser, options)
    options.steps = int(parse_number(options.steps, "--steps", whole=True) or 0)
    options.bits = int(options.bits)
    options.origin = _address(options.origin, "--origin")
    options.memory_bytes = parse_size(options.memory)
    if options.memory_bytes > LARGEST_BARE_BYTES:
        raise UserError(f"--memory {options.memory}: at most {LARGEST_BARE_BYTES >> 20}m", where="--memory")
    options.timeout_s = parse_number(options.timeout, "--timeout")
    if options.timeout_s > LONGEST_BARE_S:
        raise UserError(f"--timeout {options.timeout}: at most {LONGEST_BARE_S}", where="--timeout")
    options.register_values = _registers(options.registers, options.bits)
    return options


def _check_sector(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what a whole machine and its firmware decide themselves."""
    given = [f"--{name}" for name in _BARE_ONLY if getattr(options, name) != parser.get_default(name)]
    if given:
        hint = "a PC's firmware starts 16-bit code at 0x7c00; .code32 changes the mode in the middle of it"
        raise UserError(f"{' '.join(given)}: only for --run kvm", hint=hint)


def _address(text: str, where: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UserError(f"{where} {text}: this is no number", hint="write 0x7c00 or 31744", where=where) from None


def _registers(text: str, bits: int) -> dict[str, int]:
    """Read ``ax=1,bx=0x20``: names as the mode has them, to the kernel's names and values."""
    known = {name[1:] if bits == 16 else "e" + name[1:] if bits == 32 else name: name for name in BARE_REGISTERS}
    found = {}
    for one in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in one.partition("="))
        if name not in known:
            hint = f"there are: {' '.join(known)}"
            raise UserError(f"--registers {one}: no register {name!r} in {bits}-bit mode", hint=hint)
        found[known[name]] = _address(value, "--registers")
        if not 0 <= found[known[name]] < 1 << bits:
            raise UserError(f"--registers {one}: this is no number of {bits} bits", where="--registers")
    return found


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """Check what cells and ``%container run`` have in common, and give it types."""
    if options.name and options.name_option and options.name != options.name_option:
        raise UserError(f"two names: {options.name} and {options.name_option}")
    options.name = options.name or options.name_option
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?", options.name):
        raise UserError(f"{options.name!r} cannot be a name", hint="use letters, digits, '-', '_' and '.'")
    options.timeout_s = parse_number(options.timeout, "--timeout")
    memory = getattr(options, "memory", None)
    options.memory_bytes = parse_size(memory) if memory is not None else None
    from_files = [words.read_variables(path) for path in getattr(options, "env_file", ())]
    options.env = {name: value for some in from_files for name, value in some.items()} | dict(
        _variable(text) for text in options.env
    )
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
    if getattr(options, "detach", False) and (options.bg or options.out or options.err or options.timeout_s):
        hint = "its output: %container logs NAME; to have it in a variable: --bg --proc p"
        raise UserError("--detach goes with neither --bg, --out, --err nor --timeout", hint=hint)


def _title(parser: argparse.ArgumentParser) -> str:
    return "%%" + parser.prog.lstrip("%")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--env {text}: write NAME=VALUE", where="--env")
    return name, value


def vm_wish(options: argparse.Namespace) -> Wish:
    """Return what is asked of a machine."""
    from .machines import Wish

    origin = None
    if options.arch or options.system:
        from .vm.systems import origin_of

        origin = origin_of(options.system, options.arch)
    return Wish(
        options.memory_bytes,
        _whole(options.cpus, "--cpus"),
        origin,
        _whole(options.max_cpus, "--max-cpus"),
        _whole(options.cpu_shares, "--cpu-shares", 2),
        _whole(options.cpu_quota, "--cpu-quota", 1000),
        options.network if options.network in ("none", "user") else "",
    )


def _whole(text: str | None, option: str, low: float | None = None) -> int | None:
    number = parse_number(text, option, whole=True, low=low)
    return None if number is None else int(number)


def _size(text: str | None, option: str) -> int | None:
    return None if text is None else parse_size(text, option)


# -- into the words of `container.options.Options`; only what was given


def container_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what describes the container itself."""
    given = {
        "image": options.image,
        "entrypoint": None if options.entrypoint is None else shlex.split(options.entrypoint),
        "interactive": options.interactive,
        "hostname": options.hostname,
        "domainname": options.domainname,
        "network": options.network,
        "network_alias": options.network_alias,
        "publish": options.publish,
        "add_host": options.add_host,
        "group_add": options.group_add,
        "labels": options.label,
        **limit_options(options),
        **_file_options(options),
        **_wall_options(options),
        **_life_options(options),
    }
    return {
        key: value for key, value in given.items() if value is not None and value is not False and value not in ("", [])
    }


def limit_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the limits, which can be changed later too (``%container update``)."""
    swap = options.memory_swap
    given = {
        "memory_bytes": _size(options.memory, "--memory"),
        "memory_swap_bytes": -1 if swap == "-1" else _size(swap, "--memory-swap"),
        "memory_reservation_bytes": _size(options.memory_reservation, "--memory-reservation"),
        "cpus": parse_number(options.cpus, "--cpus"),
        "cpu_shares": _whole(options.cpu_shares, "--cpu-shares"),
        "cpuset_cpus": options.cpuset_cpus or None,
        "cpuset_mems": options.cpuset_mems or None,
        "pids_limit": _whole(options.pids_limit, "--pids-limit"),
        "blkio_weight": _whole(options.blkio_weight, "--blkio-weight"),
    }
    return {key: value for key, value in given.items() if value is not None}


def _file_options(options: argparse.Namespace) -> dict[str, Any]:
    mounts = [_mount(text) for text in options.mount]
    rates = {
        f"device_{what}_{unit}": [
            words.parse_rate(text, f"--device-{what}-{unit}", sized=unit == "bps")
            for text in getattr(options, f"device_{what}_{unit}")
        ]
        for what in ("read", "write")
        for unit in ("bps", "iops")
    }
    return {
        "volumes": [words.parse_volume(text) for text in options.volume]
        + [text for kind, text in mounts if kind != "tmpfs"],
        "tmpfs": options.tmpfs + [text for kind, text in mounts if kind == "tmpfs"],
        "shm_size_bytes": _size(options.shm_size, "--shm-size"),
        "devices": options.device,
        "read_only": options.read_only,
        **rates,
    }


def _mount(text: str) -> tuple[str, str]:
    """Return what ``--volume`` or ``--tmpfs`` would say for ``type=bind,source=…,target=…,readonly``."""
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    kind = pairs.pop("type", "volume")
    source = pairs.pop("source", pairs.pop("src", ""))
    target = pairs.pop("target", pairs.pop("dst", pairs.pop("destination", "")))
    read_only = any(pairs.pop(word, "false") in ("", "true", "1") for word in ("readonly", "ro"))
    size = pairs.pop("tmpfs-size", "")
    if pairs or not target or kind not in ("bind", "volume", "tmpfs") or (kind == "bind" and not source):
        hint = "type=bind|volume|tmpfs,source=…,target=…[,readonly][,tmpfs-size=64m]"
        raise UserError(f"--mount {text}: this is not understood", hint=hint, where="--mount")
    if kind == "tmpfs":
        return kind, f"{target}:size={parse_size(size, '--mount')}" if size else target
    ending = ":ro" if read_only else ""
    return kind, words.parse_volume(f"{source}:{target}{ending}") if source else f"{target}{ending}"


def _wall_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "without": options.without.replace(",", " ").split(),
        "privileged": options.privileged,
        "cap_add": options.cap_add,
        "cap_drop": options.cap_drop,
        "security": [words.read_profile(text) for text in options.security_opt],
        "ulimits": options.ulimit,
        "sysctls": options.sysctl,
        "time_offsets": options.time_offset,
        "oom_score_adj": _whole(options.oom_score_adj, "--oom-score-adj", -1000),
        **{name: getattr(options, name) for name in ("pid", "ipc", "uts", "userns", "cgroupns")},
    }


def _life_options(options: argparse.Namespace) -> dict[str, Any]:
    health: dict[str, Any] = {"argv": ["NONE"]} if options.no_healthcheck else {}
    if options.health_cmd:
        times = {name: getattr(options, f"health_{name}") for name in ("interval", "timeout", "start_period")}
        health = {"argv": ["/bin/sh", "-c", options.health_cmd]} | {
            f"{name}_s": parse_duration(text, f"--health-{name.replace('_', '-')}")
            for name, text in times.items()
            if text is not None
        }
        if options.health_retries is not None:
            health["retries"] = _whole(options.health_retries, "--health-retries")
    return {
        "restart": options.restart,
        "stop_signal": options.stop_signal,
        "stop_timeout_s": parse_number(options.stop_timeout, "--stop-timeout", low=0),
        "health": health or None,
    }


def process_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what describes the process: env, workdir, user, tty; only what was given."""
    given = {"env": options.env, "workdir": options.workdir, "user": options.user, "tty": options.tty}
    return {key: value for key, value in given.items() if value}
