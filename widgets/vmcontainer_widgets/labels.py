"""The words of both views in each language, from ``labels.json``; Python and the page read the same catalogue."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["catalogue", "words"]


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """All words: language → key → text (or, for ``status``, ``states``, ``meanings``, ``roles``: term → text)."""
    text = Path(__file__).with_name("labels.json").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = json.loads(text)
    return loaded


def words(language: str) -> dict[str, Any]:
    """The words of one language; English where there is no such language."""
    return catalogue().get(language, catalogue()["en"])
