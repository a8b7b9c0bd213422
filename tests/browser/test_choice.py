"""A question with its choices: by keyboard alone, kept only by its button, and said to who hears the page."""

from __future__ import annotations

import pytest
from vmcontainer_widgets.choice import Choice

from tests.browser.conftest import violations
from tests.browser.stage import THEMES, Stage

pytestmark = pytest.mark.needs("chromium")


def choice(kept: list[int]) -> Choice:
    def keep(number: int) -> tuple[str, int]:
        kept.append(number)
        return f"kept: {number}", kept[0]  # as a prediction whose experiment has run

    widget = Choice(
        asks="Which number?", choices=["one", "<b>the next</b>"], button="Predict", form="%predict pid NUMBER"
    )
    widget.on_choice(keep)
    return widget


def test_a_choice_is_made_by_keyboard_and_kept_by_its_button(stage: Stage) -> None:
    kept: list[int] = []
    stage.show(choice(kept))
    page = stage.page
    page.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    stage.pump()
    assert page.get_by_role("radio", name="2. <b>the next</b>").is_checked()
    assert kept == []
    page.keyboard.press("Enter")
    stage.pump()
    assert kept == [2]
    assert page.get_by_role("status").inner_text() == "kept: 2"
    page.get_by_role("radio", name="1. one").check()
    page.get_by_role("button", name="Predict").click()
    stage.pump()
    assert kept == [2, 1]
    assert page.get_by_role("radio", name="2.").is_checked()
    assert stage.errors == []


def test_nothing_is_kept_while_nothing_is_chosen(stage: Stage) -> None:
    kept: list[int] = []
    stage.show(choice(kept))
    stage.page.get_by_role("button", name="Predict").click()
    stage.pump()
    assert kept == []


def test_what_is_code_in_the_text_is_code_here(stage: Stage) -> None:
    choices = ["`<i>` and `b`", "a ` alone"]
    stage.show(Choice(asks="What is `$$`?", choices=choices, button="Answer", form="%quiz pid NUMBER"))
    assert stage.page.locator("legend").inner_html() == "What is <code>$$</code>?"
    assert stage.page.locator("code").all_inner_texts() == ["$$", "<i>", "b"]
    assert stage.page.get_by_role("radio", name="2. a ` alone").count() == 1


@pytest.mark.parametrize("theme", THEMES)
def test_it_is_in_nobodys_way(stage: Stage, theme: str) -> None:
    stage.show(choice([]))
    stage.theme(theme)
    assert stage.page.get_by_role("group", name="Which number?").count() == 1
    assert violations(stage.page, "main") == []
