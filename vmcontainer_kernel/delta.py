"""What changed between two JSON documents, by place: small enough to send twice a second.

    old, new ──difference──▶ {"set": {"/vcpus/0/cpu_s": 1.5}, "gone": ["/missing/blocks"]} ──apply, to old──▶ new

Places are JSON Pointers (RFC 6901). JSON Merge Patch (RFC 7396) would not do: null means removal there, and "cannot be
told" here; and it sends a whole list again when one number in it differs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

__all__ = ["Json", "apply", "difference"]

Json = dict[str, Any]

_GONE = object()


def difference(old: Json, new: Json) -> Json:
    """Return what makes `new` of `old`; ``{}`` if they are the same. A list that lost items is sent as a whole."""
    found = list(_compare("", old, new))
    places = {place: value for place, value in found if value is not _GONE}
    gone = [place for place, value in found if value is _GONE]
    return ({"set": places} if places else {}) | ({"gone": gone} if gone else {})


def _compare(place: str, old: Any, new: Any) -> Iterator[tuple[str, Any]]:
    if old is new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() - new.keys():
            yield f"{place}/{_escape(key)}", _GONE
        for key, value in new.items():
            yield from _compare(f"{place}/{_escape(key)}", old.get(key, _GONE), value)
    elif isinstance(old, list) and isinstance(new, list) and len(old) <= len(new):
        for index, value in enumerate(new):
            yield from _compare(f"{place}/{index}", old[index] if index < len(old) else _GONE, value)
    elif type(old) is not type(new) or old != new:
        yield place, new


def apply(document: Json, change: Json) -> Json:
    """Return the document with a change of `difference` made; the one given stays as it is."""
    places = change.get("set", {})
    if "" in places:
        return dict(copy.deepcopy(places[""]))
    result = copy.deepcopy(document)
    for place in change.get("gone", ()):
        holder, key = _find(result, place)
        del holder[key]
    for place, value in places.items():
        holder, key = _find(result, place)
        if isinstance(holder, list) and key == len(holder):
            holder.append(value)
        else:
            holder[key] = value
    return result


def _find(document: Any, place: str) -> tuple[Any, Any]:
    *way, last = [word.replace("~1", "/").replace("~0", "~") for word in place.split("/")[1:]]
    for word in way:
        document = document[int(word) if isinstance(document, list) else word]
    return document, int(last) if isinstance(document, list) else last


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
