"""``%%lab compare`` and ``%%lab peel``: one cell in four places; one cell in a container with walls left out."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from .. import cells
from ..arguments import parse_number
from ..display import Progress, show
from ..errors import CommandFailed, UserError
from ..experiments import compare, peel
from ..experiments.places import PLACES
from ..options import checked, container_options, process_options
from ..session import Session
from .running import CELL_OPTIONS, variables
from .words import Verb, Words, choose, flag, option

__all__ = ["CELL_VERBS", "lab_cell"]

_TITLE = "%%lab"
_CLEAN_S = 5.0
_LIMIT_S = 60.0
_NOT_PEELED = ("out", "err", "proc", "bg", "explain", "publish", "restart", "rm", "interactive")

Report = Callable[[str, float], None]
Make = Callable[[Report], Coroutine[Any, Any, dict[str, Any]]]


def lab_cell(session: Session, line: str, cell: str, language: str) -> None:
    """Carry out ``%%lab VERB``; raises UserError for a verb there is not."""
    if not shlex.split(line):
        raise UserError(f"{_TITLE} needs a verb", hint=f"there are: {' '.join(CELL_VERBS)}")
    chosen = choose(CELL_VERBS, _TITLE, line, "")
    if isinstance(chosen, str):
        print(chosen)
        return
    cells.require_text(cell)
    verb, words = chosen
    words.text = cell
    verb.action(session, words, language)


def _compare(session: Session, given: Words, language: str) -> None:
    from ..live.compare import compare_view

    rounds = int(parse_number(given.rounds, "--rounds", whole=True) or 0)
    limit_s = parse_number(given.timeout, "--timeout") or _LIMIT_S
    only = tuple(given.only.replace(",", " ").split())
    wish = compare.Wish(given.text, rounds, only, given.image, limit_s)
    wish.kinds()
    document = _carry_out(session, lambda report: compare.compare(session, wish, report))
    if given.document:
        variables()[given.document] = document
    show(compare_view(session, wish, document, language))
    if given.figure:
        from ..experiments.figure import figure

        figure(document).show(renderer="plotly_mimetype")


def _peel(session: Session, given: Words, language: str) -> None:
    from ..live.peel import peel_view

    refused = [one for one in _NOT_PEELED if getattr(given, one.replace("-", "_"))]
    if given.name_option or refused:
        raise UserError(f"--{(refused or ['name'])[0]} is not for {_TITLE} peel: the cell runs twice, and is gone then")
    given.name = ""
    turned, given.without = peel.turned_by(given.without.replace(",", " ").split()), ""
    options = checked(given)
    described = {**container_options(options), **process_options(options)}
    wish = peel.Wish(given.text, described, turned, given.on, options.timeout_s or _LIMIT_S)
    document = _carry_out(session, lambda report: peel.peel(session, wish, report))
    show(peel_view(session, wish, document, language))


def _carry_out(session: Session, make: Make) -> dict[str, Any]:
    """Wait for an experiment and show how far it is; the interrupt button ends it, with all it has made."""
    progress, ended = Progress(), threading.Event()

    async def carried() -> dict[str, Any]:
        try:
            return await make(progress.report)
        finally:
            ended.set()

    try:
        return session.wait_showing(carried(), progress.show)
    except KeyboardInterrupt:
        ended.wait(_CLEAN_S)
        raise CommandFailed("interrupted: there is no result", status=130) from None


_NAMES = " ".join(one.name for one in PLACES)

CELL_VERBS: dict[str, Verb] = {
    "compare": Verb(
        _compare,
        "run the cell as process, in a container, in a machine, and in a container there: what it costs, sees, reaches",
        option("--rounds", metavar="N", help="how often each is timed (default: 3)", default="3"),
        option("--only", metavar="PLACE,…", help=f"of {_NAMES}", default=""),
        option("--image", metavar="NAME", help="the containers' image (default: busybox)", default=""),
        flag("--figure", help="a plotly figure, too"),
        option("--document", metavar="VAR", help="put what was found into this variable, too", default=""),
        option("--timeout", metavar="SECONDS", help="how long a run of the cell may take (default: 60)"),
    ),
    "peel": Verb(
        _peel,
        "run the cell in a container, and with walls left out (--without), and show what differs",
        *CELL_OPTIONS,
    ),
}
