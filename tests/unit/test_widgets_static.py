"""The still forms of both views: what they say, what they leave out, and that nothing foreign gets through."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vmcontainer_widgets import static_html, static_text
from vmcontainer_widgets.rows import format_bytes
from vmcontainer_widgets.words import LABELS, words

SAMPLES = Path(__file__).parents[1] / "browser" / "samples"
VOID = ("rect",)


def sample(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAMPLES / f"{kind}.json").read_text(encoding="utf-8"))
    return document


class Balanced(HTMLParser):
    """Reads HTML, keeps its text and refuses tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def later(document: dict[str, Any]) -> dict[str, Any]:
    """The same machine or kernel in another run: other ids, times, sizes of use."""

    def change(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: change(name, inner) for name, inner in value.items()}
        if isinstance(value, list):
            return value if key == "pids" else [change(key, item) for item in value]
        fixed = ("given_bytes", "limit_bytes", "limit_cpus", "limit", "index", "version")
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in fixed:
            return value + 17
        return value

    changed = change("", copy.deepcopy(document))
    assert changed != document
    return changed


@pytest.mark.parametrize("kind", ["hypervisor", "kernel", "compare", "peel"])
def test_short_text_is_the_same_in_every_run(kind: str) -> None:
    assert static_text(later(sample(kind))) == static_text(sample(kind))
    assert static_text(later(sample(kind)), full=True) != static_text(sample(kind), full=True)


def test_hypervisor_text() -> None:
    first, *rest = static_text(sample("hypervisor")).splitlines()
    assert first == "Virtual machine vm: running"
    assert "  vCPU: 2" in rest
    assert "  given to the guest: 256 MiB" in rest
    full = static_text(sample("hypervisor"), full=True)
    for figure in ("host thread 4714", "2.41 s", "61.0 MiB", "83.0 MiB", "52.0 MiB", "31.0 MiB", "tcg", "RESUME"):
        assert figure in full


def test_what_was_open_is_in_the_still_form() -> None:
    document = sample("hypervisor-parts")
    page = Balanced(static_html(document)).text
    for seen in ("RIP", "virtio-pci", "IO-APIC 2-edge timer", "virtqueue", "└ vm:other", "the machine comes from here"):
        assert seen.lower() in page.lower()
    assert "who runs the guest's instructions" in page
    text = static_text(document, full=True)
    assert "not available because the accelerator is TCG" in text
    assert "vm:second · 8.1 MiB · the machine comes from here" in text
    document["parts"] = {"queues": {"devices": [{"queues": 3}, None]}, "registers": {"vcpus": [{"values": 3}]}}
    document["qemu"], document["snapshots"] = {"command": "-S"}, [{"name": ["list"], "of": {}}]
    assert Balanced(static_html(document)).text


def test_kernel_text_tells_what_is_shared_and_with_whom() -> None:
    text = static_text(sample("kernel"))
    web = text[text.index("container web") : text.index("container db")]
    assert "its own: pid mnt uts ipc cgroup\n" in web
    assert "shared with db: net\n" in web
    assert "shared with host: user time\n" in web
    assert "limits: memory 64.0 MiB, CPU no limit, processes 16\n" in web
    assert "PID inside 1\n" in web


@pytest.mark.parametrize("told", [{}, dict.fromkeys(("pid", "user", "time"))])
def test_a_node_whose_init_may_not_be_read(told: dict[str, None]) -> None:
    document = sample("kernel")
    document["processes"][0]["namespaces"] = told
    assert "shared with host: user time" in static_text(document)


@pytest.mark.parametrize("kind", ["hypervisor", "kernel", "compare", "peel"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_html_holds_the_figures_in_tables(kind: str, language: str) -> None:
    page = Balanced(static_html(sample(kind), language=language))
    assert "table" in page.seen
    assert not page.seen & {"script", "style", "iframe", "link", "img"}
    figures = {
        "hypervisor": ["4714", "61.0 MiB", "virtio-rng-pci"],
        "kernel": ["4731", "C 4026532214", "57"],
        "compare": ["79.7 MiB", "6.1.0-56-cloud-amd64", "ECONNREFUSED"],
        "peel": ["linux.namespaces[uts]", 'sethostname("peel")', "≠"],
    }
    for figure in figures[kind]:
        assert figure in page.text


def test_what_is_the_hosts_own_does_not_travel_with_a_notebook() -> None:
    spaces = [
        {"name": name, "mounts": [{"point": f"/of-{name}", "type": "ext4", "options": "rw"}]}
        for name in ("host", "web")
    ]
    document = {"kind": "kernel", "node": "host", "parts": {"mounts": {"spaces": spaces}}}
    assert "/of-web" in static_html(document) and "/of-host" not in static_html(document)
    assert "/of-web" in static_text(document, full=True) and "/of-host" not in static_text(document, full=True)
    spaces[0]["name"] = "vm"
    assert "/of-host" in static_html({**document, "node": "vm"})


def test_namespaces_that_are_shared_have_one_letter() -> None:
    page = Balanced(static_html(sample("kernel"))).text
    assert page.count("C 4026532214") == 2
    assert page.count("A 4026531837") == 4


def test_what_divides_them_is_in_both_forms() -> None:
    page, text = Balanced(static_html(sample("kernel"))).text, static_text(sample("kernel"), full=True)
    for seen in (
        "1 inside is 100000 outside (65536)",
        "2 / 3",
        "system calls are filtered",
        "313 of 373",
        "10.88.0.2",
        "sha256:2e2e",
    ):
        assert seen in page
        assert seen in text
    assert "시스템 콜을 거름" in static_html(sample("kernel"), language="ko")


@pytest.mark.parametrize("kind", ["hypervisor", "kernel", "compare", "peel"])
def test_foreign_text_stays_text(kind: str) -> None:
    hostile = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>\x1b[2J\u202egnp.exe"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: value[key] if key in ("kind", "role") else poison(value[key]) for key in value}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return hostile if isinstance(value, str) else value

    poisoned = poison(sample(kind))
    page = Balanced(static_html(poisoned))
    assert not page.seen & {"script", "img"}
    assert "<script>alert(1)</script>" in page.text
    for text in (page.text, static_text(poisoned), static_text(poisoned, full=True)):
        assert not set(text) & {"\x1b", "\u202e"}
        assert "\\u001b[2J\\u202egnp.exe" in text


def test_an_empty_document_says_that_it_waits() -> None:
    assert static_text({}) == words("en")["waiting"]
    assert "기다리는" in Balanced(static_html({}, language="ko")).text


def test_unknown_numbers_are_dashes() -> None:
    document = sample("hypervisor")
    document["memory"]["guest_used_bytes"] = None
    assert "in use inside the guest · —" in static_text(document, full=True)
    Balanced(static_html(document))


@settings(deadline=None)  # it is not about time, and the first run reads the words
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(["hypervisor", "kernel"]),
    st.data(),
)
def test_no_document_of_another_shape_breaks_it(odd: Any, kind: str, data: st.DataObject) -> None:
    document = sample(kind)
    document[data.draw(st.sampled_from(sorted(set(document) - {"kind"})))] = odd
    Balanced(static_html(document))
    static_text(document, full=True)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (268435456, "256 MiB"), (None, "—"), (True, "—")],
)
def test_sizes(size: object, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("name", sorted(file.stem for file in LABELS.glob("*.json")))
def test_both_languages_have_the_same_words(name: str) -> None:
    """That each is translated, and its gaps kept, is for tests/unit/test_words.py to see."""
    english, korean = words("en", name), words("ko", name)
    assert english.keys() == korean.keys()
    for key, text in english.items():
        if isinstance(text, dict):
            assert text.keys() == korean[key].keys()
    assert english != korean


def test_still_forms_need_no_widget_library() -> None:
    code = "import sys, vmcontainer_widgets; print('anywidget' in sys.modules, 'vmcontainer_kernel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
