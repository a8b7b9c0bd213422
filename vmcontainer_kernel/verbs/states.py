"""``%vm``: machines saved, brought back, branched, put aside and moved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..display import Table, size_text
from ..errors import UserError
from ..messages import say
from ..session import Session
from .words import NAME, Verb, Words, word

if TYPE_CHECKING:
    from ..vm.state.shelf import Listed

__all__ = ["VERBS"]


def _snapshot(session: Session, words: Words, language: str) -> None:
    if words.name == "rm":
        if ":" not in words.snapshot:
            raise UserError("which snapshot?", hint="%vm snapshot rm MACHINE:NAME; %vm snapshots shows them")
        session.wait(session.states.remove(words.snapshot))
        return
    title, stood_s = session.wait(session.states.snapshot(words.name, words.snapshot))
    print(say(f"{title}: {words.name} stood still for {stood_s * 1000:.0f} ms and runs on"))


def _snapshots(session: Session, words: Words, language: str) -> Table:
    from ..vm.state.shelf import Shelf, tree

    def row(depth: int, one: Listed) -> tuple[str, ...]:
        here = [name for name, guest in session.machines.guests.items() if guest.snapshot == one.title]
        return ("  " * depth + one.title, one.parent, *_when_and_size(one), one.damage or ", ".join(here))

    rows = [
        row(depth, one) for depth, one in tree(Shelf().snapshots()) if words.name in ("", one.title.partition(":")[0])
    ]
    head = ("snapshot", "of", "made", "size", "machines from here")
    return Table(head, rows, "no snapshots: %vm snapshot NAME makes one")


def _suspended(session: Session, words: Words, language: str) -> Table:
    from ..vm.state.shelf import Shelf

    rows = [(one.title, one.parent, *_when_and_size(one), one.damage) for one in Shelf().suspended()]
    return Table(("machine", "of", "made", "size", ""), rows, "no machine is suspended: %vm suspend NAME")


def _when_and_size(one: Listed) -> tuple[str, str]:
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.made_s)) if one.made_s else "-"
    return made, size_text(one.size_bytes)


def _restore(session: Session, words: Words, language: str) -> None:
    session.wait(session.states.restore(words.name, words.snapshot))


def _clone(session: Session, words: Words, language: str) -> None:
    session.wait(session.states.clone(words.name, words.source))


def _suspend(session: Session, words: Words, language: str) -> None:
    session.wait(session.states.suspend(words.name))


def _resume(session: Session, words: Words, language: str) -> None:
    session.wait(session.states.resume(words.name))


def _rm(session: Session, words: Words, language: str) -> None:
    session.wait(session.states.remove(words.name))


def _migrate(session: Session, words: Words, language: str) -> Table:
    how = session.wait(session.states.migrate(words.name))
    rows = [
        ("QEMU's pid", f"{how.from_pid} → {how.to_pid}", "another process has the machine now"),
        ("together", f"{how.total_s:.3f} s", "the guest ran on meanwhile"),
        ("downtime", f"{how.downtime_s * 1000:.0f} ms", "it stood still, while the rest was sent"),
        ("memory", size_text(how.memory_bytes), "the guest's RAM, and the little that devices have"),
        ("of it zero", size_text(how.zero_bytes), "told in a few bytes a page"),
        ("sent", size_text(how.sent_bytes), "over a socket between the two"),
        ("of it live", size_text(how.live_bytes), "while the guest ran; what it wrote to meanwhile was sent again"),
    ]
    return Table(("", "", "what that is"), rows)


VERBS: dict[str, Verb] = {
    "resume": Verb(_resume, "let the virtual CPUs run on; wake a suspended machine", NAME),
    "snapshot": Verb(
        _snapshot,
        "save memory and devices under a name, and go on; rm MACHINE:NAME removes one",
        NAME,
        word("snapshot", "the snapshot's name, else snap-1, snap-2 …", needed=False),
    ),
    "snapshots": Verb(
        _snapshots, "the snapshots there are, each below the one it came from", word("name", "a machine", needed=False)
    ),
    "restore": Verb(
        _restore, "bring a machine back to a snapshot; what it did since is lost", NAME, word("snapshot", "which one")
    ),
    "clone": Verb(
        _clone,
        "make another machine out of one, or out of a snapshot of one: same processes and files, new identity",
        word("name", "the new machine's name"),
        (("--from",), {"dest": "source", "required": True, "metavar": "MACHINE[:NAME]", "help": "out of which"}),
    ),
    "suspend": Verb(_suspend, "save a machine and end it; %vm resume wakes it, in another notebook too", NAME),
    "suspended": Verb(_suspended, "the machines that are suspended"),
    "migrate": Verb(_migrate, "move a machine to another QEMU while it runs, and measure", NAME),
    "rm": Verb(_rm, "power off and remove; a suspended one is removed", NAME),
}
