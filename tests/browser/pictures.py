"""Take a picture of every view in both themes, with the documents that the tests show: those of ``docs/views.md``.

python -m tests.browser.pictures [FOLDER] [VIEW ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vmcontainer_widgets.views import VIEWS

from tests.browser.stage import THEMES, Stage, staged

SAMPLES = Path(__file__).with_name("samples")
FOLDER = Path(__file__).parents[2] / "docs" / "views"
WIDTH = 1100  # what a page of text is wide, and a notebook


def take(stage: Stage, kind: str, folder: Path) -> None:
    """Write ``KIND-light.png`` and ``KIND-dark.png``."""
    document = json.loads((SAMPLES / f"{kind}.json").read_text(encoding="utf-8"))
    view = VIEWS[kind](document=document)
    stage.show(view)
    for theme in THEMES:
        stage.theme(theme)
        stage.page.locator(".vmc").first.screenshot(path=folder / f"{kind}-{theme}.png", animations="disabled")
    stage.close(view)
    view.close()


def main(folder: Path, kinds: list[str]) -> None:
    """Take pictures of these views."""
    folder.mkdir(parents=True, exist_ok=True)
    with staged(WIDTH) as stage:
        for kind in kinds:
            take(stage, kind, folder)
            print(f"{folder}/{kind}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, sys.argv[2:] or sorted(VIEWS))
