"""Both views in a real JupyterLab: what they draw, what they send, how they are used without a mouse or eyes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import SAMPLES, Notebook, sample

SHOW = """
import json
from vmcontainer_widgets import HypervisorView, KernelView
document = json.loads(open({path!r}).read())
view = {name}(document=document)
pressed = []
if hasattr(view, "on_action"):
    view.on_action(pressed.append)
view
"""


def show(kind: str) -> str:
    name = {"hypervisor": "HypervisorView", "kernel": "KernelView"}[kind]
    return SHOW.format(path=str(SAMPLES / f"{kind}.json"), name=name)


@pytest.mark.parametrize("kind", ["hypervisor", "kernel"])
def test_draws(notebook: Callable[..., Notebook], kind: str) -> None:
    opened = notebook(show(kind), width=1280, height=1400)
    outputs = opened.run(0)
    print(json.dumps(outputs)[:300])
    opened.page.wait_for_selector(".vmc")
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        opened.theme(theme)
        opened.page.screenshot(path=f"/tmp/shot-{kind}-{theme[-5:].strip()}.png")
