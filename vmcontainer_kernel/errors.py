"""Every error a user can meet, in one tree.

    LabError                     message, hint (what to do next), where (step, machine, file)
     ├─ UserError                what was typed cannot be done: option, name, size, file
     │   ├─ SpecError            a field of an OCI configuration; names the field
     │   └─ NotFound             no such node, machine, container or image; lists those there are
     ├─ HostError                this computer lacks something (a check of ``doctor`` names it)
     ├─ ImageError               an image, layer or blob is missing, damaged or hostile
     ├─ ContainerError           a step of starting or changing a container failed
     ├─ MachineError             QEMU or a guest failed; carries the last console lines
     ├─ NodeError                an agent answered that it could not do what was asked
     │   ├─ NodeLost             the stream ended after a request was sent: its outcome is unknown
     │   └─ ProtocolError        bytes that are no frame, or a frame that makes no sense
     ├─ CommandFailed            the user's own command ended with a non-zero status
     └─ TimeLimit                --timeout passed and the command was ended

An error crosses the agent's stream as JSON (`to_json`, `from_json`) and comes out as the same class.
In a notebook an error renders as its message and hint, in the reader's language, never as a traceback of ours.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which imports `re`: a container runtime is a new process for every command
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

__all__ = [
    "CommandFailed",
    "ContainerError",
    "HostError",
    "ImageError",
    "LabError",
    "MachineError",
    "NodeError",
    "NodeLost",
    "NotFound",
    "ProtocolError",
    "SpecError",
    "TimeLimit",
    "UserError",
    "from_json",
    "to_json",
]


_LONGEST = 32 * 1024
_LONGEST_WORD = 300  # a path may be long and be of use


class LabError(Exception):
    """Something failed: what (`message`), where (`where`, may be empty) and what to do next (`hint`, may be empty)."""

    registry: ClassVar[dict[str, type[LabError]]] = {}
    say: ClassVar[Callable[[str], str]] = str  # the front's `messages.say`, which a guest does not have

    def __init_subclass__(cls) -> None:
        LabError.registry[cls.__name__] = cls

    def __init__(self, message: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        return "\n".join(self._lines(str))

    def told(self) -> str:
        """Return the error as `str` does, in the reader's language."""
        return "\n".join(self._lines(LabError.say))

    def _lines(self, say: Callable[[str], str]) -> list[str]:
        place, newline, quoted = self.where.partition("\n")
        # A single word is a field's name; several lines are what a guest wrote, unless they quote a Dockerfile.
        if " " in place and (not newline or place.startswith("Dockerfile, ")):
            place = say(place)
        lines = [" ".join(_brief(word) for word in say(self.message).split(" "))]
        for title, text in (("  where: ", place + newline + quoted), ("  try:   ", say(self.hint))):
            if text:
                lines += [say(title) + text.replace("\n", "\n         ")]
        return lines

    def _render_traceback_(self) -> list[str]:
        """What IPython prints instead of a traceback (IPython.core.interactiveshell, ``showtraceback``)."""
        first, *rest = self._lines(LabError.say)
        return [f"{type(self).__name__}: {first}", *rest]


class UserError(LabError):
    """What was typed cannot be done."""


class SpecError(UserError):
    """A field of an OCI configuration is wrong; `where` names it, such as ``process.args``."""


class NotFound(UserError):
    """There is no node, machine, container or image of that name."""


class HostError(LabError):
    """This computer lacks something the request needs."""


class ImageError(LabError):
    """An image, layer or blob is missing, damaged or hostile."""


class ContainerError(LabError):
    """A step of starting or changing a container failed; `where` names the step."""


class MachineError(LabError):
    """QEMU or a guest failed; `where` holds the last console lines."""


class NodeError(LabError):
    """An agent answered that it could not do what was asked."""


class NodeLost(NodeError):
    """The stream to a node ended after a request was sent: whether it was carried out is unknown."""


class ProtocolError(NodeError):
    """Bytes that are no frame, or a frame that makes no sense."""


class CommandFailed(LabError):
    """The user's command ended with a non-zero status (`status`; 128 + N for signal N, as a shell counts)."""

    def __init__(self, message: str, *, status: int = 1, hint: str = "", where: str = "") -> None:
        super().__init__(message, hint=hint, where=where)
        self.status = status


class TimeLimit(LabError):
    """The time given with ``--timeout`` passed and the command was ended."""


def to_json(error: BaseException) -> dict[str, Any]:
    """Describe an error for the wire; anything that is no `LabError` becomes a `NodeError` that names its class."""
    if not isinstance(error, LabError):
        return {"error": "NodeError", "message": _short(f"{type(error).__name__}: {error}"), "hint": "", "where": ""}
    texts = {"message": error.message, "hint": error.hint, "where": error.where}
    return {"error": type(error).__name__, **{key: _short(text) for key, text in texts.items()}}


def _brief(word: str) -> str:
    """Cut a word that nobody reads to its end: a number of a thousand digits, a name of as many letters."""
    return word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD // 2]}…{word[-20:]}"


def _short(text: str) -> str:
    """Cut what quotes a whole program or path: an error must fit into one frame."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def from_json(document: dict[str, Any]) -> LabError:
    """Make the error that `to_json` described; an unknown class becomes a `NodeError`."""
    cls = LabError.registry.get(str(document.get("error")), NodeError)
    text = {key: str(document.get(key, "")) for key in ("message", "hint", "where")}
    return cls(text["message"], hint=text["hint"], where=text["where"])
