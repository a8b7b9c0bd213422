"""The catalogues: what the sources say is in them, and each translation says the same."""

from __future__ import annotations

import ast

import pytest
from babel.messages.pofile import read_po

from tests import words
from vmcontainer_kernel.messages import LANGUAGES, TEMPLATE, Entry

OTHERS = LANGUAGES[1:]


def template(source: str) -> str:
    (statement,) = ast.parse(source).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.JoinedStr)
    return words.template_of(statement.value)


@pytest.mark.parametrize("language", OTHERS)
def test_everything_is_translated(language: str) -> None:
    """`python -m tests.words` brings the catalogue up to date, and tells what is to be translated."""
    known = [*words.read(language), *words.brought(language)]
    assert list(words.problems(words.collect(), known)) == []


@pytest.mark.parametrize("language", OTHERS)
def test_other_programs_read_a_catalogue(language: str) -> None:
    with words.po_path(language).open("rb") as file:
        theirs = read_po(file, locale=language, abort_invalid=True)
    known = {(one.context or "", one.id): one.string for one in theirs if one.id}
    assert known == {(one.context, one.source): one.text for one in words.read(language)}


@pytest.mark.parametrize("language", OTHERS)
def test_a_catalogue_is_written_as_it_is_read(language: str) -> None:
    assert words.write(words.read(language), language) == words.po_path(language).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('f"there is no check {name}"', "there is no check {name}"),
        ("f\"{error.strerror}: {one['path']!r}\"", "{strerror}: {path}"),
        ('f"{a.name} and {b.name} and {a.name}"', "{name} and {name2} and {name}"),
        ("f\"in {limit_s:g} s: {' '.join(names)} {len(rows)}\"", "in {limit_s} s: {names} {rows}"),
        ('f"write {{NAME}} for {x[0]}"', "write {{NAME}} for {x}"),
    ],
)
def test_the_gaps_of_a_template_have_names(source: str, text: str) -> None:
    assert template(source) == text


@pytest.mark.parametrize(
    "text", ["[and {lines} more]", ", about {now_s} s left", "machine {name} ended itself with {status}"]
)
def test_what_is_said_is_collected_be_it_one_word_and_a_gap(text: str) -> None:
    assert text in {one.source for one in words.collect()}


def test_a_translation_that_says_something_else_is_found() -> None:
    wanted = [
        Entry("there is no check {name}", flags=[TEMPLATE]),
        Entry("the disk is full"),
        Entry("%%vm makes it"),
        Entry("of {count}", context="view.of"),
        Entry("is it there?"),
    ]
    known = [
        Entry("there is no check {name}", "{nome} 검사가 없습니다", flags=[TEMPLATE]),
        Entry("the disk is full", "?", flags=["fuzzy"]),
        Entry("%%vm makes it", "%vm이 만듭니다"),
        Entry("of {count}", "가운데", context="view.of"),
        Entry("is it gone?", "사라졌나요?"),
    ]
    told = "\n".join(words.problems(wanted, known))
    for part in (
        "other gaps than 'there is",
        "(fuzzy): 'the disk",
        "signs % than",
        "other gaps than 'of",
        "no translation",
    ):
        assert part in told
    assert "stale: 'is it gone" in told


def test_a_changed_text_keeps_its_translation_to_be_reviewed() -> None:
    (new,) = words.merge([Entry("the disk is now full")], [Entry("the disk is full", "디스크가 가득 찼습니다")])
    assert new.text == "디스크가 가득 찼습니다"
    assert new.flags == {"fuzzy"}
