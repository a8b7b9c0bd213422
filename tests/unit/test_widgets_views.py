"""The Python side of both widgets: what is sent, what is heard, what a saved notebook keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import vmcontainer_widgets
from vmcontainer_widgets import HypervisorView, KernelView, Replay, replay_html, static_html, static_text
from vmcontainer_widgets.recording import FORMAT, last_document, read_recording
from vmcontainer_widgets.view import Answer

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

    def told(self) -> list[dict[str, Any]]:
        """The custom messages sent since the last time."""
        told = [message["content"] for message in self.sent]
        self.sent.clear()
        return told


def connected(widget: ipywidgets.Widget) -> Comm:
    comm = Comm()
    widget.set_trait("comm", comm)
    comm.sent.clear()
    return comm


def hear(widget: ipywidgets.Widget, **content: object) -> None:
    widget._handle_custom_msg(content, [])


@VIEWS
def test_an_update_is_one_message_with_what_differs(cls: Any, kind: str) -> None:
    widget, document = cls(document=sample(kind)), sample(kind)
    comm = connected(widget)
    widget.document = {**document, "time_s": 7.0}
    assert comm.told() == [{"change": {"set": {"/time_s": 7.0}}, "number": 1}]
    widget.document = {**document, "time_s": 7.0}
    assert comm.told() == []


def test_a_slow_page_is_told_several_changes_at_once() -> None:
    widget, document = KernelView(document=sample("kernel")), sample("kernel")
    comm = connected(widget)
    hear(widget, seen=0, page="slow")
    for step in range(5):
        widget.document = {**document, "time_s": float(step)}
    assert [message["number"] for message in comm.told()] == [1]
    hear(widget, seen=1, page="slow")
    assert comm.told() == [{"change": {"set": {"/time_s": 4.0}}, "number": 2}]


def test_a_page_that_is_silent_holds_no_other_up(monkeypatch: pytest.MonkeyPatch) -> None:
    widget, document, clock = KernelView(document=sample("kernel")), sample("kernel"), [100.0]
    monkeypatch.setattr("vmcontainer_widgets.view.time.monotonic", lambda: clock[0])
    comm, told = connected(widget), 0
    hear(widget, seen=0, page="gone")
    for step in range(80):
        clock[0] += 0.5
        widget.document = {**document, "time_s": float(step)}
        told += len(comm.told())
        if told:
            hear(widget, seen=told, page="here")
    # Every fourth one while the other may come back, ten seconds, then each.
    assert 55 <= told <= 70


def test_what_is_sent_to_a_link_that_stalls_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    widget, document, clock = KernelView(document=sample("kernel")), sample("kernel"), [100.0]
    monkeypatch.setattr("vmcontainer_widgets.view.time.monotonic", lambda: clock[0])
    comm = connected(widget)
    hear(widget, seen=0, page="far")
    for step in range(240):
        clock[0] += 0.5
        widget.document = {**document, "time_s": float(step)}
    assert 4 <= len(comm.told()) <= 7
    hear(widget, seen=1, page="far")
    assert [message["change"]["set"]["/time_s"] for message in comm.told()] == [239.0]


def test_a_page_that_comes_late_gets_all_of_it() -> None:
    widget, document = KernelView(document=sample("kernel")), sample("kernel")
    comm = connected(widget)
    widget.document = {**document, "time_s": 7.0}
    assert widget.get_state()["document"]["time_s"] == 7.0
    assert widget.get_state()["number"] == 1
    comm.sent.clear()
    hear(widget, seen=0, page="late")
    hear(widget, ask="whole")
    assert [message["whole"]["time_s"] for message in comm.told()] == [7.0, 7.0]


def test_an_action_reaches_every_callback_and_its_answer_the_page() -> None:
    widget, pressed = HypervisorView(), list[tuple[str, dict[str, Any]]]()
    comm = connected(widget)

    def act(name: str, arguments: dict[str, Any], answer: Answer) -> None:
        pressed.append((name, arguments))
        answer(True, "it did")

    widget.on_act(act)
    for content in ({"act": 5}, {"act": None}, {}, "pause", [], {"seen": "1", "page": 3}, {"seen": 9**99, "page": "x"}):
        widget._handle_custom_msg(content, [])
    hear(widget, act="pause", id="p 1", arguments="no arguments")
    hear(widget, act="balloon", id="p 2", arguments={"size": 5})
    assert pressed == [("pause", {}), ("balloon", {"size": 5})]
    assert comm.told()[-2:] == [{"answer": f"p {n}", "ok": True, "text": "it did"} for n in (1, 2)]


@VIEWS
def test_a_recording_replays_to_what_was_shown(cls: Any, kind: str, tmp_path: Path) -> None:
    widget, document = cls(document=sample(kind)), sample(kind)
    widget.begin_recording("a small computer")
    for step in range(3):
        widget.document = {**document, "time_s": float(step)}
    recording = widget.end_recording()
    file = tmp_path / "a.recording.json"
    file.write_text(json.dumps(recording))
    assert read_recording(file, frozenset({kind})) == recording
    assert len(recording["frames"]) == 4
    assert last_document(recording) == {**document, "time_s": 2.0}
    bundle, _ = Replay(recording)._repr_mimebundle_()
    assert bundle["text/plain"] == static_text(document)
    assert widget.end_recording() == {}


def test_a_replay_speaks_the_readers_language() -> None:
    reason = "control groups of version 1 do not count it; the whole kernel's is there"
    widget = KernelView(document=sample("kernel"))
    widget.begin_recording("a small computer")
    widget.document = {**sample("kernel"), "missing": {"containers[].pressure": reason}}
    recording = widget.end_recording()
    first, last = (Replay(recording, "ko").document["frames"][at] for at in (0, -1))
    assert first[1]["set"][""]["node"] == "host"
    assert [text for text in last[1]["set"].values() if "버전 1" in str(text)], last
    assert reason not in replay_html(recording, "ko")
    assert reason in replay_html(recording)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": "other"}, "format"),
        ({"view": "../kernel"}, "no view"),
        ({"frames": [[0, {"set": {"/a/b": 1}}]]}, "do not fit"),
        ({"frames": [[1, {}], [0, {}]]}, "not in order"),
        ({"frames": [[0, {"gone": ["/a"]}]]}, "do not fit"),
        ({"frames": None}, "no time, place or frames"),
    ],
)
def test_files_that_are_no_recordings_are_refused(change: dict[str, Any], error: str, tmp_path: Path) -> None:
    whole = {"format": FORMAT, "view": "kernel", "taken_s": 5, "place": "here", "frames": [[0.0, {"set": {"": {}}}]]}
    file = tmp_path / "a.recording.json"
    file.write_text(json.dumps(whole | change))
    with pytest.raises(ValueError, match=error):
        read_recording(file, frozenset({"kernel"}))


def test_nothing_in_a_recording_ends_the_script_that_holds_it() -> None:
    widget = KernelView(document={**sample("kernel"), "node": "</script><script>alert(1)</script><!--"})
    widget.begin_recording("</script>")
    page = replay_html(widget.end_recording())
    assert page.count("</script>") == 1
    assert "<!--" not in page


@VIEWS
def test_what_a_saved_notebook_keeps(cls: Any, kind: str) -> None:
    bundle, _ = cls(document=sample(kind), language="ko")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == static_text(sample(kind), language="ko")
    assert bundle["text/html"] == static_html(sample(kind), language="ko")


@VIEWS
def test_a_module_imports_nothing_and_never_writes_html(cls: Any, kind: str) -> None:
    module = cls.source("export default view(draw);")
    assert "import " not in module.replace("can import nothing", "")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in module


def test_scripts_may_be_sent_without_indents() -> None:
    """No string or template goes over the end of a line."""
    for path in (Path(vmcontainer_widgets.__file__).parent / "js").glob("*.js"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line.count("`") % 2 == 0, f"{path.name}: {line}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        vmcontainer_widgets.Nothing  # noqa: B018
