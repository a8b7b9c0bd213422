"""What is left of a view where no kernel is: in nbconvert's HTML, and replayed in a page that is only a file."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tests.browser.conftest import SAMPLES, sample

pytestmark = pytest.mark.needs("chromium")

KINDS = sorted(file.stem for file in SAMPLES.glob("*.json"))
SHOWN = """
import json
from vmcontainer_widgets.views import VIEWS
document = json.load(open({path!r}))
VIEWS[document["kind"]](document=document)
"""


def recording(kind: str) -> dict[str, Any]:
    """Three frames of a sample: its time goes on."""
    document = sample(kind)
    begin_s = document.get("time_s", 0.0)
    frames: list[list[Any]] = [[0.0, {"set": {"": document}}]]
    frames += [[step / 2, {"set": {"/time_s": begin_s + step / 2}}] for step in (1, 2)]
    head = {"format": "vmcontainer recording 1", "view": document["kind"], "taken_s": 1790000000}
    return {**head, "place": "a computer <b>of ours</b>", "frames": frames}


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A notebook with every view and every replay, run, exported, opened as a file."""
    folder = tmp_path_factory.mktemp("saved")
    cells = ["%load_ext vmcontainer_kernel"]
    for kind in KINDS:
        file = folder / f"{kind}.recording.json"
        file.write_text(json.dumps(recording(kind)))
        cells += [SHOWN.format(path=str(SAMPLES / f"{kind}.json")), f"%lab replay {file}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", store_widget_state=False).execute()
    body, _ = HTMLExporter().from_notebook_node(notebook)
    exported = folder / "saved.html"
    exported.write_text(body, encoding="utf-8")
    context = browser.new_context(offline=True)
    opened = context.new_page()
    opened.failures = []
    opened.on("pageerror", lambda error: opened.failures.append(str(error)))
    opened.goto(exported.as_uri(), wait_until="domcontentloaded")
    yield opened
    context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_view_still_says_something(page: Any, kind: str) -> None:
    output = page.locator(".jp-OutputArea-output").nth(2 * KINDS.index(kind))
    assert len(output.inner_text()) > 100
    assert output.locator("table").count() >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_moves_without_a_kernel(page: Any, kind: str) -> None:
    output = page.locator(".jp-OutputArea-output").nth(2 * KINDS.index(kind) + 1)
    face = output.locator(".vmc-replay-face")
    face.wait_for()
    assert "taken 2026-09-21" in face.inner_text()
    assert "a computer <b>of ours</b>" in face.inner_text()
    slider = output.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "0.0 s"
    output.get_by_role("combobox", name="Speed").select_option("10")
    output.get_by_role("button", name="Play").click()
    output.get_by_text("1.0 / 1.0 s").wait_for()
    slider.press("Home")
    output.get_by_text("0.0 / 1.0 s").wait_for()
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0.5 s"
    assert output.locator(".vmc-body").first.inner_text()
    assert [failure for failure in page.failures if "require" not in failure] == []
