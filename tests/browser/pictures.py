"""Take a picture of every view in both themes, with the documents that the tests show, and write with their text forms
the last section of ``docs/views.md``.

python -m tests.browser.pictures [FOLDER]     only the pictures, into a folder
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from vmcontainer_widgets.view import View
from vmcontainer_widgets.views import VIEWS

from tests.browser.stage import THEMES, Stage, staged

SAMPLES = Path(__file__).with_name("samples")
PAGE = Path(__file__).parents[2] / "docs" / "views.md"
FOLDER = PAGE.with_suffix("")
HEADING = "## What each looks like\n"
WIDTH = 1100  # what a page of text is wide, and a notebook
TEXT_LINES = 24


def document(kind: str) -> dict[str, Any]:
    """What a view shows in its picture."""
    found: dict[str, Any] = json.loads((SAMPLES / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def take(stage: Stage, view: View, folder: Path) -> None:
    """Write ``KIND-light.png`` and ``KIND-dark.png``."""
    stage.show(view)
    stage.page.wait_for_timeout(500)  # a terminal draws when it has nothing else to do
    for theme in THEMES:
        stage.theme(theme)
        stage.page.locator(".vmc").first.screenshot(path=folder / f"{view.kind}-{theme}.png", animations="disabled")
    stage.close(view)


def told(view: View) -> str:
    """A view's part of the page: what it is, its picture in the reader's theme, its text."""
    what = (inspect.getdoc(type(view)) or "").partition(":")[0].rstrip(".")
    name, lines = f"views/{view.kind}", view.still()["text/plain"].splitlines()
    text = "\n".join([*lines[:TEXT_LINES], *(["…"] if len(lines) > TEXT_LINES else [])])
    return f"""### {type(view).__name__}

{what}. As text:

```
{text}
```

<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png"><img src="{name}-light.png" alt="{what}"></picture>
"""  # noqa: E501


def main(folder: Path, *, page: Path | None) -> None:
    """Take all pictures; write `page` anew from its last section on."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    with staged(WIDTH) as stage:
        for kind in VIEWS:
            view = VIEWS[kind](document=document(kind))
            take(stage, view, folder)
            parts.append(told(view))
            view.close()
    if page:
        kept = page.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
        note = "Taken by `python -m tests.browser.pictures`, of the documents in `tests/browser/samples/`."
        page.write_text("\n".join([kept, "", HEADING, note, "", *parts]), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), page=None)
    else:
        main(FOLDER, page=PAGE)
