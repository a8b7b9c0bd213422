"""The line magics' verbs: small functions from words to a table, a text, a document or a widget."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import shlex
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .cells import DEFAULT_MACHINE
from .display import Table, show, size_text, steps_table
from .errors import LabError, NotFound, UserError
from .node import Node
from .options import container_options, process_options, vm_cpus
from .probe import remembered
from .session import Session, current

if TYPE_CHECKING:
    from .vm.machine import Machine

__all__ = ["default_node_name", "explain_container", "explain_machine", "node_finder", "run"]

_STATE_LIMIT_S = 1.0
FindNode = Callable[[], Coroutine[Any, Any, Node]]


class _Words:
    """The words behind a verb: one name, perhaps ``--on NODE``."""

    def __init__(self, magic: str, verb: str, words: list[str]) -> None:
        self.magic, self.verb = magic, verb
        self.on = ""
        if "--on" in words[:-1]:
            at = words.index("--on")
            self.on = words[at + 1]
            words = words[:at] + words[at + 2 :]
        unknown = [word for word in words if word.startswith("-") and word not in ("-f", "--force")]
        if unknown or len([word for word in words if not word.startswith("-")]) > 1:
            self._refuse(unknown or words[1:])
        self.name = next((word for word in words if not word.startswith("-")), "")

    def _refuse(self, words: list[str]) -> NoReturn:
        raise UserError(
            f"%{self.magic} {self.verb}: what is {' '.join(words)}?", hint=f"%{self.magic}? shows the verbs"
        )

    def need_name(self) -> str:
        """Return the name, or raise."""
        if not self.name:
            raise UserError(f"%{self.magic} {self.verb} needs a name", hint=f"%{self.magic} ls shows them")
        return self.name


def run(magic: str, line: str, language: str) -> Any:
    """Carry out ``%MAGIC VERB …``; raises UserError for a verb there is not, with the nearest one."""
    verbs = VERBS[magic]
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UserError(f"%{magic} {line}: {error}", hint="close the quotes") from None
    verb = words[0] if words else "ls" if magic != "lab" else "doctor"
    if verb not in verbs:
        near = difflib.get_close_matches(verb, verbs, 1)
        hint = f"did you mean %{magic} {near[0]}?" if near else f"there are: {' '.join(verbs)}"
        raise UserError(f"%{magic} has no verb {verb!r}", hint=hint)
    return verbs[verb](current(), _Words(magic, verb, words[1:]), language)


# -- nodes


_default_node: str = ""


def default_node_name() -> str:
    """Return where containers run when nothing is said: the host where its kernel allows them, else a machine."""
    global _default_node  # noqa: PLW0603 - the answer cannot change while this process lives
    if not _default_node:
        # `doctor` looks each time; a cell need not wait for what was found since this computer started.
        allowed = remembered("containers-on-host", _host_allows_containers)
        _default_node = "host" if allowed else DEFAULT_MACHINE
    return _default_node


def _host_allows_containers() -> bool:
    from . import doctor

    return doctor.check("containers-on-host").verdict == "ok"


def node_finder(session: Session, name: str, report: Callable[[str, float], None]) -> FindNode:
    """Return what finds a node on the event loop; the default node is made if it is a machine that is not there."""
    wanted = name or default_node_name()

    async def find() -> Node:
        if not name and wanted != "host":
            guest = await session.ensure_guest(wanted, report=report)
            report("", 1.0)
            return guest.node
        return await session.node(wanted)

    return find


def _container_node(session: Session, words: _Words) -> FindNode:
    return node_finder(session, words.on, lambda phase, fraction: None)


# -- %%… --explain


def explain_container(session: Session, find: FindNode, options: argparse.Namespace) -> Table:
    """Return the steps that a ``%%container`` cell would take."""

    async def ask() -> dict[str, Any]:
        description = {**container_options(options), **process_options(options), "argv": ["/bin/sh", "-c", "…"]}
        return await (await find()).call("container.explain", name=options.name, options=description)

    return steps_table(session.wait(ask())["steps"])


def explain_machine(session: Session, name: str, options: argparse.Namespace) -> Table:
    """Return QEMU's command line for a ``%%vm`` cell, part by part, each with what it is for."""
    from .vm import qemu

    config = session.wait(session.config(name, options.memory_bytes, vm_cpus(options), lambda phase, fraction: None))
    rows = []
    for device in qemu.DEVICES:
        words = device(config, qemu.Wiring(ram=Path("RAM")))
        if words:
            rows.append((device.__name__, " ".join(words), (device.__doc__ or "").splitlines()[0]))
    return Table(("part", "options", "why"), rows)


# -- %vm


def _vm_ls(session: Session, words: _Words, language: str) -> Table:
    async def row(name: str, machine: Machine) -> tuple[Any, ...]:
        try:
            state = await asyncio.wait_for(machine.status(), _STATE_LIMIT_S)
        except (LabError, TimeoutError):
            state = "gone" if machine.gone.is_set() else "does not answer"
        return name, state, machine.config.cpus, size_text(machine.config.memory_bytes), machine.pid

    async def rows() -> list[tuple[Any, ...]]:
        return await asyncio.gather(*(row(name, guest.machine) for name, guest in session.guests.items()))

    return Table(("machine", "state", "CPUs", "memory", "QEMU's pid"), session.wait(rows()), "no machines")


def _vm_do(action: str) -> Callable[[Session, _Words, str], None]:
    def do(session: Session, words: _Words, language: str) -> None:
        session.wait(getattr(session, action)(words.need_name()))

    return do


def _vm_logs(session: Session, words: _Words, language: str) -> None:
    print(session.guest(words.need_name()).machine.console_tail(200))


def _vm_inspect(session: Session, words: _Words, language: str) -> dict[str, Any]:
    return session.wait(session.guest(words.need_name()).machine.view())


def _vm_view(session: Session, words: _Words, language: str) -> Any:
    from .live import machine_view

    return machine_view(session, words.name or DEFAULT_MACHINE, language)


# -- %container


def _ask(session: Session, words: _Words, verb: str, **arguments: Any) -> dict[str, Any]:
    find = _container_node(session, words)

    async def ask() -> dict[str, Any]:
        return await (await find()).call(verb, **arguments)

    return session.wait(ask())


def _container_ls(session: Session, words: _Words, language: str) -> Table:
    found = _ask(session, words, "container.list")["containers"]
    rows = [
        (
            one["name"],
            one["status"],
            one["image"],
            one["pid"],
            one["pids"]["current"],
            size_text(one["memory"]["usage_bytes"]),
        )
        for one in found
    ]
    return Table(("container", "state", "image", "pid on the node", "processes", "memory"), rows, "no containers")


def _container_stop(session: Session, words: _Words, language: str) -> None:
    find, name = _container_node(session, words), words.need_name()

    async def stop() -> None:
        await session.stop_container(await find(), name)

    session.wait(stop())


def _container_rm(session: Session, words: _Words, language: str) -> None:
    find, name = _container_node(session, words), words.need_name()

    async def remove() -> None:
        await session.remove_container(await find(), name)

    session.wait(remove())


def _container_logs(session: Session, words: _Words, language: str) -> None:
    answer = _ask(session, words, "container.logs", name=words.need_name())
    if answer["dropped_bytes"]:
        print(f"[{answer['dropped_bytes']} earlier bytes are not kept]")
    print(answer["text"], end="")


def _container_inspect(session: Session, words: _Words, language: str) -> dict[str, Any]:
    return _ask(session, words, "container.inspect", name=words.need_name())


def _container_view(session: Session, words: _Words, language: str) -> Any:
    from .live import kernel_view

    if words.name:
        _ask(session, words, "container.inspect", name=words.name)
    return kernel_view(session, words.on or default_node_name(), language)


def _container_images(session: Session, words: _Words, language: str) -> Table:
    from .container.images import Store
    from .paths import cache_dir

    store = Store(cache_dir("images"))
    rows = [(name, store.resolve(name).digest) for name in store.names()]
    return Table(("image", "digest"), rows, "no images: run `vmcontainer setup`")


# -- %lab


def _lab_doctor(session: Session, words: _Words, language: str) -> Any:
    from . import doctor
    from .live import Rendered

    checks = doctor.examine([words.name] if words.name else ())
    if not checks:
        raise NotFound(f"there is no check {words.name}", hint=f"there are: {' '.join(doctor.NAMES)}")
    return Rendered(doctor.to_text(checks), doctor.to_html(checks))


def _lab_view(session: Session, words: _Words, language: str) -> None:
    from .live import kernel_view, machine_view

    show(kernel_view(session, "host", language))
    for name in session.guests:
        show(machine_view(session, name, language))


def _lab_reset(session: Session, words: _Words, language: str) -> None:
    session.close()


VERBS: dict[str, dict[str, Callable[[Session, _Words, str], Any]]] = {
    "vm": {
        "ls": _vm_ls,
        "stop": _vm_do("remove"),
        "rm": _vm_do("remove"),
        "pause": _vm_do("pause"),
        "resume": _vm_do("resume"),
        "reset": _vm_do("reset"),
        "logs": _vm_logs,
        "inspect": _vm_inspect,
        "view": _vm_view,
    },
    "container": {
        "ls": _container_ls,
        "stop": _container_stop,
        "rm": _container_rm,
        "logs": _container_logs,
        "inspect": _container_inspect,
        "view": _container_view,
        "images": _container_images,
    },
    "lab": {"doctor": _lab_doctor, "view": _lab_view, "reset": _lab_reset},
}
