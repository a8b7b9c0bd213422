"""How errors and warnings are told: to people on standard error, to engines as lines of a log file."""

from __future__ import annotations

import sys

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.oci.state import now
from vmcontainer_kernel.errors import LabError

__all__ = ["describe", "tell"]


def describe(error: BaseException) -> str:
    """Return an error's text; for a program that is missing with the words by which engines know that it is.

    Docker and Podman make of "executable file not found" and "permission denied" the exit statuses 127 and 126.
    """
    text = str(error)
    if isinstance(error, LabError) and error.where == "exec: ENOENT":
        return f"exec: executable file not found in $PATH: {text}"
    return text if isinstance(error, LabError) else f"{type(error).__name__}: {text}"


def tell(error: BaseException, log: str, form: str) -> None:
    """Print an error, and add it to the log if there is one."""
    text = describe(error)
    print(f"vmcontainer runtime: {text}", file=sys.stderr)
    if log:
        add(log, form, "error", text)


def add(log: str, form: str, level: str, text: str) -> None:
    """Add a line to a log, in the form containerd's shim and conmon read (one JSON object a line) or as logfmt."""
    if form == "json":
        line = jsontext.dumps({"level": level, "msg": text, "time": now()})
    else:
        line = f"time={jsontext.dumps(now())} level={level} msg={jsontext.dumps(text)}"
    try:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        print(f"vmcontainer runtime: no log can be written to {log}: {error.strerror}", file=sys.stderr)
