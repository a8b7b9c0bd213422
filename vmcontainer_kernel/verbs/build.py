"""``%container build`` and ``%%container build``: a Dockerfile becomes an image, on any node.

Dockerfile, .dockerignore ──parsed here, so that what is wrong is told at once──▶ image.build
the host reads the context itself; a machine is sent it as an archive, and the images it lacks
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .. import cells
from ..container.build.report import STYLES
from ..display import Progress, size_text
from ..errors import UserError
from ..giving import give_image
from ..messages import say
from ..node import Request
from ..run import Run
from ..session import Session
from .nodes import FindNode, ask, keep_image, node_finder
from .running import variables
from .words import ON, Verb, Words, flag, option, word

__all__ = ["VERBS", "build_cell"]

_CHUNK_BYTES = 1 << 20
_TITLE = "%%container build"
_FILE_BYTES = 1 << 20


class _Wish:
    """What was asked: the Dockerfile's text, its order, the folder and what of it is left out."""

    def __init__(self, given: Words, text: str, ignore_file: Path | None) -> None:
        from ..container.build.dockerfile import parse
        from ..container.build.plan import Given, Order, check_order, images, uses_context
        from ..container.images.shelf import full_name

        if not given.tag:
            hint = "as in -t hello:1; a container whose name is build: %%container --name build"
            raise UserError("the image needs a name: -t NAME", hint=hint)
        arguments = dict(_pair(one) for one in given.build_arg)
        network = given.network or "none"
        wishes = Given(arguments, os.uname().machine, network)
        self.order = Order(parse(text), wishes, full_name(given.tag), given.target)
        wanted = check_order(self.order)
        self.images = images(wanted)
        self.context = Path(given.context or ".").expanduser().resolve() if uses_context(wanted) else None
        if self.context and not self.context.is_dir():
            raise UserError(f"there is no folder {self.context}", hint="paths begin at the notebook's folder")
        self.ignore = _read_ignore(self.context, ignore_file)
        self.arguments = {
            **{"dockerfile": text, "name": self.order.name, "arguments": arguments, "target": given.target},
            **{"network": network, "no_cache": given.no_cache, "ignore": self.ignore},
            "progress": "quiet" if given.quiet else given.progress,
        }


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ.get(name, "")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _FILE_BYTES:
            raise UserError(f"{path} is larger than {_FILE_BYTES >> 20} MiB", hint="is it the right file?")
        return path.read_text()
    except OSError as error:
        hint = "name the Dockerfile with -f, or write it into a cell"
        raise UserError(f"{path}: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text", hint="is it the right file?") from None


def _read_ignore(context: Path | None, own: Path | None) -> str:
    """Return the text of the rules: those of the Dockerfile's own (FILE.dockerignore), else the context's."""
    from ..container.build.ignore import read_ignore

    for path in (own, context and context / ".dockerignore"):
        if path and path.exists():
            text = _read(path)
            read_ignore(text)
            return text
    return ""


def build_cell(session: Session, line: str, cell: str) -> None:
    """Build an image of the cell's text."""
    cells.require_text(cell)
    try:
        given = VERBS["build"].parse(_TITLE, shlex.split(line)[1:])
    except ValueError as error:
        raise UserError(f"{_TITLE}: {error}", hint="close the quotes") from None
    if given.file not in (None, "-"):
        hint = "for a file: %container build -t NAME -f FILE FOLDER"
        raise UserError(f"-f {given.file}: here the cell is the Dockerfile", hint=hint)
    _build(session, given, _Wish(given, cell, None))


def _line(session: Session, given: Words, language: str) -> None:
    if given.file == "-":
        raise UserError("-f -: a line has no text of its own", hint=f"write the Dockerfile below {_TITLE} -t NAME")
    path = Path(given.file).expanduser() if given.file else Path(given.context or ".").expanduser() / "Dockerfile"
    _build(session, given, _Wish(given, _read(path), path.with_name(f"{path.name}.dockerignore")))


def _build(session: Session, given: Words, wish: _Wish) -> None:
    progress = Progress()
    find = node_finder(session, given.on, progress.report)
    run = session.run(f"the build of {wish.order.name}", _start(session, wish, find, progress.report))
    options = argparse.Namespace(out=None, err=None, timeout_s=None, no_raise_error=False)
    cells.run_cell(session, run, options, variables(), progress.show)
    keep_image(session, given, wish.order.name)


def _start(session: Session, wish: _Wish, find: FindNode, report: Callable[[str, float], None]) -> cells.Start:
    async def start(run: Run) -> Request:
        node = await find()
        for name in wish.images:
            await give_image(node, name)
        if wish.context is None or node.name == "host":
            arguments = {**wish.arguments, "context": str(wish.context or "")}
            return await session.start_on(node, "image.build", arguments, run)
        with tempfile.TemporaryFile() as archive:
            await asyncio.to_thread(_pack, wish.context, wish.ignore, archive, report)
            request = await session.start_on(node, "image.build", {**wish.arguments, "stdin": True}, run)
            await _send(request, archive, report)
        return request

    return start


def _pack(context: Path, ignore: str, archive: IO[bytes], report: Callable[[str, float], None]) -> None:
    from ..container.build.context import Place, pack
    from ..container.build.ignore import read_ignore

    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pack(Place(fd, read_ignore(ignore)), archive, lambda done: report(f"reading {context}: {size_text(done)}", 0.1))
    finally:
        os.close(fd)


async def _send(request: Request, archive: IO[bytes], report: Callable[[str, float], None]) -> None:
    total = archive.tell()
    archive.seek(0)
    while data := archive.read(_CHUNK_BYTES):
        report(f"sending the folder to the machine, {size_text(total)}", archive.tell() / total)
        await request.feed(data)
    request.end_input()
    report("", 1.0)


def _builder(session: Session, given: Words, language: str) -> None:
    if given.what != "prune":
        raise UserError(f"%container builder has no {given.what!r}", hint="%container builder prune")
    print(f"{say('forgotten')}: {size_text(ask(session, given, 'image.forget')['freed_bytes'])}")


VERBS: dict[str, Verb] = {
    "build": Verb(
        _line,
        "make an image of a Dockerfile; in a cell: %%container build",
        word("context", "the folder that COPY copies from (default: the notebook's)", needed=False),
        option("-t", "--tag", metavar="NAME[:TAG]", help="the image's name"),
        option("-f", "--file", metavar="FILE", help="the Dockerfile (default: the folder's)"),
        (("--build-arg",), {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": "a value for an ARG"}),
        option("--target", metavar="STAGE", default="", help="build this stage, not the last one"),
        flag("--no-cache", help="do every step anew"),
        option("--network", metavar="NAME", help="what a RUN reaches: none (default) or host"),
        (("--progress",), {"choices": STYLES, "default": STYLES[0], "help": "plain: without times; quiet: the digest"}),
        flag("-q", "--quiet", help="show the image's digest only"),
        ON,
    ),
    "builder": Verb(_builder, "prune: forget the layers that steps have made", word("what", "prune"), ON),
}
