"""Run a cell: start it on a node, show what comes, and end as the cell should.

options ──▶ Run ──▶ show / capture ──▶ status ──▶ nothing, CommandFailed, TimeLimit, or the node's error
"""

from __future__ import annotations

import argparse
import codecs
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TextIO

from . import drives
from .container.publish import read_publish
from .errors import CommandFailed, LabError, NodeLost, TimeLimit, UserError
from .giving import give_image
from .lans import MODES
from .messages import say
from .node import Node, Request
from .options import container_options, process_options, vm_wish
from .ports import deliver
from .run import STDERR, STDOUT, Captured, Run, dropped_marker
from .session import Session
from .sharing import Lent, lend, parse_lent, take_back

__all__ = [
    "Background",
    "FindNode",
    "Printer",
    "container_run",
    "container_start",
    "finish",
    "follow",
    "require_text",
    "run_cell",
    "shell_words",
    "start_detached",
    "vm_start",
    "watch",
]

SHOW_LIMIT_BYTES = 1 << 20  # the server drops messages beyond 1 MB/s, and no reader wants more
CAPTURE_LIMIT_BYTES = 256 << 20
FLUSH_S = 0.03  # one message for what comes within it; the server drops beyond 1000 messages a second
TERM_GRACE_S = 1.0
DEFAULT_MACHINE = "vm"

Start = Callable[[Run], Coroutine[Any, Any, Request]]
FindNode = Callable[[], Coroutine[Any, Any, Node]]
Report = Callable[[str, float], None]


def _quiet(phase: str, fraction: float) -> None:
    """Report to nobody."""


class Printer:
    """Writes one stream to a text file, batched and limited; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, target: TextIO, limit_bytes: int = SHOW_LIMIT_BYTES) -> None:
        self._target = target
        self._left_bytes = limit_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._flushed_s = 0.0
        self._dirty = False
        self._dropped_bytes = 0

    def add(self, data: bytes) -> None:
        """Write a chunk; flush unless it was done just now."""
        shown = data[: self._left_bytes]
        self._dropped_bytes += len(data) - len(shown)
        self._left_bytes -= len(shown)
        if shown:
            self._target.write(self._decoder.decode(shown))
            self._dirty = True
            self.flush(time.monotonic())

    def flush(self, now_s: float) -> None:
        """Flush what was written, at most every FLUSH_S."""
        if self._dirty and now_s - self._flushed_s >= FLUSH_S:
            self._target.flush()
            self._flushed_s, self._dirty = now_s, False

    def end(self) -> None:
        """Write what is left, and say how much was not shown."""
        rest = self._decoder.decode(b"", final=True)
        if self._dropped_bytes:
            rest += dropped_marker(self._dropped_bytes)
        if rest or self._dirty:
            self._target.write(rest)
            self._target.flush()


# -- what is to be run


def vm_start(session: Session, options: argparse.Namespace, text: str, progress: Callable[[str, float], None]) -> Start:
    """Return what runs `text` in a machine, made first if there is none."""
    wish, disks = vm_wish(options), [drives.parse_wanted(text) for text in options.disk]
    options.lent = [parse_lent(text) for text in options.volume]
    if options.lent and options.bg:
        raise UserError("--volume copies back when the cell ends: it goes not with --bg", hint="%vm cp, when you like")
    # What is wrong is told before a machine is made for it.
    for wanted in disks:
        drives.check(wanted)
    for word in options.publish:
        read_publish(word, "--publish")

    async def start(run: Run) -> Request:
        guest = await session.machines.ensure(options.name or DEFAULT_MACHINE, wish, progress)
        await deliver(guest.machine, guest.published, options.publish)
        if options.network not in ("", *MODES):
            await session.lans.join(guest.machine.config.name, options.network)
        for wanted in disks:
            await drives.attach(guest.machine, guest.node, wanted)
        for lent in options.lent:
            await lend(guest.node, lent)
        progress("", 1.0)
        arguments = {"argv": ["/bin/sh", "-c", text], **process_options(options)}
        arguments["cwd"] = arguments.pop("workdir", "")
        return await session.start_on(guest.node, "exec", arguments, run)

    return start


def container_start(
    session: Session, options: argparse.Namespace, text: str, find_node: FindNode, report: Report = _quiet
) -> Start:
    """Return what runs `text` in a new container, or in one that has a name and stays; `report`: see `give_image`."""
    if not options.name:
        return container_run(session, options, shell_words(text), find_node, report)
    description, process = container_options(options), process_options(options)
    argv = shell_words(text)

    async def start(run: Run) -> Request:
        node = await find_node()
        await session.hold(node, options.name, description, report)
        arguments = {"name": options.name, "options": {**process, "argv": argv}}
        return await session.start_on(node, "container.exec", arguments, run)

    return start


def shell_words(text: str) -> list[str]:
    """Return the command that runs a cell's text; none for an empty one: the image's own command."""
    return ["/bin/sh", "-c", text] if text.strip() else []


def container_run(
    session: Session, options: argparse.Namespace, argv: list[str], find_node: FindNode, report: Report = _quiet
) -> Start:
    """Return what runs `argv` as the first process of a new container, which is removed if it has no name."""
    described = {**container_options(options), **process_options(options), "argv": argv}

    async def start(run: Run) -> Request:
        node = await find_node()
        await give_image(node, options.image, report)
        if options.name and not options.rm:
            session.note_container(node, options.name, container_options(options))
        async with session.ports.published(node.name, described) as (sent, keep):
            arguments = {"name": options.name, "options": sent, "remove": options.rm}
            request = await session.start_on(node, "container.run", arguments, run)
            name = options.name or f"request {request.number}"
            keep(name)
        session.ports.release_after(request.done, node.name, name, stays=bool(options.name) and not options.rm)
        return request

    return start


def start_detached(session: Session, options: argparse.Namespace, argv: list[str], find_node: FindNode) -> str:
    """Start a container that runs on, and return its name."""
    described = {**container_options(options), **process_options(options), "argv": argv}

    async def start() -> tuple[str, dict[str, Any]]:
        node = await find_node()
        await give_image(node, options.image)
        async with session.ports.published(node.name, described) as (sent, keep):
            arguments = {"name": options.name, "options": sent, "remove": options.rm}
            reply = await session.start_detached(node, arguments)
            keep(str(reply["container"]))
        session.note_container(node, str(reply["container"]), container_options(options))
        return node.name, reply

    node_name, reply = session.wait(start())
    tell(session, node_name, [{"event": "started", **reply}])
    return str(reply["container"])


# -- running it


def run_cell(
    session: Session,
    run: Run,
    options: argparse.Namespace,
    variables: dict[str, Any],
    show_progress: Callable[[], None],
) -> None:
    """Show and capture until the command ends, then raise what the cell should raise.

    A press of the interrupt button sends SIGINT, a second one SIGKILL; the machine or container stays.
    """
    sinks = _sinks(options)
    try:
        answer = follow(
            run, {stream: sink.add for stream, sink in sinks.items()}, options.timeout_s, _idle(sinks, show_progress)
        )
    except NodeLost as error:
        better: LabError = session.wait(session.machines.explain_loss(run.node_name, error))
        raise better from None
    finally:
        _take_back(session, run, getattr(options, "lent", ()))
        tell(session, run.node_name, run.events)
        for stream, name in ((STDOUT, options.out), (STDERR, options.err)):
            sink = sinks[stream]
            if isinstance(sink, Printer):
                sink.end()
            elif name:
                variables[name] = sink.text()
    variables["_exit_code"] = answer["status"]
    finish(run, answer, raise_error=not options.no_raise_error)


def _take_back(session: Session, run: Run, lent: Sequence[Lent]) -> None:
    """Write here what a cell changed in the folders lent to it; where that fails, the cell's own error is told too."""
    for one in lent:
        try:
            guest = session.machines.guest(run.node_name)
            if one.sent:
                session.wait(take_back(guest.node, one))
        except (LabError, OSError) as error:
            failed = f"{one.place} was not copied back to {one.folder}: {error}"
            print(f"[{run.node_name}] {say(failed)}", file=sys.stderr)


def watch(run: Run, sinks: dict[int, Printer]) -> dict[str, Any]:
    """Show a container's streams until they end; an interrupt lets go of them, and the container does not notice."""
    while True:
        try:
            for chunk in run.chunks(FLUSH_S):
                if chunk:
                    sinks[chunk[0]].add(chunk[1])
                for sink in sinks.values():
                    sink.flush(time.monotonic())
            return {} if run.answer.cancelled() else run.answer.result()
        except KeyboardInterrupt:
            run.detach()


def tell(session: Session, node_name: str, events: Sequence[Mapping[str, Any]] = ()) -> None:
    """Say on the cell's standard error what containers lack on this node, and what of this one is not as asked."""
    warnings = [line for event in events if event.get("event") == "started" for line in event.get("warnings") or ()]
    for line in [*session.untold(node_name), *warnings]:
        print(f"[{node_name}] {say('warning')}: {say(line)}", file=sys.stderr)


def _sinks(options: argparse.Namespace) -> dict[int, Printer | Captured]:
    return {
        STDOUT: Captured(CAPTURE_LIMIT_BYTES) if options.out else Printer(sys.stdout),
        STDERR: Captured(CAPTURE_LIMIT_BYTES) if options.err else Printer(sys.stderr),
    }


def _idle(sinks: dict[int, Printer | Captured], show_progress: Callable[[], None]) -> Callable[[], None]:
    def idle() -> None:
        show_progress()
        for sink in sinks.values():
            if isinstance(sink, Printer):
                sink.flush(time.monotonic())

    return idle


def follow(
    run: Run, sinks: dict[int, Callable[[bytes], None]], timeout_s: float | None, idle: Callable[[], None]
) -> dict[str, Any]:
    """Feed the run's streams to `sinks` until it has ended, and return the answer; raises TimeLimit and NodeLost."""
    limit = _Deadline(run, timeout_s)
    try:
        _read_all(run, sinks, limit, idle)
    finally:
        if not run.answer.done():  # a press upon a press, or an output that cannot be written: nobody reads on
            run.kill()
    if run.answer.cancelled():
        limit.raise_if_passed()
        raise CommandFailed("interrupted before the command had started", status=130)
    answer = run.answer.result()
    limit.raise_if_passed()
    return answer


def _read_all(run: Run, sinks: dict[int, Callable[[bytes], None]], limit: _Deadline, idle: Callable[[], None]) -> None:
    while True:
        try:
            for chunk in run.chunks(FLUSH_S):
                if chunk:
                    sinks[chunk[0]](chunk[1])
                else:
                    idle()
                limit.check()
            return
        except KeyboardInterrupt:
            print(f"[{run.name}] {say(run.interrupt())}", file=sys.stderr, flush=True)


class _Deadline:
    """Ends a command whose time is up: SIGTERM, a second later SIGKILL."""

    def __init__(self, run: Run, timeout_s: float | None) -> None:
        self._run, self._timeout_s = run, timeout_s
        self._end_s = time.monotonic() + timeout_s if timeout_s else None
        self._stage = 0

    def check(self) -> None:
        """Act if it is time."""
        self._run.check_given_up()
        if self._end_s is None or time.monotonic() < self._end_s + self._stage * TERM_GRACE_S:
            return
        if self._stage == 0:
            self._run.terminate()
        elif self._stage == 1:
            self._run.kill()
        self._stage += 1

    def raise_if_passed(self) -> None:
        """Raise TimeLimit if the command was ended."""
        if self._stage:
            raise TimeLimit(
                f"the command on {self._run.name} was ended after {self._timeout_s:g} s",
                hint="give it more time with --timeout, or run it in the background with --bg",
            )


def finish(run: Run, answer: dict[str, Any], *, raise_error: bool) -> None:
    """Raise `CommandFailed` for a status other than 0."""
    failure = run.failure(answer["status"], answer.get("signal", 0))
    if run.interrupted:
        failure = CommandFailed(f"the command on {run.name} was interrupted", status=int(answer["status"]) or 130)
    elif not raise_error:
        return
    if failure:
        raise failure


class Background:
    """A command that runs on after its cell: `--bg --proc NAME`. Its output is kept here, up to 256 MiB a stream."""

    def __init__(self, session: Session, name: str, start: Start) -> None:
        self._streams = {STDOUT: Captured(CAPTURE_LIMIT_BYTES), STDERR: Captured(CAPTURE_LIMIT_BYTES)}
        self._run = session.run(name, start, lambda stream, data: self._streams[stream].add(data))

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs; 128 + N after signal N."""
        answer = self._run.answer
        return int(answer.result()["status"]) if answer.done() and not answer.cancelled() else None

    @property
    def out(self) -> str:
        """What it has written to its standard output so far."""
        return self._streams[STDOUT].text()

    @property
    def err(self) -> str:
        """What it has written to its standard error so far."""
        return self._streams[STDERR].text()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return the status; raises TimeLimit, and what the node answered."""
        try:
            return int(self._run.answer.result(timeout_s)["status"])
        except TimeoutError:
            raise TimeLimit(f"the command on {self._run.name} still runs after {timeout_s} s") from None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._run.send(number)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._run.terminate()

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._run.kill()

    def __repr__(self) -> str:
        try:
            state = "running" if self.status is None else f"ended with status {self.status}"
        except LabError as error:
            state = f"lost: {error.message}"
        return say(f"<command on {self._run.name}: {state}>")


def require_text(text: str) -> None:
    """Refuse an empty cell."""
    if not text.strip():
        raise UserError("the cell is empty", hint="write shell commands below the first line")
