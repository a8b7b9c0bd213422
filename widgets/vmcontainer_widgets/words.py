"""The words of the views: English in ``labels/NAME.json``, other languages in the catalogue of all that people read.

Python and the page read the same ones. A word's place there (gettext's msgctxt) is ``NAME.key`` or ``NAME.key.term``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["LABELS", "catalogue", "told_in", "words"]

LABELS = Path(__file__).with_name("labels")


@cache
def catalogue(name: str) -> dict[str, dict[str, Any]]:
    """The words of one file: ``en`` → key → text (or, for ``status`` and the like, term → text).

    A view that is new may bring another language in its file: `tests/words.py` moves that into the catalogue.
    """
    loaded: dict[str, dict[str, Any]] = json.loads((LABELS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def words(language: str, *names: str) -> dict[str, Any]:
    """The words that all views share and those of the files named; English where there is no such language."""
    found: dict[str, Any] = {}
    for name in ("shared", *names):
        found |= _words_of(name, language)
    return found


def told_in(language: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with the reasons and descriptions in it in a language."""
    if language == "en":
        return dict(document)
    from vmcontainer_kernel.messages import say_document

    told: dict[str, Any] = say_document(dict(document), language)
    return told


@cache
def _words_of(name: str, language: str) -> dict[str, Any]:
    english, own = catalogue(name)["en"], catalogue(name).get(language, {})
    if language == "en":
        return english
    from vmcontainer_kernel.messages import catalogue as translations

    say = translations(language).word
    return {
        key: own[key]
        if key in own
        else {term: say(f"{name}.{key}.{term}", one) for term, one in text.items()}
        if isinstance(text, dict)
        else say(f"{name}.{key}", text)
        for key, text in english.items()
    }
