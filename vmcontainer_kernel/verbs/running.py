"""The verbs of ``%container`` that run something, or follow what runs: run, create, exec, logs, attach, cp."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import arguments, cells
from ..display import show_timings
from ..errors import UserError
from ..giving import give_image
from ..node import Request
from ..options import checked, container_options, process_options
from ..run import STDERR, STDOUT, Run
from ..session import Session
from .nodes import FindNode, finder
from .words import Argument, Words, rest, word

__all__ = ["CELL_OPTIONS", "EXEC_OPTIONS", "RUN_OPTIONS", "copy", "create", "execute", "follow", "run", "variables"]


def _as_arguments(decorators: tuple[Any, ...]) -> tuple[Argument, ...]:
    return tuple((one.args, one.kwds) for one in decorators)


_PROCESS = _as_arguments(arguments.RUN)
EXEC_OPTIONS: tuple[Argument, ...] = _PROCESS
CELL_OPTIONS: tuple[Argument, ...] = (*_as_arguments(arguments.CREATE), *_PROCESS)
RUN_OPTIONS: tuple[Argument, ...] = (
    *_as_arguments(arguments.CELL[1:]),
    *CELL_OPTIONS,
    word("reference", "the image"),
    rest("command", "the command; the image's own if there is none"),
)


def _described(given: Words) -> argparse.Namespace:
    given.name, given.image = "", given.reference
    return checked(given)


def run(session: Session, given: Words, language: str) -> Any:
    """Carry out ``%container run [OPTIONS] IMAGE [COMMAND…]``, as docker-run(1)."""
    options, find = _described(given), finder(session, given)
    if options.explain:
        from .explain import explain_container

        return explain_container(session, find, options)
    argv = list(given.command)
    if options.detach:
        print(cells.start_detached(session, options, argv, find))
        return None
    start = cells.container_run(session, options, argv, find)
    where = f"container {options.name}" if options.name else "a container"
    run = session.run(where, start)
    try:
        cells.run_cell(session, run, options, variables(), lambda: None)
    finally:
        if options.timings:
            show_timings(run.events)
    return None


def create(session: Session, given: Words, language: str) -> str:
    """Carry out ``%container create``; return the name."""
    options, find = _described(given), finder(session, given)
    described = {**container_options(options), **process_options(options), "argv": given.command}

    async def make() -> str:
        node = await find()
        await give_image(node, options.image)
        async with session.ports.published(node.name, described) as (sent, keep):
            answer = await node.call("container.create", name=options.name, options=sent)
            keep(str(answer["name"]))
        session.note_container(node, answer["name"], container_options(options))
        return str(answer["name"])

    return session.wait(make())


def execute(session: Session, find: FindNode, given: Words) -> None:
    """Carry out ``%container exec NAME COMMAND…``."""
    if not given.command:
        raise UserError("%container exec: which command?", hint=f"as in: %container exec {given.name} ls /")
    given.name_option = ""
    options = checked(given)
    described = {**process_options(options), "argv": list(given.command)}

    async def start(run: Run) -> Request:
        arguments = {"name": options.name, "options": described}
        return await session.start_on(await find(), "container.exec", arguments, run)

    cells.run_cell(session, session.run(f"container {options.name}", start), options, variables(), lambda: None)


def follow(
    session: Session, find: FindNode, verb: str, arguments: dict[str, Any], *, stdin: str | None = None
) -> dict[str, Any]:
    """Show the streams of a request until it ends; an interrupt ends the request, not the container."""

    async def start(run: Run) -> Request:
        request = await session.start_on(await find(), verb, arguments, run)
        if stdin is not None:
            await request.feed(stdin.encode())
        return request

    run = session.run(f"container {arguments['name']}", start)
    sinks = {STDOUT: cells.Printer(sys.stdout), STDERR: cells.Printer(sys.stderr)}
    try:
        return cells.watch(run, sinks)
    finally:
        for sink in sinks.values():
            sink.end()


def copy(session: Session, given: Words, language: str) -> None:
    """Carry out ``%container cp SOURCE TARGET``; one of them is ``NAME:/PATH``."""
    from .copying import Far, between

    between(given, "%container", "container", lambda name: Far(finder(session, given), name), session)


def variables() -> dict[str, Any]:
    """Return the notebook's own variables."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    return {} if shell is None else shell.user_ns
