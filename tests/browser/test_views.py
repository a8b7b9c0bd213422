"""Every view on a plain page, with its sample document: what holds for all of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from vmcontainer_widgets.views import VIEWS

from tests.browser.conftest import sample, violations
from tests.browser.stage import THEMES, Stage

pytestmark = pytest.mark.needs("chromium")

ALL = pytest.mark.parametrize("kind", sorted(VIEWS))
WIDE, NARROW = 1280, 480


def pictures(folder: Path) -> Path:
    """Where pictures of views are kept: CI keeps a folder of its own choice."""
    return Path(os.environ.get("VMCONTAINER_PICTURES") or folder)


def shown(stage: Stage, kind: str, **traits: Any) -> Any:
    """A view with its sample, on the page and drawn."""
    view = VIEWS[kind](document=sample(kind), **traits)
    stage.show(view)
    assert view.watched
    return view


@ALL
def test_nothing_is_in_the_way_of_who_cannot_see_or_use_a_mouse(stage: Stage, kind: str) -> None:
    """Colours depend on the theme and words on the language, so two runs of axe-core see all of both."""
    view = shown(stage, kind)
    for language, theme in (("en", "light"), ("ko", "dark")):
        view.language = language
        stage.pump()
        stage.theme(theme)
        assert stage.page.locator(f".vmc[lang={language}]").count() >= 1
        found = violations(stage.page, "main")
        assert not found, "\n".join(found)


@ALL
def test_it_fits_wide_and_narrow_pages_in_both_themes(stage: Stage, kind: str, tmp_path: Path) -> None:
    shown(stage, kind)
    view, grounds, folder = stage.page.locator(".vmc").first, set(), pictures(tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    for width in (WIDE, NARROW):
        stage.page.set_viewport_size({"width": width, "height": 1000})
        stage.pump()
        over = view.evaluate("(one) => one.scrollWidth - one.clientWidth")
        assert over <= 0, f"{over} of {width} pixels stick out"
        for theme in THEMES:
            stage.theme(theme)
            grounds.add(view.evaluate("(one) => getComputedStyle(one).backgroundColor"))
            view.screenshot(path=folder / f"{kind}-{theme}-{width}.png", animations="disabled")
    stage.page.set_viewport_size({"width": WIDE, "height": 1000})
    assert len(grounds) == len(THEMES)


MOVING = """() => [...document.querySelectorAll(".vmc, .vmc *")].filter((one) => {
  const style = getComputedStyle(one);
  return style.transitionDuration !== "0s" || style.animationName !== "none";
}).map((one) => one.outerHTML.slice(0, 200))"""


@ALL
def test_nothing_moves_for_who_asked_for_that(stage: Stage, kind: str) -> None:
    """The stage's page prefers reduced motion."""
    shown(stage, kind)
    assert stage.page.evaluate(MOVING) == []


@ALL
def test_it_says_what_it_shows_without_a_page(kind: str) -> None:
    """As text and as HTML in which nothing runs: what GitHub, nbconvert and a terminal have of it."""
    bundle = VIEWS[kind](document=sample(kind)).still()
    assert len(bundle["text/plain"].splitlines()) > 1
    assert "<table" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]


def test_every_picture_of_the_documentation_is_there() -> None:
    """`python -m tests.browser.pictures` takes them."""
    docs = Path(__file__).parents[2] / "docs"
    named = set(re.findall(r"\"(views/[^\"]+\.png)\"", (docs / "views.md").read_text(encoding="utf-8")))
    assert {f"views/{path.name}" for path in (docs / "views").glob("*.png")} == named
    assert {f"views/{kind}-{theme}.png" for kind in ("hypervisor", "kernel") for theme in THEMES} <= named
