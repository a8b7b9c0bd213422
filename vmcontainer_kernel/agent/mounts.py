"""What is mounted where a process lives, and the layers that its root is made of: proc_pid_mountinfo(5), overlayfs.rst.

mountinfo ──▶ [{point, type, source, options, root, shared …, overlay: {lower: […], upper, work}}]
lower folders of all containers ──▶ which of them each layer is shared by
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from .proc import PROC, read_text

__all__ = ["MAX_MOUNTS", "UNITS", "mount_rows", "mount_spaces", "overlay_of"]

MAX_MOUNTS: Final = 200
UNITS: Final = {"spaces[].total": ("mounts", "level")}

Json = dict[str, Any]
_ESCAPES: Final = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\054", ","), ("\\134", "\\"))


def mount_spaces(places: Iterable[tuple[str, str | None, int]], proc: str = PROC) -> Json:
    """Return the part ``mounts``: `places` are name, container or None, and a process of each."""
    spaces, users = list[Json](), dict[str, list[str]]()
    for name, container, pid in places:
        rows = mount_rows(read_text(f"{proc}/{pid}/mountinfo"))
        spaces.append({"name": name, "container": container, "mounts": rows[:MAX_MOUNTS], "total": len(rows)})
        if container is not None:
            for layer in [layer for row in rows[:MAX_MOUNTS] for layer in _layers(row)]:
                users.setdefault(layer["path"], []).append(name)
    for space in spaces:
        for layer in [layer for row in space["mounts"] for layer in _layers(row)]:
            layer["shared_with"] = [user for user in users.get(layer["path"], ()) if user != space["name"]]
    return {"spaces": spaces, "units": UNITS}


def _layers(row: Json) -> Sequence[Json]:
    overlay = row.get("overlay")
    layers: Sequence[Json] = overlay["lower"] if overlay else ()
    return layers


def mount_rows(mountinfo: str) -> list[Json]:
    """Read lines of ``id parent device root point options [optional fields] - type source options``."""
    rows = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if len(words) < 6 or len(kind) < 3:
            continue
        row = {
            "id": words[0],
            "parent": words[1],
            "point": _unescape(words[4]),
            "type": kind[0],
            "source": _unescape(kind[1]),
            "options": words[5],
            "root": _unescape(words[3]),
            "propagation": " ".join(words[6:]) or "private",
        }
        rows.append(row | ({"overlay": overlay_of(kind[2])} if kind[0] == "overlay" else {}))
    return rows


def _unescape(text: str) -> str:
    """Undo \\040 for a space and its like."""
    if "\\" in text:
        for code, letter in _ESCAPES:
            text = text.replace(code, letter)
    return text


def overlay_of(options: str) -> Json:
    """Return the folders of an overlay: lower ones from the topmost down, as the kernel shows them.

    Linux 6.8 and newer show ``lowerdir+=`` once for each layer where they were given so. A colon or comma in a path is
    written with a backslash before it.
    """
    lower: list[str] = []
    found: Json = {"upper": None, "work": None, "volatile": False}
    for option in _split(options, ","):
        key, _, value = _unescape(option).partition("=")
        if key in ("lowerdir", "lowerdir+"):
            lower += [_plain(one) for one in _split(value, ":") if one]
        elif key in ("upperdir", "workdir"):
            found[key.removesuffix("dir")] = _plain(value)
        elif option in ("volatile", "fsync=volatile"):  # as newer kernels (here 6.18) show it
            found["volatile"] = True
    return {"lower": [{"path": path, "digest": _digest(path)} for path in lower], **found}


def _split(text: str, mark: str) -> list[str]:
    """Split where `mark` has no backslash before it."""
    parts, part, escaped = [], "", False
    for letter in text:
        if letter == mark and not escaped:
            parts.append(part)
            part = ""
        else:
            part += letter
        escaped = letter == "\\" and not escaped
    return [*parts, part]


def _plain(path: str) -> str:
    """Undo the backslashes of `_split`."""
    text, escaped = "", False
    for letter in path:
        escaped = letter == "\\" and not escaped
        text += "" if escaped else letter
    return text


def _digest(path: str) -> str | None:
    """Return the diff_id of a layer of ours, whose folder is named after it (container/images/store.py)."""
    name = path.rstrip("/").rpartition("/")[2]
    return f"sha256:{name}" if len(name) == 64 and not name.strip("0123456789abcdef") else None
