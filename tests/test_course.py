"""The course's texts: catalogues and notebooks are what the sources make, and every claim has its evidence.

Nothing here needs privileges or a machine. `test_lessons_here` and `test_lessons_binder` run the notebooks.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert.filters.markdown_mistune import markdown2html_mistune

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "course"))

import build  # noqa: E402  (course/ is a folder of lessons, not a package)
import claims  # noqa: E402
import places  # noqa: E402

LESSONS = build.lessons()


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lesson", LESSONS)
def test_everything_generated_is_what_the_sources_make(lesson):
    assert build.check(lesson) == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_code_cells_are_equal_in_all_languages(lesson):
    code = [
        [(cell.id, cell.source) for cell in _notebook(lesson, language).cells if cell.cell_type == "code"]
        for language in build.LANGUAGES
    ]
    assert code[0]
    assert all(cells == code[0] for cells in code)


@pytest.mark.parametrize("lesson", LESSONS)
def test_korean_prose_is_korean(lesson):
    for cell in _notebook(lesson, "ko").cells:
        if cell.cell_type == "markdown" and build.messages([cell]):
            assert any("가" <= letter <= "힣" for letter in cell.source), cell.source


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("language", build.LANGUAGES)
def test_no_mark_of_emphasis_is_left_as_a_letter(lesson, language):
    """Markdown closes none between a bracket and a letter: **풍선(balloon)**이라고 shows its asterisks."""
    for cell in _notebook(lesson, language).cells:
        if cell.cell_type == "markdown":
            page = BeautifulSoup(markdown2html_mistune(cell.source), "html.parser")
            for code in page.select("pre, code"):
                code.decompose()
            assert "*" not in page.get_text(), cell.source


def test_claims_have_an_assertion_in_their_cell():
    cells = list(claims.evidence())
    for one in cells:
        assert one.assertions, one.source
    assert {claim for one in cells for claim in one.claims} == set(claims.CLAIMS)


def test_the_page_of_claims_is_what_the_lessons_make():
    assert claims.TARGET.read_text() == claims.document(), "run python course/claims.py"


def test_a_name_of_the_engine_that_is_not_there_is_noticed():
    wrong = build.wrong_references
    assert not [*wrong("`vmcontainer_kernel/container/overlay.py` (`Overlay.mount`) and `course/build.py` (`main`)")]
    assert [*wrong("`vmcontainer_kernel/nothing.py`")] == ["there is no file vmcontainer_kernel/nothing.py"]
    assert [*wrong("`vmcontainer_kernel/errors.py`\n(`Nothing.at_all`)")] == [
        "vmcontainer_kernel/errors.py does not define Nothing.at_all"
    ]


def _notebook(lesson, language):
    return nbformat.read(build.notebook_path(lesson, language), as_version=4)


# ── the checker itself ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A copy of the course that a test may spoil."""
    shutil.copytree(build.ROOT, tmp_path / "course", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "ROOT", tmp_path / "course")
    return tmp_path / "course"


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _problems(lesson="01-welcome"):
    return "\n".join(build.check(lesson))


def test_check_finds_a_missing_translation(course):
    _replace(build.catalogue_path("01-welcome", "ko"), 'msgstr "## 정리하기"', 'msgstr ""')
    assert "no translation of '## Tidy up'" in _problems()


def test_check_finds_a_fuzzy_translation(course):
    _replace(build.catalogue_path("01-welcome", "ko"), 'msgid "## Tidy up"', '#, fuzzy\nmsgid "## Tidy up"')
    assert "(fuzzy) of '## Tidy up'" in _problems()


def test_check_finds_an_obsolete_translation(course):
    with build.catalogue_path("01-welcome", "ko").open("a") as file:
        file.write('\n#~ msgid "gone"\n#~ msgstr "사라짐"\n')
    assert "obsolete translation of 'gone'" in _problems()


def test_check_finds_changed_prose_until_it_is_translated(course):
    _replace(course / "src" / "01-welcome.md", "This course asks one question", "This course has one question")
    assert "no translation of 'This course has one" in _problems()
    build.build("01-welcome", run=False)
    assert "(fuzzy) of 'This course has one" in _problems()


@pytest.mark.parametrize("language", build.LANGUAGES)
def test_check_finds_a_notebook_that_was_edited_by_hand(course, language):
    _replace(build.notebook_path("01-welcome", language), 'echo \\"hello from', 'echo \\"goodbye from')
    assert f"{language}: cell " in _problems()


def test_check_finds_missing_outputs(course):
    path = build.notebook_path("01-welcome", "en")
    notebook = nbformat.read(path, as_version=4)
    next(cell for cell in notebook.cells if cell.get("outputs")).outputs = []
    path.write_text(nbformat.writes(notebook))
    assert "has no stored output" in _problems()


def _stored(text):
    path = build.notebook_path("01-welcome", "en")
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.get("outputs"))
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    path.write_text(nbformat.writes(notebook))


def test_check_finds_a_path_of_this_computer(course):
    _stored(f"{course.parent}/x")
    assert "which only this computer has, is in its output" in _problems()


@pytest.mark.parametrize(
    "text",
    [
        f"sits in {Path.home()}/x",
        f"{sys.prefix}/bin/python",
        "/home/somebody/vm-lab",
        "/opt/other/.venv/bin/python",
        "1  name-of-this-computer  ext4",
        "/mnt/elsewhere tmpfs rw",
    ],
)
def test_check_finds_what_tells_of_the_computer(course, monkeypatch, text):
    monkeypatch.setattr("socket.gethostname", lambda: "name-of-this-computer")
    monkeypatch.setattr(places, "mount_points", lambda: ["/", "/proc", "/mnt/elsewhere"])
    _stored(text)
    assert "is in its output" in _problems()


def test_what_tells_of_the_computer_is_replaced_before_it_is_stored():
    text = f"{build.ROOT.parent}/lab {sys.prefix}/bin/python3 {Path.home()}/.bashrc"
    assert places.anonymous(text) == "…/vmcontainer/lab …/vmcontainer/.venv/bin/python3 ~/.bashrc"
    assert [*places.leaks(text)] and not [*places.leaks(places.anonymous(text))]


@pytest.mark.parametrize("code", ["print('한')", f"print({'x' * 88!r})"])
def test_code_is_in_english_and_fits_the_page(course, code):
    _replace(course / "src" / "01-welcome.md", "```python\nview = ", f"```python\n{code}\nview = ")
    assert "is not ASCII, or wider than 88 columns" in _problems()


def test_an_ignored_output_needs_a_reason(course):
    _replace(course / "src" / "01-welcome.md", ' reason="', ' because="')
    assert "ignores its output and gives no reason" in _problems()


def test_few_outputs_may_be_ignored(course):
    source = course / "src" / "01-welcome.md"
    source.write_text(source.read_text().replace("```python\n", '```python tags=["nbval-ignore-output"] reason="so"\n'))
    assert "code cells ignore their output" in _problems()


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ('```python tags=["nbval-skip"]\n', "tags that mean nothing here: nbval-skip"),
        ('```python tags=["claim:X1"]\n', "tags that mean nothing here: claim:X1"),
        ("```python\n# NBVAL_IGNORE_OUTPUT\n", "tells nbval something in a comment"),
    ],
)
def test_nothing_else_keeps_a_cell_from_being_compared(course, new, problem):
    _replace(course / "src" / "01-welcome.md", "```python\n", new)
    assert problem in _problems()


def _spoil(kind, **changes):
    path = build.notebook_path("01-welcome", "en")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    silent = {False: [cell for cell in code if cell.outputs], True: [cell for cell in code if not cell.outputs]}
    silent[kind == "silent"][0].update(changes)
    path.write_text(nbformat.writes(notebook))


def test_check_finds_outputs_of_another_run(course):
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    _spoil("shown", outputs=[error], execution_count=99)
    _spoil("silent", outputs=[nbformat.v4.new_output("stream", name="stdout", text="x")])
    problems = _problems()
    for problem in ("were not run once each", "has an output but should be silent", " failed"):
        assert problem in problems


def test_check_finds_another_kernel(course):
    _replace(build.notebook_path("01-welcome", "ko"), '"name": "vmcontainer"', '"name": "python3"')
    assert "ko: the notebook's metadata is not what the source makes" in _problems()


def test_a_claim_without_an_assertion_is_noticed(course):
    _replace(course / "src" / "01-welcome.md", "```python\n", '```python tags=["claim:V1"]\n')
    assert [one for one in claims.evidence() if one.lesson == "01-welcome" and not one.assertions]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<!-- predict: pid -->\n", "", "the text should ask once for predict pid, not 0 times"),
        ("<!-- quiz -->", "<!-- quiz -->\n\n<!-- quiz -->", "the text should ask once for quiz , not 2 times"),
        ("%predict pid\n", "pass\n", "there should be one line %predict pid, not 0"),
        ("%%after pid\n", "", "there should be one line %%after pid, not 0"),
        ("%check lantern", "%check lantern\n%check lantern", "there should be one line %check lantern, not 2"),
        ("%quiz\n", "pass\n", "there should be one line %quiz, not 0"),
    ],
)
def test_check_finds_a_question_that_nobody_meets(course, old, new, problem):
    _replace(course / "src" / "03-first-container.md", old, new)
    assert problem in _problems("03-first-container")


def test_check_finds_a_question_that_is_not_declared(course):
    _replace(course / "exercises" / "03-first-container.py", 'id="pid"', 'id="pids"')
    problems = _problems("03-first-container")
    assert "nothing is declared as predict pid" in problems
    assert "the text should ask once for predict pids, not 0 times" in problems


# ── the teachers' edition ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_teachers_edition_has_all_answers_in_both_languages(lesson, tmp_path):
    assert build.main([lesson, "--teacher", str(tmp_path)]) == 0
    asked = build.read_exercises(lesson)
    for language in build.LANGUAGES:
        cells = nbformat.read(tmp_path / language / f"{lesson}.ipynb", as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        catalogue = build.read_catalogue(lesson, language)
        told = [hint for one in asked.exercises for hint in one.hints] + [*asked.notes]
        told += [one.why for one in (*asked.predictions, *asked.quiz)]
        if language != build.SOURCE_LANGUAGE:
            told = [str(catalogue.get(one).string) if one else "" for one in told]
        assert [one for one in told if one not in text] == []
        assert [one.id for one in asked.exercises if one.solution.strip() not in text] == []
        assert not build.named_in(text), "an unresolved question"
        title = {"en": "## For teachers", "ko": "## "}[language]
        assert not asked.notes or any(cell.id == "notes" and cell.source.startswith(title) for cell in cells)
        assert language == "en" or "For teachers" not in text
        stored = _notebook(lesson, language).cells
        assert [cell.get("outputs") for cell in cells[: len(stored)]] == [cell.get("outputs") for cell in stored]


def test_blocks_do_not_split_a_fence():
    assert list(build.blocks("a\nb\n\n```\nc\n\nd\n```\n\n\ne")) == ["a\nb", "```\nc\n\nd\n```", "e"]


@pytest.mark.parametrize("path", sorted((build.ROOT / "recordings").glob("*.json")), ids=lambda path: path.name)
def test_a_recording_is_shown_by_a_cell_and_tells_nothing_of_its_computer(path):
    tag = f"replay:{path.name.removesuffix('.recording.json')}"
    assert any(tag in build.tags(cell) for lesson in LESSONS for cell in build.read_lesson(lesson))
    assert [*places.leaks(path.read_text())] == []
