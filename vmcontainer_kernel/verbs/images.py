"""The verbs of ``%container`` about images: they come to this computer's store; a machine is given them when needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..container.images import Image, Store, archives, shelf
from ..container.images.pull import pull as pull_image
from ..display import Progress, Table, size_text
from ..errors import NotFound, UserError
from ..fetching import fetch_bytes
from ..messages import say
from ..paths import cache_dir
from ..session import Session
from .nodes import ask, default_node_name, finder, keep_image
from .words import NAME, ON, Verb, Words, flag, option, word, words

__all__ = ["VERBS"]

_TOLD_LINES = 5
_TEXT_BYTES = 64 << 20  # what a container changed, a line for each of half a million files


def _store() -> Store:
    return Store(cache_dir("images"))


def _telling(what: str) -> Any:
    """Return what shows the progress of an image on its way in: a line for each phase and each tenth."""
    progress = Progress()

    def report(phase: str, done_bytes: int, total_bytes: int | None) -> None:
        part = done_bytes / total_bytes if total_bytes else 0.0
        amount = f", {size_text(done_bytes)} of {size_text(total_bytes)}" if total_bytes and part < 1 else ""
        progress.report(f"{what}: {phase}{amount if int(part * 10) else ''}", min(part, 1.0))
        progress.show()

    return report


def _tell(image: Image) -> None:
    """Say what has come, and what of it could not be kept."""
    print(f"{image.name} {image.digest}, {size_text(image.size_bytes)}")
    lines = _store().left_out(image)
    for line in lines[:_TOLD_LINES]:
        print(f"[{say('not kept')}: {line}]", file=sys.stderr)
    if len(lines) > _TOLD_LINES:
        print(say(f"[and {len(lines) - _TOLD_LINES} more]"), file=sys.stderr)


def _ls(session: Session, given: Words, language: str) -> Table:
    if given.on and given.on != "host":
        names = ask(session, given, "image.list")["names"]
        return Table(("image",), [(name,) for name in names], "no images")
    rows = [
        (one.name or "(no name)", one.digest.removeprefix("sha256:")[:12], size_text(one.size_bytes))
        for one in shelf.list_images(_store())
    ]
    return Table(("image", "digest", "size"), rows, "no images: run `vmcontainer setup`")


def _pull(session: Session, given: Words, language: str) -> None:
    image = pull_image(
        _store(), given.reference, tls_verify=not given.insecure, progress=_telling(f"pulling {given.reference}")
    )
    _tell(image)


def _import(session: Session, given: Words, language: str) -> None:
    path = Path(given.file).expanduser()
    if not path.exists():
        raise UserError(f"there is no file {given.file} here", hint="paths begin at the notebook's folder")
    for image in archives.import_images(_store(), path, name=given.image, progress=_telling(f"importing {path.name}")):
        _tell(image)


def _export(session: Session, given: Words, language: str) -> None:
    archives.export_image(_store(), given.image, Path(given.file).expanduser(), format=given.format)


def _tag(session: Session, given: Words, language: str) -> None:
    shelf.tag(_store(), given.image, given.name)


def _rmi(session: Session, given: Words, language: str) -> None:
    in_use = {one["image_digest"] for one in ask(session, given, "container.list")["containers"]}
    for image in given.images:
        try:
            freed_bytes = shelf.remove(_store(), image, in_use=in_use)
        except NotFound:
            if not given.ignore:
                raise
        else:
            print(f"{say('removed')} {image}: {size_text(freed_bytes)}")
    ask(session, given, "image.sweep")


def _history(session: Session, given: Words, language: str) -> Table:
    rows = [
        (one["created"] or None, one["created_by"][:80] or one["comment"] or None, size_text(one["size_bytes"]))
        for one in shelf.history(_store(), given.image)
    ]
    return Table(("made", "by", "size"), rows, "nothing is told of its making")


def _text_of(session: Session, given: Words, verb: str, **arguments: Any) -> str:
    find = finder(session, given)

    async def collect() -> bytes:
        return await fetch_bytes(await find(), verb, arguments, _TEXT_BYTES, what=verb)

    return session.wait(collect()).decode(errors="replace")


def _diff(session: Session, given: Words, language: str) -> None:
    print(_text_of(session, given, "container.diff", name=given.name), end="")


def _commit(session: Session, given: Words, language: str) -> None:
    digest = _text_of(
        session,
        given,
        "container.commit",
        name=given.name,
        image=given.image,
        comment=given.message or "",
        pause=not given.no_pause,
    )
    keep_image(session, given, given.image)
    print(f"{given.image} {digest}")


IMAGE = word("image", "its name or digest")
_FORMAT = option("--format", metavar="FORMAT", default=archives.FORMATS[0], help=f"one of {' '.join(archives.FORMATS)}")
_LOAD = (word("file", "an archive or an OCI layout's folder"), word("image", "its name here", needed=False))
_SAVE = (IMAGE, word("file", "where to"), _FORMAT)


def _layers(session: Session, given: Words, language: str) -> Any:
    from ..live import image_view

    return image_view(session, given.on or default_node_name(), given.image, language)


VERBS: dict[str, Verb] = {
    "images": Verb(_ls, "the images there are", ON),
    "pull": Verb(
        _pull,
        "fetch an image from a registry",
        word("reference", "[REGISTRY/]NAME[:TAG]"),
        flag("--insecure", help="without TLS, or with a certificate nobody knows"),
    ),
    "import": Verb(_import, "take images out of a file (docker save, OCI archive or layout)", *_LOAD),
    "load": Verb(_import, "the same as import", *_LOAD),
    "export": Verb(_export, "write an image into a file", *_SAVE),
    "save": Verb(_export, "the same as export", *_SAVE),
    "tag": Verb(_tag, "give an image one more name", IMAGE, word("name", "the new name")),
    "rmi": Verb(
        _rmi,
        "remove images",
        words("images", "their names"),
        ON,
        flag("--ignore", help="one that is not there is no error"),
    ),
    "layers": Verb(_layers, "live picture of an image's layers, and of what is written above them", IMAGE, ON),
    "history": Verb(_history, "how an image came to be", IMAGE),
    "diff": Verb(_diff, "what a container changed in its files: A added, C changed, D deleted", NAME, ON),
    "commit": Verb(
        _commit,
        "make an image of a container",
        NAME,
        word("image", "the new image's name"),
        ON,
        option("-m", "--message", help="a note for its history"),
        flag("--no-pause", help="let it run on while its files are read"),
    ),
}
