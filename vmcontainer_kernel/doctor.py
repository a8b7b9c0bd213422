"""What this computer can do for the lab: one probe for each thing it may lack, and what lacking it costs.

    examine() ─▶ [Check]      kernel (probe.py), programs, images, memory, disk: side by side, under a second
    check(name) ─▶ Check      one of them: for a test's skip, or for an error's hint
    default_node(checks)      which kernel serves ``%%container`` when nobody says ``--on``, and why

A verdict is ``ok``, ``degraded`` (works with a loss) or ``no``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import probe
from .container.ladder import GUEST, ID_RANGES, ROOT, RUNGS
from .errors import LabError, NotFound
from .memory import available_memory
from .messages import padded, say
from .paths import cache_dir

if TYPE_CHECKING:
    from .vm.accelerator import Rung

__all__ = ["NAMES", "Check", "Verdict", "check", "default_node", "examine", "to_html", "to_json", "to_text"]

Verdict = Literal["ok", "degraded", "no"]

MIB = 1 << 20
PROGRAM_LIMIT_S = 3.0  # each takes some 20 ms; the limit is for one that hangs
SETUP = "./lab setup"
_CAP_SYS_RESOURCE = 24  # linux/capability.h


@dataclass(frozen=True)
class Check:
    """One finding: `reason` is what was seen, `details` the same taken apart, `hint` what to do about it, `cost` what
    its lack costs the user.
    """

    name: str
    verdict: Verdict
    reason: str
    hint: str = ""
    cost: str = ""
    seconds: float = 0.0
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a probe says: verdict, reason, and what to do when the verdict is not ``ok``."""

    verdict: Verdict
    reason: str
    hint: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """How a check is made: what is probed, and what the user loses without it."""

    find: Callable[[], Finding]
    cost: str


def examine(names: Iterable[str] = ()) -> list[Check]:
    """Make all checks, or those named, side by side; their order is that of `NAMES`."""
    wanted = [name for name in NAMES if not names or name in names]
    # The five kernel probes are one program; it is started once and its answer shared.
    _kernel.forget()
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="doctor") as pool:
        return list(pool.map(_examine, wanted))


def check(name: str) -> Check:
    """Make one check. Raises NotFound for a name that is none of `NAMES`."""
    if name not in PROBES:
        raise NotFound(f"there is no check {name}", hint=f"there are: {' '.join(NAMES)}")
    return examine([name])[0]


def default_node(checks: Iterable[Check]) -> tuple[str, str] | None:
    """Return where ``%%container`` runs by default, ``host`` or ``guest``, and why; None if not examined."""
    by_name = {found.name: found for found in checks}
    if not {"containers-on-host", "qemu"} <= by_name.keys():
        return None
    host = by_name["containers-on-host"]
    if host.verdict != "no":
        return "host", "this kernel lets this user make containers"
    if by_name["qemu"].verdict == "no":
        return "host", f"it will fail ({host.reason}), but there is no QEMU to make a guest with"
    return "guest", f"not on this kernel: {host.reason}"


def to_json(checks: list[Check]) -> dict[str, Any]:
    """Return the findings as a JSON document: ``{"checks": [...], "default_node": {"name", "reason"} or null}``."""
    node = default_node(checks)
    return {
        "checks": [asdict(found) for found in checks],
        "default_node": {"name": node[0], "reason": node[1]} if node else None,
    }


def _node_line(checks: list[Check]) -> list[str]:
    node = default_node(checks)
    return [say(f"%%container runs on: {node[0]} ({node[1]})")] if node else []


def to_text(checks: list[Check]) -> str:
    """Return the findings as lines, in the reader's language; below what is not well, its cost and a hint."""
    width = max(len(found.name) for found in checks)
    indent = " " * (width + 12)
    lines = []
    for found in checks:
        lines += [f"{padded(say(found.verdict), 9)} {found.name:<{width}}  {say(found.reason)}"]
        lines += [f"{indent}{say(detail)}" for detail in found.details]
        if found.verdict != "ok":
            lines += [f"{indent}{say('costs: ')}{say(found.cost)}"]
            lines += [f"{indent}{padded(say('try: '), 7)}{say(found.hint)}"] if found.hint else []
    return "\n".join([*lines, *_node_line(checks)])


def to_html(checks: list[Check]) -> str:
    """Return the findings as an HTML table without scripts; the verdict is a word, not a colour."""
    rows = []
    left = ' style="text-align:left"'  # JupyterLab puts what is in tables to the right
    for found in checks:
        more = [] if found.verdict == "ok" else [say("costs: ") + say(found.cost)]
        more += [say("try: ") + say(found.hint)] if more and found.hint else []
        text = "<br>".join(escape(line) for line in [*map(say, (found.reason, *found.details)), *more] if line)
        name = f'<th scope="row">{escape(found.name)}</th>'
        rows += [f"<tr>{name}<td{left}>{say(found.verdict)}</td><td{left}>{text}</td></tr>"]
    head = "".join(f'<th scope="col"{left}>{say(title)}</th>' for title in ("check", "verdict", "what was seen"))
    caption = "".join(f"<caption>{escape(line)}</caption>" for line in _node_line(checks))
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _examine(name: str) -> Check:
    start = time.perf_counter()
    try:
        finding = PROBES[name].find()
    except LabError as error:
        finding = Finding("no", error.message, error.hint)
    except Exception as error:
        # A probe that breaks is a finding too: the other checks must still be shown.
        finding = Finding("no", f"the check itself failed: {type(error).__name__}: {error}")
    seconds = round(time.perf_counter() - start, 4)
    return Check(name, finding.verdict, finding.reason, finding.hint, PROBES[name].cost, seconds, finding.details)


# ---- programs


def _first_line(*command: str) -> str:
    """Return the first line that a program prints. Raises OSError, TimeoutExpired."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROGRAM_LIMIT_S, check=False
    )
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _missing(program: str) -> Finding:
    return Finding("no", f"there is no program {program}", SETUP)


def _qemu(name: str = "qemu-system-x86_64") -> Finding:
    from .vm import qemu

    if not (program := shutil.which(name)):
        return _missing(name)
    line = _first_line(program, "--version")
    version, newer = qemu.version_of(line), "a newer release of the distribution"
    if version < (6, 0):
        return Finding("no", f"{line}; machines need 6.0 or later (-action, pvpanic-pci)", newer)
    if version < (7, 2):
        return Finding("degraded", f"{line}; the lab is made for 7.2 and later", newer)
    return Finding("ok", line)


def _kvm() -> Finding:
    from .vm import accelerator

    chosen = accelerator.choose()
    details = tuple(_rung_line(rung) for rung in chosen.rungs)
    if chosen.name == "kvm":
        return Finding("ok", chosen.reason, details=details)
    if Path("/dev/kvm").exists() and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Finding("no", chosen.reason, "sudo usermod -aG kvm $USER, then log in again", details)
    hint = "run the lab on the computer itself, or on a virtual machine with nested virtualization"
    return Finding("no", chosen.reason, hint, details)


def _rung_line(rung: Rung) -> str:
    took = "-" if rung.seconds is None else f"{rung.seconds * 1e3:.2f} ms"
    return f"{'yes' if rung.holds else 'no ':<3}  {rung.name:<9} {took:>9}  {rung.told}"


def _kvm_real_mode() -> Finding:
    """Try what lessons do with KVM itself; that works where no kernel boots on it."""
    from .vm import accelerator

    found = accelerator.abilities()
    works = [name for name, failure in found.items() if not failure]
    fails = [f"{name}: {failure}" for name, failure in found.items() if failure]
    reason = f"it runs {', '.join(works) or 'nothing'}" + (f"; it does not run {', '.join(fails)}" if fails else "")
    if found["16-bit real mode"] or found["single steps"]:
        return Finding("no", reason, "%%asm --run none shows the machine code")
    return Finding("degraded", reason, "what is missing works in a machine: %%vm") if fails else Finding("ok", reason)


def _assembler() -> Finding:
    from .vm.assembly import find_assembler

    return Finding("ok", _first_line(f"{find_assembler()}as", "--version"))


def _skopeo() -> Finding:
    program = shutil.which("skopeo")
    return Finding("ok", _first_line(program, "--version")) if program else _missing("skopeo")


def _slirp() -> Finding:
    if not (program := shutil.which("slirp4netns")):
        return _missing("slirp4netns")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Finding("no", f"/dev/net/tun: {error.strerror}", "let this user open it: chmod 666 /dev/net/tun")
    return Finding("ok", _first_line(program, "--version"))


def _chromium() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        program = shutil.which(name)
        # Ubuntu's chromium-browser is a script for a snap, which Playwright cannot drive.
        if program and "/snap/" not in Path(program).resolve().as_posix() and not _is_script_of_snap(Path(program)):
            return Finding("ok", program)
    return Finding("no", "there is no Chromium that is not a snap", "apt-get install chromium (Debian)")


def _is_script_of_snap(program: Path) -> bool:
    with program.open("rb") as stream:
        head = stream.read(4096)
    return head.startswith(b"#!") and b"snap" in head and b"/usr/lib/chromium" not in head


# ---- the kernel


class _Shared:
    """The answer of the probing program, asked for once in an examination by whichever check comes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}

    def forget(self) -> None:
        with self._lock:
            self._found = {}

    def get(self) -> dict[str, str]:
        with self._lock:
            self._found = self._found or probe.explore()
            return self._found


_kernel = _Shared()


def _by_doing(name: str, well: str, hint: str, otherwise: Verdict = "no") -> Finding:
    failure = _kernel.get()[name]
    return Finding(otherwise, failure, hint) if failure else Finding("ok", well)


def _user_namespaces() -> Finding:
    hint = "Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0; in Docker: --security-opt seccomp=unconfined"
    return _by_doing("user-namespaces", "made one and used a capability inside it", hint)


def _mount() -> Finding:
    return _by_doing("mount", "made a mount namespace and mounted a tmpfs", "in Docker: --privileged")


def _overlay() -> Finding:
    return _by_doing("overlay", "mounted an overlay and wrote to it", "Linux 5.11 or later, or as root")


def _containers() -> Finding:
    """Tell the rung of the ladder that holds, and why no higher one does."""
    found = probe.find_footing()
    reason = f"made one; rung {found.number} of {len(RUNGS)}: {found.rung}"
    lacking = "".join(f"; not {rung}: {why}" for rung, why in found.why if rung != ROOT.name)
    if found.rung == GUEST.name:
        why = "; ".join(dict.fromkeys(reason for rung, reason in found.why if rung not in (ROOT.name, ID_RANGES.name)))
        hint = "nothing need be done: containers run in a guest, %%container --on vm"
        return Finding("no", why or found.reason_against(ROOT), hint)
    if found.rung in (ROOT.name, ID_RANGES.name):
        return Finding("ok", reason + lacking)
    hint = "ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; or all of it in a guest: --on vm"
    return Finding("degraded", reason + lacking, hint)


def _cgroups() -> Finding:
    from .container.cgroups import find_places

    places = find_places(Path("/proc/self/mountinfo").read_text())
    well = ", ".join(f"{name} v{place.version}" for name, place in sorted(places.items()))
    hint = "as root outside a container; or limits in a guest, where you are root: %%container --on vm"
    return _by_doing("cgroups", f"made a group with limits: {well}", hint)


def _sys_resource() -> Finding:
    effective = int(_status_field("CapEff"), 16)
    if effective >> _CAP_SYS_RESOURCE & 1:
        return Finding("ok", "CAP_SYS_RESOURCE is held")
    return Finding("no", "CAP_SYS_RESOURCE is not held (capabilities(7))", "in Docker: --cap-add SYS_RESOURCE")


def _status_field(name: str, status: Path = Path("/proc/self/status")) -> str:
    """Return a field of /proc/PID/status (proc(5))."""
    lines = (line.partition(":") for line in status.read_text().splitlines())
    return next(value.strip() for key, _, value in lines if key == name)


# ---- images


def _guest_image() -> Finding:
    from .vm.guest import find_guest

    guest = find_guest()
    if guest is None:
        return Finding("no", "it is not built yet", SETUP)
    return Finding("ok", f"Linux {guest.release}, {guest.path.name}")


def _template(system: str, otherwise: str, hint: str = SETUP) -> Finding:
    from .vm import systems, template

    found = template.template_of(systems.origin_of(system, ""))
    if found is None:
        return Finding("degraded", otherwise, hint)
    return Finding("ok", f"{found.key}, {_mib(found.config.memory_bytes)} of memory")


# ---- room


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB"


def _memory() -> Finding:
    available_bytes, of_what = available_memory()
    reason = f"{_mib(available_bytes)} available ({of_what})"
    hint = "end other programs, or give this computer or container more memory"
    if available_bytes < 400 * MIB:
        return Finding("no", reason, hint)
    return Finding("degraded", reason, hint) if available_bytes < 1024 * MIB else Finding("ok", reason)


def _disk() -> Finding:
    place = cache_dir()
    free_bytes = shutil.disk_usage(place).free
    shown = str(place).replace(str(Path.home()), "~", 1)  # a stored notebook tells nobody where its author lives
    kept = _mib(_volumes_bytes(place / "volumes"))
    reason = f"{_mib(free_bytes)} free at {shown}; the volumes there take {kept}"
    hint = "free some, or set VMCONTAINER_CACHE to a folder on another disk"
    if not os.access(place, os.W_OK):
        return Finding("no", f"this user may not write to {place}", "set VMCONTAINER_CACHE to a folder of your own")
    if free_bytes < 500 * MIB:
        return Finding("no", reason, hint)
    return Finding("degraded", reason, hint) if free_bytes < 2048 * MIB else Finding("ok", reason)


def _volumes_bytes(folder: Path) -> int:
    """Return what named volumes take: nobody removes them but who made them. What this user may not see counts 0."""
    from .container.volumes import Volumes, size_bytes

    return sum(size_bytes(Volumes(folder).path(name)) for name in Volumes(folder).names())


PROBES: dict[str, Probe] = {
    "qemu": Probe(_qemu, "no machines: neither %%vm nor containers in a guest"),
    "qemu-arm64": Probe(partial(_qemu, "qemu-system-aarch64"), "no machines of another processor: --arch arm64"),
    "kvm": Probe(_kvm, "machines run on QEMU's emulator (TCG): all lessons work, guests compute far slower"),
    "kvm-real-mode": Probe(_kvm_real_mode, "%%asm cells run in part only, or are shown as machine code"),
    "assembler": Probe(_assembler, "no %%asm cells"),
    "user-namespaces": Probe(_user_namespaces, "an ordinary user's containers run in a guest"),
    "mount": Probe(_mount, "containers run in a guest"),
    "overlay": Probe(_overlay, "containers run in a guest"),
    "containers-on-host": Probe(_containers, "containers have one user or the node's /proc, or run in a guest"),
    "cgroups": Probe(_cgroups, "containers on this kernel have no memory, CPU and process limits"),
    "sys-resource": Probe(_sys_resource, "limits of setrlimit(2) can be lowered, not raised"),
    "guest-image": Probe(_guest_image, "the first %%vm must build it, which takes a minute and the network"),
    "template": Probe(partial(_template, "", "the first %%vm makes it"), "the first %%vm boots instead of waking"),
    "xen": Probe(
        partial(_template, "xen", "the first machine with Xen is fetched or boots", "vmcontainer setup --system xen"),
        "a boot takes half a minute, and to fetch its packages one more",
    ),
    "skopeo": Probe(_skopeo, "images cannot be pulled from a registry; the built-in one works"),
    "slirp4netns": Probe(_slirp, "containers on this kernel reach no network but each other's; those in a guest do"),
    "chromium": Probe(_chromium, "the tests of the widgets are skipped; nothing is lost in notebooks"),
    "memory": Probe(_memory, "few machines and containers at a time; the kernel may end some"),
    "disk": Probe(_disk, "images and templates cannot be made"),
}
NAMES: tuple[str, ...] = tuple(PROBES)
