"""JSON for a program that lives for thirty milliseconds: CPython's own scanner and encoder, without the module `json`,
whose import alone (it brings `re` and `enum`) takes twelve.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _json
except ImportError:  # another Python than CPython
    _json = None  # type: ignore[assignment]

__all__ = ["compact", "dumps", "loads", "quote"]


class _Context:
    """What the scanner asks for (Modules/_json.c, scanner_new)."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}  # noqa: RUF012


def loads(text: str) -> Any:
    """Read one document; raises `ValueError` saying where it is wrong (json.JSONDecodeError)."""
    if _json is not None:
        begun = text.lstrip(" \t\r\n")
        try:
            value, end = _json.make_scanner(_Context)(begun, 0)  # type: ignore[arg-type]
        except StopIteration:
            end = -1
        if end >= 0 and not begun[end:].strip(" \t\r\n"):
            return value
    import json  # only to tell what is wrong, and where

    return json.loads(text)


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Write one document."""
    if _json is None or indent is not None:
        import json

        return json.dumps(value, indent=indent)
    return "".join(_encoder(": ", ", ")(value, 0))


def compact(value: Any) -> str:
    """Write one document without spaces."""
    if _json is None:
        import json

        return json.dumps(value, separators=(",", ":"))
    return "".join(_COMPACT(value, 0))


def quote(text: str) -> str:
    """Write one text, whatever is in it."""
    return dumps(text) if _json is None else _json.encode_basestring_ascii(text)


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _encoder(colon: str, comma: str) -> Any:
    return _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, colon, comma, False, False, True)


_COMPACT: Any = _encoder(":", ",") if _json else None  # made once, not for each frame
