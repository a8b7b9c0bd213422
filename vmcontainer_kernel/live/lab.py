"""The lab view: everything there is, one tab each; only what the open tab shows is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ..errors import LabError, UserError
from ..session import Session
from .base import Json, Source, Wanted, join
from .kernel import kernel_source
from .machine import machine_source
from .nesting import nesting_source
from .network import network_source
from .timeline import timeline_source

__all__ = ["lab_view"]


@dataclass(frozen=True)
class Tab:
    """One view in the lab view; `id` is unique and has no spaces."""

    id: str
    kind: str
    title: str
    source: Source


def _tabs(session: Session) -> list[Tab]:
    """What there is to look at now."""
    tabs = [Tab("kernel:host", "kernel", "host", kernel_source(session, "host"))]
    for name, guest in session.machines.guests.items():
        tabs.append(Tab(f"machine:{name}", "hypervisor", name, machine_source(session, name)))
        if guest.agent is not None:
            tabs.append(Tab(f"kernel:{name}", "kernel", name, kernel_source(session, name)))
    tabs.append(Tab("network:host", "network", "host", network_source(session, "host")))
    tabs.append(Tab("nesting:", "nesting", "", nesting_source(session)))
    tabs.append(Tab("timeline:", "timeline", "", timeline_source(session)))
    return tabs


class _Following:
    """Follows the source of one tab; a failure is kept, and shown in its place."""

    def __init__(self, tab: Tab, wanted: Wanted, changed: asyncio.Event) -> None:
        self.document: Json = {}
        self._tab, self._wanted, self._changed = tab, wanted, changed
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        prefix = self._tab.id + " "

        def wanted() -> frozenset[str]:
            return frozenset(part.removeprefix(prefix) for part in self._wanted() if part.startswith(prefix))

        try:
            async with contextlib.aclosing(self._tab.source.documents(wanted)) as documents:  # type: ignore[type-var]
                async for document in documents:
                    self.document = document
                    self._changed.set()
        except LabError as error:
            self.document = {**self.document, "failure": error.told()}
            self._changed.set()

    def end(self) -> None:
        self._task.cancel()


def lab_source(session: Session) -> Source:
    """Return where the lab view's documents come from; ``wanted`` are ids of open tabs, and ``ID PART``."""

    async def documents(wanted: Wanted) -> AsyncIterator[Json]:
        following: dict[str, _Following] = {}
        changed = asyncio.Event()
        try:
            while True:
                tabs = {tab.id: tab for tab in _tabs(session)}
                shown = [name for name in tabs if name in wanted()]
                for name in [name for name in following if name not in shown]:
                    following.pop(name).end()
                for name in shown:
                    if name not in following:
                        following[name] = _Following(tabs[name], wanted, changed)
                yield _document(tabs.values(), following)
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 0.25)
        finally:
            for one in following.values():
                one.end()

    async def act(tab: str, name: str, arguments: Json) -> str | None:
        found = {one.id: one for one in _tabs(session)}.get(tab)
        action = found.source.actions.get(name) if found else None
        if action is None:
            raise UserError(f"{tab[:60]!r} has no action {name[:40]!r}", hint="it may have ended")
        try:
            return await action(**arguments)
        except TypeError as error:
            raise UserError(f"{name}: {error}") from None

    return Source(documents, {"act": act})


def _document(tabs: Any, following: dict[str, _Following]) -> Json:
    return {
        "kind": "lab",
        "time_s": time.time(),
        "tabs": [{"id": tab.id, "kind": tab.kind, "title": tab.title} for tab in tabs],
        "documents": {name: one.document for name, one in following.items() if one.document},
    }


def lab_view(session: Session, language: str) -> Any:
    """Return a live LabView of everything in the session."""
    from vmcontainer_widgets import LabView

    view = LabView(document=_document(_tabs(session), {}), language=language)
    join(session, view, lab_source(session))
    return view
