"""The third-party code that the terminal is made of: kept beside, unchanged, with its licence and its digest.

A view's module is loaded from a Blob and can import nothing, so each library becomes a function that is called at once;
what it exports is what the function returns, and none of its own names is seen outside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FILES", "ThirdParty", "scripts", "styles"]

FOLDER = Path(__file__).with_name("third_party")


@dataclass(frozen=True)
class ThirdParty:
    """One file of a package of npm: `path` in the package, `licence` beside the file, `sha256` of what is kept here."""

    file: str
    package: str
    version: str
    path: str
    licence: str
    sha256: str

    def text(self) -> str:
        """Return what is in the file."""
        return (FOLDER / self.file).read_text(encoding="utf-8")


FILES = (
    ThirdParty(
        *("xterm.mjs", "@xterm/xterm", "6.0.0", "lib/xterm.mjs", "xterm.LICENSE"),
        sha256="b336ec65a086c056d4804b3d4c2347da5663d3f23c3f25be866467bd8857ad59",
    ),
    ThirdParty(
        *("xterm.css", "@xterm/xterm", "6.0.0", "css/xterm.css", "xterm.LICENSE"),
        sha256="854a7c0fb70e8b1a083c16797ab827299fb18744f5ad34f227b48337e33293c6",
    ),
    ThirdParty(
        *("addon-fit.mjs", "@xterm/addon-fit", "0.11.0", "lib/addon-fit.mjs", "addon-fit.LICENSE"),
        sha256="2d87e1bddc73be9111de8beee5370c3bb7aac9c94e18e6f245f02ca741ef1769",
    ),
)


def scripts() -> str:
    """Return all modules as one text which defines the names they export."""
    return "\n".join(_as_function(one) for one in FILES if one.file.endswith(".mjs"))


def styles() -> str:
    """Return all style sheets, for what is inside a view only: JupyterLab has another version of some."""
    return "\n".join(f".vmc {{\n{one.text()}\n}}" for one in FILES if one.file.endswith(".css"))


def _as_function(file: ThirdParty) -> str:
    """Return a module that exports one name as ``const NAME = (() => {...})();``."""
    found = re.fullmatch(r"(.*)export\{(\w+) as (\w+)\};\s*(?://# sourceMappingURL=\S*\s*)?", file.text(), re.DOTALL)
    if found is None:
        raise ValueError(f"{file.file} does not end with the export of one name")
    body, inside, name = found.groups()
    return f"const {name} = (() => {{\n{body}\nreturn {inside};\n}})();"
