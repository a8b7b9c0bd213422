"""The words of the views in each language: ``labels/NAME.json``; Python and the page read the same ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["LABELS", "catalogue", "words"]

LABELS = Path(__file__).with_name("labels")


@cache
def catalogue(name: str) -> dict[str, dict[str, Any]]:
    """The words of one file: language → key → text (or, for ``status`` and the like, term → text)."""
    loaded: dict[str, dict[str, Any]] = json.loads((LABELS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def words(language: str, *names: str) -> dict[str, Any]:
    """The words that all views share and those of the files named; English where there is no such language."""
    found: dict[str, Any] = {}
    for name in ("shared", *names):
        found |= catalogue(name).get(language, catalogue(name)["en"])
    return found
