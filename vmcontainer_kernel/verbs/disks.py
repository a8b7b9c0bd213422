"""``%vm disk``: disks that outlive machines and notebooks; and those of other hypervisors, in and out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import parse_number, parse_size
from ..display import Progress, Table, size_text
from ..drives import Wanted, attach, detach, drives_of, run_program
from ..errors import UserError
from ..messages import say
from ..paths import run_dir
from ..session import Session
from .words import Argument, Words, flag, nearest, option, word

if TYPE_CHECKING:
    from ..vm.disks.convert import Runner
    from ..vm.disks.store import Store

__all__ = ["ACTIONS", "ARGUMENTS", "run"]

_SHOW_S = 0.2


def _store() -> Store:
    from ..vm.disks.store import own_store

    return own_store()


def _runner(session: Session, progress: Progress) -> Runner:
    """Return what runs qemu-img below the supervisor, while progress is shown here."""

    def run(argv: Sequence[str], fds: Sequence[int], told: Callable[[str], None]) -> tuple[int, str]:
        async def whole() -> tuple[int, str]:
            return await run_program(await session.host(), run_dir() / session.id, argv, fds, told)

        future = asyncio.run_coroutine_threadsafe(whole(), session.loop)
        try:
            while True:
                with contextlib.suppress(NotYet):
                    return future.result(_SHOW_S)
                progress.show()
        finally:
            future.cancel()

    return run


def _users(session: Session) -> dict[str, list[str]]:
    """Return which machines of this notebook have which disks."""
    from ..vm.disks.store import FILE

    found: dict[str, list[str]] = {}
    for name, guest in session.machines.guests.items():
        if not guest.machine.gone.is_set():
            ours = [one.disk.name for one in guest.machine.config.drives if one.disk.path.name == FILE]
            for disk in [*ours, *drives_of(guest.machine).attachments]:
                found.setdefault(disk, []).append(name)
    return found


def _ls(session: Session, given: Words) -> Table:
    store, users = _store(), _users(session)
    rows = []
    for name in store.names():
        one = store.document(name)
        by = " ".join(users.get(name, [])) or ("another notebook, or an overlay" if one["in_use"] else "")
        below = one["chain"][1]["name"] if len(one["chain"]) > 1 else None
        rows.append((name, size_text(one["size_bytes"]), size_text(one["used_bytes"]), below, by, one["origin"]))
    return Table(("disk", "size", "takes", "lies on", "used by", "made of"), rows, "no disks")


def _create(session: Session, given: Words) -> None:
    from ..vm.disks import making

    store, progress = _store(), Progress()
    if given.below and (given.size or given.fs):
        raise UserError("an overlay has the size and the contents of what it lies on", hint="leave --size and --fs out")
    if given.below:
        making.overlay(store, _runner(session, progress), _name(given), given.below)
        return
    if not given.size:
        raise UserError("%vm disk create needs --size, or --from", hint="as in: %vm disk create data --size 1g")
    making.create(store, _runner(session, progress), _name(given), parse_size(given.size, "--size"), given.fs or "")


def _inspect(session: Session, given: Words) -> dict[str, Any]:
    name = _name(given)
    found = _store().document(name)
    for machine in _users(session).get(name, []):
        one = drives_of(session.machines.guest(machine).machine).attachments.get(name)
        told: dict[str, Any] = {"machine": machine, "read_only": bool(one and one.disk.read_only)}
        if one:  # else it has it since it began
            told |= {"bps": one.limits.bytes_per_s or None, "iops": one.limits.operations_per_s or None}
            told["device"] = one.link
        found.setdefault("attached", []).append(told)
    return found


def _rm(session: Session, given: Words) -> None:
    users = _users(session).get(_name(given), [])
    if users:
        hint = f"%vm disk detach {users[0]} {given.name}"
        raise UserError(f"disk {given.name} is in use by machine {users[0]}", hint=hint)
    _store().remove(given.name)


def _attach(session: Session, given: Words) -> None:
    machine, name = _pair(given)
    guest = session.machines.guest(machine)
    wanted = Wanted(name, given.read_only, given.mount or "")
    device = session.wait(attach(guest.machine, guest.node, wanted, _limits(given) or (0, 0)))
    link = drives_of(guest.machine).find(name).link
    place = machine + (say(f", mounted at {given.mount}") if given.mount else "")
    print(say(f"{name} is {device} in {place} (also {link})"))


def _detach(session: Session, given: Words) -> None:
    machine, name = _pair(given)
    guest = session.machines.guest(machine)
    session.wait(detach(guest.machine, guest.node, name))


def _limit(session: Session, given: Words) -> None:
    from ..vm.disks.live import Limits

    machine, name = _pair(given)
    limits = _limits(given)
    if limits is None:
        raise UserError("%vm disk limit needs --bps or --iops", hint="0 takes a limit away")
    session.wait(drives_of(session.machines.guest(machine).machine).limit(name, Limits(*limits)))


def _limits(given: Words) -> tuple[int, int] | None:
    if given.bps is None and given.iops is None:
        return None
    bps = parse_size(given.bps, "--bps") if given.bps not in (None, "0") else 0
    return bps, int(parse_number(given.iops, "--iops", whole=True, low=0) or 0)


def _flatten(session: Session, given: Words) -> None:
    from ..vm.disks import making

    progress = Progress()
    making.flatten(_store(), _runner(session, progress), _name(given), progress.report)


def _commit(session: Session, given: Words) -> None:
    from ..vm.disks import making

    progress = Progress()
    below = making.commit(_store(), _runner(session, progress), _name(given), progress.report)
    print(say(f"{given.name} was written into {below}"))


def _import(session: Session, given: Words) -> None:
    from ..vm.disks.importing import import_image

    if not given.second:
        raise UserError("%vm disk import needs a file and a name", hint="as in: %vm disk import windows.vmdk windows")
    progress, path = Progress(), Path(_name(given)).expanduser()
    run = _runner(session, progress)
    for name in import_image(_store(), run, path, given.second, given.format or "", progress.report):
        kept = _store().document(name)
        print(f"{name}: {size_text(kept['size_bytes'])}, {say('takes')} {size_text(kept['used_bytes'])}")


def _export(session: Session, given: Words) -> None:
    from ..vm.disks import making

    if not given.second:
        raise UserError("%vm disk export needs a disk and a file", hint="as in: %vm disk export data data.vmdk")
    progress, target = Progress(), Path(given.second).expanduser()
    making.export(_store(), _runner(session, progress), _name(given), target, given.format or "", progress.report)
    print(f"{target}: {size_text(target.stat().st_size)}")


def _name(given: Words) -> str:
    if not given.name:
        raise UserError(f"%vm disk {given.action} needs a name", hint="%vm disk ls shows them")
    return str(given.name)


def _pair(given: Words) -> tuple[str, str]:
    if not given.second:
        hint = f"as in: %vm disk {given.action} vm data"
        raise UserError(f"%vm disk {given.action} needs a machine and a disk", hint=hint)
    return str(given.name), str(given.second)


ACTIONS: dict[str, Callable[[Session, Words], Any]] = {
    "ls": _ls,
    "create": _create,
    "inspect": _inspect,
    "rm": _rm,
    "attach": _attach,
    "detach": _detach,
    "limit": _limit,
    "flatten": _flatten,
    "commit": _commit,
    "import": _import,
    "export": _export,
}
ARGUMENTS: tuple[Argument, ...] = (
    word("action", " ".join(ACTIONS), needed=False),
    word("name", "the disk; attach, detach, limit: the machine; import: the file", needed=False),
    word("second", "attach, detach, limit: the disk; import: its name; export: the file", needed=False),
    option("--size", metavar="SIZE", help="create: what the guest sees, as 1g"),
    (("--from",), {"dest": "below", "metavar": "DISK", "default": "", "help": "create: an overlay of this one"}),
    option("--fs", metavar="KIND", help="create: an empty file system on it, ext4 or ext2"),
    flag("--read-only", help="attach: several machines may have it so"),
    option("--mount", metavar="FOLDER", help="attach: mount it there in the guest"),
    option("--bps", metavar="SIZE", help="attach, limit: bytes a second, as 10m; 0: no limit"),
    option("--iops", metavar="N", help="attach, limit: reads and writes a second; 0: no limit"),
    option("--format", metavar="FORMAT", help="import, export: raw qcow2 vmdk vdi vhdx vhd ova, if names do not tell"),
)


def run(session: Session, given: Words, language: str) -> Any:
    """Carry out ``%vm disk ACTION …``."""
    return nearest(ACTIONS, given.action or "ls", "%vm disk")(session, given)
