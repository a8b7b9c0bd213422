"""The line magics' verbs: small functions from words to a table, a text, a document or a widget."""

from __future__ import annotations

from typing import Any

from ..session import current
from . import booting, containers, lab, machines
from .booting import sector_cell
from .build import build_cell
from .experiments import CELL_VERBS, lab_cell
from .explain import explain_container, explain_machine
from .nodes import default_node_name, node_finder
from .words import Verb, choose

__all__ = [
    "CELL_VERBS",
    "VERBS",
    "build_cell",
    "default_node_name",
    "explain_container",
    "explain_machine",
    "lab_cell",
    "node_finder",
    "run",
    "sector_cell",
]

VERBS: dict[str, dict[str, Verb]] = {
    "vm": machines.VERBS | booting.VERBS,
    "container": containers.VERBS,
    "lab": lab.VERBS,
}
_DEFAULTS = {"vm": "ls", "container": "ls", "lab": "doctor"}


def run(magic: str, line: str, language: str) -> Any:
    """Carry out ``%MAGIC VERB …``; raises UserError for a verb there is not, with the nearest one."""
    chosen = choose(VERBS[magic], f"%{magic}", line, _DEFAULTS[magic])
    if isinstance(chosen, str):
        print(chosen)
        return None
    verb, words = chosen
    return verb.action(current(), words, language)
