"""How errors and warnings are told: to people on standard error, to engines as lines of a log file."""

from __future__ import annotations

import sys

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.oci.state import now
from vmcontainer_kernel.errors import LabError

__all__ = ["aim", "describe", "pass_on", "tell", "warn"]

_target = ("", "text")
_KNOWN = {"exec: ENOENT": "executable file not found in $PATH", "exec: EACCES": "permission denied"}
"""The words by which Docker and Podman know that they have to end with status 127 or 126."""


def aim(path: str, form: str) -> None:
    """Say where the log is ("": none) and in which form, text or json; once for a command."""
    global _target  # noqa: PLW0603 - one command, one log
    _target = (path, form)


def describe(error: BaseException) -> str:
    """Return an error's text; for a program that cannot be run with the words by which engines know that."""
    if not isinstance(error, LabError):
        return f"{type(error).__name__}: {error}"
    # What a hint says of cells and machines is for notebooks; engines show their users this text.
    hint = "" if "--on vm" in error.hint or "%" in error.hint else error.hint
    text = str(type(error)(error.message, hint=hint, where=error.where))
    known = _KNOWN.get(error.where)
    return f"exec: {known}: {text}" if known else text


def tell(error: BaseException) -> None:
    """Print an error, and add it to the log if there is one."""
    _tell("error", describe(error))


def warn(text: str) -> None:
    """Print what is not as asked and no reason to stop, and add it to the log."""
    _tell("warning", text)


def pass_on(report: str) -> None:
    """Warn of what a child's report warns of."""
    for line in report.splitlines():
        if line.startswith('{"warning"'):
            warn(str(jsontext.loads(line)["warning"]))


def _tell(level: str, text: str) -> None:
    mark = "" if level == "error" else f"{level}: "
    print(f"vmcontainer runtime: {mark}{text}", file=sys.stderr)
    path, form = _target
    if path:
        _add(path, form, level, text)


def _add(path: str, form: str, level: str, text: str) -> None:
    """Add a line to a log, in the form containerd's shim and conmon read (one JSON object a line) or as logfmt."""
    if form == "json":
        line = jsontext.dumps({"level": level, "msg": text, "time": now()})
    else:
        line = f"time={jsontext.dumps(now())} level={level} msg={jsontext.dumps(text)}"
    try:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        print(f"vmcontainer runtime: no log can be written to {path}: {error.strerror}", file=sys.stderr)
