"""``install``: the runtime as a program of its own, which Python starts without looking for site-packages.

`-S` and `-I` (python(1)) save two thirds of Python's start, and keep the environment and folders of whoever calls the
runtime, such as PYTHONPATH, out of a program that runs as root. So short a life needs no collection of garbage, and no
tidying up at its end: together a tenth of its time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vmcontainer_kernel.errors import HostError, UserError

__all__ = ["install", "script"]

_LINE_BYTES = 255  # Linux before 5.1 cuts a first line at 127 (execve(2)); Python's paths are rarely that long


def script(python: str, package: str) -> str:
    """Return the program: `python`: the interpreter; `package`: the folder that holds this package."""
    first = f"#!{python} -SI"
    if " " in python or len(first.encode()) > _LINE_BYTES:
        raise HostError(
            "this Python cannot be named in the first line of a script", hint="use a shorter path", where=python
        )
    return f"""{first}
import gc, sys
gc.disable()
sys.path.insert(0, {package!r})
from vmcontainer_kernel.container.oci.command import leave
leave(sys.argv[1:])
"""


def install(path: str) -> None:
    """Write the program to a file, and make it executable."""
    # Without links: a virtual environment's Python looks for its pyvenv.cfg, and needs nothing of it here.
    text = script(str(Path(sys.executable).resolve()), str(Path(__file__).parents[3]))
    try:
        Path(path).write_text(text, encoding="utf-8")
        Path(path).chmod(0o755)
    except OSError as error:
        raise UserError(f"the program cannot be written: {error.strerror}", hint="see --path", where=path) from error
    print(f"installed {path}")
