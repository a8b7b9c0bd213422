"""What people read: English texts matched against a catalogue's templates."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel import doctor, magics, messages
from vmcontainer_kernel.display import Table
from vmcontainer_kernel.doctor import Check
from vmcontainer_kernel.errors import LabError, MachineError, NotFound
from vmcontainer_kernel.messages import LONGEST, TEMPLATE, Catalogue, Entry, Template


def catalogue(**templates: str) -> Catalogue:
    """Make a catalogue of templates; a text without gaps is a whole one."""
    pairs = [one.split(" => ") for one in templates.values()]
    return Catalogue([Entry(old, new, flags=[TEMPLATE] if "{" in old else []) for old, new in pairs])


SMALL = catalogue(
    a="there is no check {name} => {name} 검사가 없습니다",
    b="{path} cannot be read: {why} => {path}을(를) 읽을 수 없습니다: {why}",
    c="No such file or directory => 그런 파일이나 디렉터리가 없습니다",
    d="there are: {names} => 있는 것: {names}",
    e="machine {name} of network {network} is gone => 네트워크 {network}의 가상 머신 {name}이(가) 사라졌습니다",
    f="is required => 꼭 있어야 합니다",
    g="the disk is full => 디스크가 가득 찼습니다",
)


@pytest.fixture
def korean() -> Iterator[None]:
    messages.follow(lambda: "ko")
    LabError.say = staticmethod(messages.say)
    yield
    messages.follow(messages.from_locale)
    LabError.say = str


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("there is no check kvm2", "kvm2 검사가 없습니다"),
        (
            "/a cannot be read: the disk is full",
            "/a을(를) 읽을 수 없습니다: 디스크가 가득 찼습니다",
        ),
        ("machine web of network lab is gone", "네트워크 lab의 가상 머신 web이(가) 사라졌습니다"),
        ("process.args is required", "process.args: 꼭 있어야 합니다"),
        ("web: the disk is full; there is no check x", "web: 디스크가 가득 찼습니다; x 검사가 없습니다"),
        ("there are: a b\nthere are: c", "있는 것: a b\n있는 것: c"),
        ("nobody wrote this", "nobody wrote this"),
        ("", ""),
    ],
)
def test_a_text_is_translated_by_the_template_that_fits(text: str, said: str) -> None:
    assert SMALL.translate(text) == said


def test_the_template_with_the_most_words_wins() -> None:
    both = catalogue(a="there is {what} here => 여기 {what}", b="there is nothing at all {where} here => 없음 {where}")
    assert both.translate("there is nothing at all in here") == "없음 in"


@given(st.text(), st.text())
def test_what_fills_a_gap_is_kept_and_never_read_as_a_template(name: str, network: str) -> None:
    """Names that hold the template's own words, braces or lines shift the border of a gap, and no more."""
    template = Template("machine {name} of network {network} is gone")
    found = template.match(f"machine {name} of network {network} is gone")
    assert found is not None
    assert template.fill(found) == f"machine {name} of network {network} is gone"


@pytest.mark.parametrize("name", ["{network}", "{0.__class__}", "} {", "a of network b is gone", "x\ny", "%s"])
def test_hostile_names(name: str) -> None:
    said = SMALL.translate(f"machine {name} of network lab is gone")
    assert said.startswith("네트워크 ")
    assert said.endswith(" 사라졌습니다")
    plain = catalogue(a="there is no check {name} => {name} 검사가 없습니다")
    assert plain.translate(f"there is no check {name}") == f"{name} 검사가 없습니다"


@pytest.mark.parametrize("name", ["memory", "host", "running", "image"])
def test_a_name_that_is_a_word_of_ours_stays(name: str) -> None:
    said = messages.say(f"container {name} is not running, it is stopped", "ko")
    assert said == f"{name} 컨테이너는 실행 중이 아닙니다. 상태: 종료됨"


def test_a_gap_that_stands_twice_is_filled_alike() -> None:
    twice = catalogue(a="copy {name} to {name} again => {name}을 다시 {name}으로")
    assert twice.translate("copy a to a again") == "a을 다시 a으로"
    assert twice.translate("copy a to b again") == "copy a to b again"


@pytest.mark.parametrize(
    "text",
    [
        "machine " + " of network" * 2000 + " is gon",
        "machine " + " of network " * 2000 + "is gone!",
        "a: " * 10_000,
        "; \n: " * 8_000,
        "there are: " * 2_900,
        "x" * LONGEST,
    ],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    many = Catalogue([Entry(f"{{a}} of {n} network {{b}} is", "{b} {a}", flags=[TEMPLATE]) for n in range(2000)])
    begun_s = time.process_time()
    many.translate(text)
    SMALL.translate(text)
    assert time.process_time() - begun_s < 5, "a backtracking matcher takes minutes"


def test_a_text_beyond_the_longest_stays() -> None:
    text = "there is no check " + "x" * LONGEST
    assert SMALL.translate(text) == text


def test_a_translation_to_be_reviewed_is_not_used() -> None:
    entry = Entry("the disk is full", "?", flags=["fuzzy"])
    assert Catalogue([entry]).translate("the disk is full") == "the disk is full"


def test_a_po_file_is_read() -> None:
    text = '# head\nmsgid ""\nmsgstr ""\n"Language: ko\\n"\n\n#: a.py b.py\n#, fuzzy, python-brace-format\n'
    text += 'msgctxt "view"\nmsgid ""\n"one \\"line\\"\\n"\n"two"\nmsgstr "둘"\n\n#~ msgid "old"\n#~ msgstr "옛"\n'
    (entry,) = messages.read_po(text)
    assert (entry.source, entry.text, entry.context) == ('one "line"\ntwo', "둘", "view")
    assert entry.flags == {"fuzzy", TEMPLATE}
    assert entry.files == ["a.py", "b.py"]


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "ko"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LAB_LANGUAGE": "en"}, "en"),
        ({"LANG": "../../etc"}, "en"),
    ],
)
def test_the_language_is_that_of_the_locale(environment: dict[str, str], language: str) -> None:
    assert messages.from_locale(environment) == language


def test_an_error_is_told_in_the_readers_language(korean: None) -> None:
    error = NotFound("there is no machine web on this node", hint="there are: vm big", where="a.b")
    assert error.told() == "이 노드에는 web 가상 머신이 없습니다\n  위치:  a.b\n  해결:  있는 것: vm big"
    assert error._render_traceback_()[0] == "NotFound: 이 노드에는 web 가상 머신이 없습니다"
    assert str(error).splitlines()[0] == "there is no machine web on this node", (
        "a program that reads it finds it in English"
    )


def test_what_a_guest_wrote_is_shown_as_it_is(korean: None) -> None:
    console = "there is no disk web\nthe disk is full\nmount failed: the disk is full"
    told = MachineError("machine web has ended", where=console).told()
    assert told == "가상 머신 web이(가) 끝났습니다\n  위치:  " + console.replace("\n", "\n         ")
    quoted = MachineError("the list is empty", where="Dockerfile, line 3, column 5\nRUN []\n    ^").told()
    assert quoted.splitlines()[1:] == ["  위치:  Dockerfile, 3번째 줄, 5번째 칸", "         RUN []", "             ^"]


def test_without_a_front_errors_are_english() -> None:
    assert NotFound("there is no check x", hint="there are: y").told() == "there is no check x\n  try:   there are: y"


def test_a_doctors_report_is_translated(korean: None) -> None:
    checks = [
        Check("qemu", "ok", "QEMU emulator version 7.2.0"),
        Check(
            "kvm",
            "no",
            "/dev/kvm may not be opened by this user (group kvm may)",
            hint="see signal(7)",
            cost="no %%asm cells",
        ),
    ]
    text, page = doctor.to_text(checks), doctor.to_html(checks)
    for part in (
        "정상",
        "불가",
        "이 사용자는 /dev/kvm을 열 수 없음",
        "영향: %%asm 셀을 못 씀",
        "signal(7)을 보세요",
    ):
        assert part in text
        assert part in page
    assert "QEMU emulator version 7.2.0" in text
    assert doctor.to_json(checks)["checks"][1]["reason"].startswith("/dev/kvm may not"), "a document is for programs"


def test_a_terminals_locale_chooses_the_language() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LAB_LANGUAGE"}
    command = [sys.executable, "-m", "vmcontainer_kernel.cli", "doctor"]
    for locale, words in (("ko_KR.UTF-8", "정상"), ("C.UTF-8", "ok")):
        spoken = {**environment, "LC_ALL": locale, "PYTHONUTF8": "1"}
        done = subprocess.run([*command, "disk"], env=spoken, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(words)
        done = subprocess.run([*command, "--help"], env=spoken, capture_output=True, text=True, check=True)
        assert ("JSON 문서로" if words == "정상" else "as a JSON document") in done.stdout


def test_a_views_document_is_translated_where_we_speak() -> None:
    document = {
        "kind": "compare",
        "text": "the disk is full",
        "places": [{"name": "the disk is full", "missing": "this is an ordinary user"}],
        "missing": {"memory.used_bytes": "the guest is paused"},
        "accelerator": {
            "name": "tcg",
            "reason": "there is no /dev/kvm: no hardware virtualization here, or its module is not loaded",
        },
    }
    said = messages.say_document(document, "ko")
    assert said["text"] == said["places"][0]["name"] == "the disk is full", "a learner's cell, and a name"
    assert said["places"][0]["missing"] == "일반 사용자입니다"
    assert said["missing"] == {"memory.used_bytes": "게스트가 일시 정지되어 있습니다"}
    assert "하드웨어 가상화" in said["accelerator"]["reason"]
    assert messages.say_document(document, "en") is document


def test_a_parsers_help_is_translated(korean: None) -> None:
    parser = argparse.ArgumentParser(prog="x", description="Virtual machines and containers in notebook cells")
    parser.add_argument("name", help="its name, as an option")
    text = messages.say_help(parser).format_help()
    assert "노트북 셀 속의 가상 머신" in text
    assert "이름을 옵션으로 씀" in text
    assert "positional" not in text


@pytest.mark.parametrize(
    ("variable", "environment", "language"),
    [
        (None, {"JPY_SESSION_NAME": "/home/me/course/ko/02-first-vm.ipynb"}, "ko"),
        (None, {"JPY_SESSION_NAME": "/home/me/course/en/02-first-vm.ipynb", "LANG": "ko_KR.UTF-8"}, "en"),
        (None, {"JPY_SESSION_NAME": "/home/me/notes.ipynb", "LANG": "ko_KR.UTF-8"}, "ko"),
        (None, {"JPY_SESSION_NAME": "/home/me/ko/a.ipynb", "LAB_LANGUAGE": "en"}, "en"),
        ("ko", {"JPY_SESSION_NAME": "/home/me/en/a.ipynb", "LAB_LANGUAGE": "en"}, "ko"),
        ("fr", {"JPY_SESSION_NAME": "/home/me/en/a.ipynb"}, "en"),
        (None, {}, "en"),
    ],
)
def test_a_notebook_says_its_language(
    variable: str | None, environment: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JPY_SESSION_NAME", "LAB_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    namespace = {} if variable is None else {"LAB_LANGUAGE": variable}
    monkeypatch.setattr(magics, "_shell", lambda: SimpleNamespace(user_ns=namespace))
    assert magics._language() == language


def test_english_reads_no_catalogue() -> None:
    code = """
import sys
from vmcontainer_kernel import messages
from vmcontainer_kernel.display import Table
print(Table(("machine", "state"), [("vm", "running")]), messages.say("the disk is full"))
print(messages._read, "json" in sys.modules, "string" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["vm       running the disk is full", "{} False False"]


def test_names_in_tables_stay(korean: None) -> None:
    table = Table(("machine", "state", "system"), [("running", "running", "-"), ("vm", "does not answer", "stopped")])
    head, first, second = repr(table).splitlines()
    assert head.split() == ["가상", "머신", "상태", "시스템"]
    assert first.split() == ["running", "실행", "중", "-"]
    assert second.split() == ["vm", "응답하지", "않음", "stopped"]
    assert "<td" in table._repr_html_()
    assert "실행 중" in table._repr_html_()


def test_korean_takes_two_columns() -> None:
    assert messages.columns("가상 vm") == 7
    assert messages.padded("가", 4) == "가  "


def test_a_machine_s_name_is_one_word_so_a_sentence_that_begins_with_it_is_read_whole() -> None:
    ended = messages.say("machine glass ended while the cell ran: the guest's kernel panicked", "ko")
    assert ended.startswith("셀이 실행되는 동안")
    assert messages.say("machine glass", "ko") == "가상 머신 glass"
    assert messages.say("machine glass sings", "ko") == "machine glass sings"
