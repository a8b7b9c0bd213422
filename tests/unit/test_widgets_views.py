"""The Python side of both widgets: what is sent, what is heard, what a saved notebook keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import vmcontainer_widgets
from vmcontainer_widgets import HypervisorView, KernelView, static_html, static_text

SAMPLES = Path(__file__).parents[1] / "browser" / "samples"
VIEWS = pytest.mark.parametrize(("cls", "kind"), [(HypervisorView, "hypervisor"), (KernelView, "kernel")])


def sample(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAMPLES / f"{kind}.json").read_text(encoding="utf-8"))
    return document


class Comm:
    """Keeps what a widget sends."""

    comm_id = "comm"
    kernel = "there is one"

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def on_msg(self, callback: object) -> None:
        pass

    def send(self, data: dict[str, Any], **_: object) -> None:
        self.sent.append(data)


def connected(widget: ipywidgets.Widget) -> Comm:
    comm = Comm()
    widget.set_trait("comm", comm)
    comm.sent.clear()
    return comm


@VIEWS
def test_one_message_an_update_and_none_without_a_change(cls: Any, kind: str) -> None:
    widget, document = cls(document=sample(kind)), sample(kind)
    comm = connected(widget)
    for step in range(5):
        widget.document = {**document, "time_s": float(step)}
    assert [message["method"] for message in comm.sent] == ["update"] * 5
    assert [set(message["state"]) for message in comm.sent] == [{"document"}] * 5
    widget.document = {**document, "time_s": 4.0}
    assert len(comm.sent) == 5


def test_actions_reach_every_callback_and_others_none() -> None:
    widget, first, second = HypervisorView(), list[str](), list[str]()
    widget.on_action(first.append)
    widget.on_action(second.append)
    for content in ({"action": "pause"}, {"action": "explode"}, {"action": None}, {}, "pause", {"action": "reset"}):
        widget._handle_custom_msg(content, [])
    assert first == second == ["pause", "reset"]


@VIEWS
def test_what_a_saved_notebook_keeps(cls: Any, kind: str) -> None:
    bundle, _ = cls(document=sample(kind), language="ko")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == static_text(sample(kind), language="ko")
    assert bundle["text/html"] == static_html(sample(kind), language="ko")


@VIEWS
def test_a_module_imports_nothing_and_never_writes_html(cls: Any, kind: str) -> None:
    module = cls._esm
    assert "import " not in module.replace("can import nothing", "")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in module


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        vmcontainer_widgets.Nothing  # noqa: B018
    assert set(vmcontainer_widgets.__all__) <= {*dir(vmcontainer_widgets), "HypervisorView", "KernelView"}
