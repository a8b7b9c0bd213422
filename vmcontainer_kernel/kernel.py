"""The notebook kernel "VM & Container Lab": ipykernel with this extension loaded, and how Jupyter is told of it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from .errors import HostError

__all__ = ["DISPLAY_NAME", "NAME", "install", "specification"]

NAME = "vmcontainer"
DISPLAY_NAME = "VM & Container Lab"
LOAD = "__import__('vmcontainer_kernel').load_ipython_extension(get_ipython())"

# A machine around a kernel (left), and kernels' guests that share one (right).
LOGO = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" role="img" aria-label="VM &amp; Container Lab">
<rect width="64" height="64" rx="10" fill="#1b3a57"/>
<rect x="8" y="12" width="22" height="40" rx="3" fill="none" stroke="#fff" stroke-width="3"/>
<rect x="13" y="38" width="12" height="9" rx="1" fill="#f2b134"/>
<rect x="13" y="18" width="12" height="15" rx="1" fill="#fff"/>
<rect x="36" y="12" width="20" height="7" rx="1" fill="#fff"/>
<rect x="36" y="22" width="20" height="7" rx="1" fill="#fff"/>
<rect x="36" y="32" width="20" height="7" rx="1" fill="#fff"/>
<rect x="34" y="43" width="24" height="9" rx="1" fill="#f2b134"/>
</svg>
"""


def specification(python: str = sys.executable) -> dict[str, Any]:
    """Return kernel.json's content (jupyter_client, "Kernel specs").

    The magics are registered by a line of code, not as an extension: a notebook's own ``%load_ext`` then works as it
    does on any other kernel, without a notice that there is nothing to load.
    """
    # Without frozen modules the debugger sees the standard library, as in ipykernel's own specification.
    launch = [python, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return {
        "argv": [*launch, f"--IPKernelApp.exec_lines={LOAD}"],
        "display_name": DISPLAY_NAME,
        "language": "python",
        "metadata": {"debugger": True},
    }


def install(*, user: bool = False, prefix: str | None = None) -> Path:
    """Tell Jupyter of the kernel: for the whole computer, for this `user`, or below `prefix`; return its folder.

    Raises HostError where this user may not write.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.json").write_text(json.dumps(specification(), indent=1))
        Path(folder, "logo-svg.svg").write_text(LOGO)
        # TemporaryDirectory is private (0700), and the copy keeps its mode.
        Path(folder).chmod(0o755)
        try:
            return Path(KernelSpecManager().install_kernel_spec(folder, NAME, user=user, prefix=prefix))
        except OSError as error:
            hint = "vmcontainer kernel install --sys-prefix, or --user"
            raise HostError(f"the kernel was not installed: {error.strerror}: {error.filename}", hint=hint) from error
