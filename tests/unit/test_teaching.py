"""Lessons: what they ask, what a learner may do when, and a file of progress that is never lost."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import re
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

import vmcontainer_kernel
from vmcontainer_kernel import messages
from vmcontainer_kernel.errors import LabError, NotFound, UserError
from vmcontainer_kernel.teaching import (
    Exercise,
    Fact,
    Lesson,
    Question,
    edition,
    lesson,
    magics,
    progress,
    report,
    room,
)
from vmcontainer_kernel.teaching.progress import Entry, Progress
from vmcontainer_kernel.teaching.room import Room
from vmcontainer_kernel.teaching.store import Store, progress_path

COURSE = Path(__file__).parents[2] / "course"
done: list[str] = []

PID = Question("pid", "Which number?", ("one", "the next"), right=2, why="It counts on.")
WALLS = Exercise(
    "walls",
    "Put up both walls.",
    (
        Fact("there is no first wall", lambda: "first" in done),
        Fact("there is no second wall", lambda: "second" in done),
    ),
    ("Walls.", "Two walls.", "Both."),
    "done.extend(['first', 'second'])",
)
LESSON = Lesson("walls-and-numbers", (PID,), (WALLS,), (Question("q", "Who?", ("a", "b"), 1, "So it is."),))


def run(cell: str) -> None:
    exec(cell, {"done": done})


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    done.clear()
    return Store(tmp_path / "data" / "progress.json")


@pytest.fixture
def learner(kept: Store) -> Room:
    return Room(LESSON, kept)


# -- predictions


def test_an_experiment_waits_for_its_prediction(learner: Room) -> None:
    assert not learner.is_open("pid")
    assert "first predict, then run this cell: Which number?" in str(learner.refusal("pid"))
    learner.choose("pid", 1)
    assert learner.is_open("pid")
    assert learner.compare("pid") == "you predicted 1 (one); it is 2 (the next)\nIt counts on."


def test_a_prediction_may_change_until_the_experiment_has_run(learner: Room) -> None:
    learner.choose("pid", 1)
    learner.choose("pid", 2)
    assert "and so it is" in learner.compare("pid")
    assert "you had predicted 2" in learner.choose("pid", 1)
    assert learner.chosen("prediction", "pid") == 2


@pytest.mark.parametrize("choice", [0, 3])
def test_a_choice_that_is_not_there(learner: Room, choice: int) -> None:
    with pytest.raises(UserError, match=f"pid has no choice {choice}"):
        learner.choose("pid", choice)


def test_an_experiment_that_nobody_declared_stays_closed(learner: Room) -> None:
    assert not Room(LESSON, Store(None), unattended=True).is_open("other")
    with pytest.raises(NotFound, match="no prediction 'other'"):
        learner.refusal("other")


# -- exercises


def test_what_is_missing_is_told_one_by_one(learner: Room) -> None:
    assert learner.check("walls", run).startswith("not yet: there is no first wall")
    done.append("first")
    assert learner.check("walls", run).startswith("not yet: there is no second wall")
    done.append("second")
    assert learner.check("walls", run) == "walls is solved: all that it asks for is there"
    done.clear()
    learner.check("walls", run)
    entry = learner.progress().find(LESSON.name, "exercise", "walls")
    assert entry is not None
    assert (entry.right, entry.tries) == (True, 3)


def test_hints_open_one_by_one_and_then_the_solution(learner: Room) -> None:
    assert "left: 3" in learner.solution("walls", now=False)
    told = [learner.hint("walls") for _ in range(4)]
    assert [text.count("\n") for text in told] == [1, 2, 3, 3]
    assert "%solution walls" in told[3]
    assert learner.solution("walls", now=False) == WALLS.solution
    entry = learner.progress().find(LESSON.name, "exercise", "walls")
    assert entry is not None
    assert (entry.hints, entry.solution, entry.right) == (3, True, False)


def test_a_teacher_need_not_open_hints(learner: Room) -> None:
    assert learner.solution("walls", now=True) == WALLS.solution


def test_a_fact_that_is_not_there_is_no_fact_yet() -> None:
    def look() -> bool:
        raise NotFound("no machine web")

    def stumble() -> bool:
        raise KeyError("web")

    assert Exercise("e", "", (Fact("no machine", look),), ("", "", ""), "x").missing() == "no machine"

    def fall() -> bool:
        raise ConnectionRefusedError("port 80")

    for slip, name in ((stumble, "KeyError"), (fall, "ConnectionRefusedError")):
        with pytest.raises(LabError, match=f"check of e failed: {name}"):
            Exercise("e", "", (Fact("", slip),), ("", "", ""), "x").missing()


def test_unattended_the_check_must_fail_before_the_solution_and_pass_after_it(kept: Store) -> None:
    quiet = Room(LESSON, Store(None), unattended=True)
    assert quiet.is_open("pid")
    assert quiet.compare("pid") == ""
    assert quiet.check("walls", run).startswith("not yet: there is no first wall")
    with pytest.raises(LabError, match="passes before anything was done"):
        quiet.check("walls", run)
    done.clear()
    with pytest.raises(LabError, match="does not solve it: there is no first wall"):
        quiet.check("walls", lambda cell: None)


# -- quiz


def test_the_quiz_tells_why(learner: Room) -> None:
    assert learner.answer("q", 2) == "Not that one. So it is."
    assert learner.answer("q", 1) == "Right. So it is."
    entry = learner.progress().find(LESSON.name, "quiz", "q")
    assert entry is not None
    assert (entry.tries, entry.right) == (2, True)


# -- what is declared


def test_a_declaration_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no choice 3"):
        Question("q", "", ("a", "b"), right=3)
    with pytest.raises(ValueError, match="small letters"):
        Question("Q 1", "", ("a", "b"), right=1)
    with pytest.raises(ValueError, match="twice"):
        Lesson("l", (PID, PID))
    path = tmp_path / "l.py"
    for text in ("QUIZ = (nothing,)", "from vmcontainer_kernel import lab\nlab.nothing()"):
        path.write_text(text)
        with pytest.raises(LabError, match="nothing"):
            lesson.load(path)


def test_a_lesson_is_found_beside_its_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMCONTAINER_COURSE", raising=False)
    monkeypatch.chdir(COURSE / "en")
    assert lesson.find("03-first-container") == COURSE / "exercises" / "03-first-container.py"
    for folder in (tmp_path, tmp_path / "gone"):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        if folder.name == "gone":
            folder.rmdir()
        with pytest.raises(UserError, match="no exercises of a lesson") as caught:
            lesson.find("03-first-container")
        assert "VMCONTAINER_COURSE" in caught.value.hint
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VMCONTAINER_COURSE", str(COURSE))
    assert lesson.find("03-first-container").is_file()
    with pytest.raises(UserError, match="no exercises"):
        lesson.find("../exercises/03-first-container")


@pytest.mark.parametrize(
    ("slip", "near"),
    [
        ("03-first-contaner", "03-first-container"),
        ("first-container", "03-first-container"),
        ("03", "03-first-container"),
        ("03-first-container.ipynb", "03-first-container"),
        ("18-chosing", "18-choosing"),
    ],
)
def test_a_slip_in_a_lessons_name(slip: str, near: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(COURSE / "ko")
    with pytest.raises(UserError) as caught:
        lesson.find(slip)
    assert caught.value.hint.startswith(f"did you mean %lab lesson {near}? There are: 01-welcome 02-first-vm")
    for other in ("", "xyz"):
        with pytest.raises(UserError) as caught:
            lesson.find(other)
        assert caught.value.hint.startswith("there are: 01-welcome 02-first-vm")


def test_a_slip_in_a_questions_name() -> None:
    for pick, slip, near in (
        (LESSON.prediction, "pidd", "pid"),
        (LESSON.exercise, "wals", "walls"),
        (LESSON.question, "Q", "q"),
    ):
        with pytest.raises(NotFound) as caught:
            pick(slip)
        assert caught.value.hint in (f"did you mean {near}?", f"there are: {near}")


CODE_OR_NAME = re.compile(r"`[^`]+`|dockerd|containerd-shim|runc")  # equal in all languages


@pytest.mark.parametrize("path", sorted((COURSE / "exercises").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_lesson_asks_is_translated(path: Path) -> None:
    known = lesson.read_catalogue(path, "ko")
    texts = (text for text in lesson.texts(lesson.load(path)) if known.word("", text) == text)
    assert [text for text in texts if not CODE_OR_NAME.fullmatch(text)] == []


TEXT = "Before.\n\n<!-- predict: pid -->\n\n<!-- exercise: walls -->\n\n<!-- quiz -->"


def test_students_get_the_questions_and_teachers_the_answers() -> None:
    student = edition.expand(TEXT, LESSON, str, str)
    assert "**Predict.** Which number?\n\n1. one\n2. the next" in student
    assert "**Exercise.** Put up both walls." in student
    assert "**1.** Who?" in student
    secrets = ("It counts on.", "Two walls.", WALLS.solution, "So it is.")
    assert not [secret for secret in secrets if secret in student]
    teacher = edition.expand(TEXT, LESSON, str, str, teacher=True)
    assert [secret for secret in secrets if secret in teacher] == list(secrets)
    assert edition.named_in(TEXT) == [("predict", "pid"), ("exercise", "walls"), ("quiz", "")]


# -- the learner's file


def test_the_file_is_where_the_learner_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMCONTAINER_PROGRESS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert progress_path() == tmp_path / "vmcontainer" / "progress.json"
    monkeypatch.setenv("VMCONTAINER_PROGRESS", "/elsewhere/mine.json")
    assert progress_path() == Path("/elsewhere/mine.json")


busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # so may this computer be
ENTRIES = st.builds(
    Entry,
    lesson=st.text("abc-1", max_size=9),
    kind=st.sampled_from(progress.KINDS),
    id=st.text("ab", max_size=3),
    begin_s=st.floats(0, 1e10),
    end_s=st.floats(0, 1e10),
    choice=st.integers(0, 9),
    right=st.booleans(),
    tries=st.integers(0, 99),
    hints=st.integers(0, 3),
    solution=st.booleans(),
)


@busy
@given(st.builds(Progress, name=st.just("김"), entries=st.lists(ENTRIES, max_size=4).map(tuple)))
def test_a_file_is_read_as_it_was_written(one: Progress) -> None:
    assert progress.parse(progress.to_text(one)) == one


GOOD = json.loads(progress.to_text(Progress(entries=(Entry("l", "quiz", "q", 1.0),))))


@busy
@given(
    st.sampled_from([*GOOD, *GOOD["entries"][0]]),
    st.none() | st.integers(max_value=-1) | st.floats(max_value=-1) | st.just(math.nan) | st.just("\0") | st.just([[]]),
)
def test_no_damage_is_taken_for_progress(field: str, value: Any) -> None:
    damaged = json.loads(json.dumps(GOOD))
    (damaged if field in damaged else damaged["entries"][0])[field] = value
    with pytest.raises(ValueError, match=r"."):
        progress.parse(json.dumps(damaged))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1"}', "[" * 100_000, "\udcff"])
def test_a_damaged_file_is_kept_aside(learner: Room, kept: Store, tmp_path: Path, text: str) -> None:
    path = tmp_path / "data" / "progress.json"
    path.parent.mkdir()
    path.write_bytes(text.encode(errors="surrogateescape"))
    learner.choose("pid", 2)
    (notice,) = kept.take_notices()
    (aside,) = path.parent.glob("progress.damaged-*.json")
    assert str(aside) in notice
    assert aside.read_bytes() == text.encode(errors="surrogateescape")
    assert Room(LESSON, Store(path)).chosen("prediction", "pid") == 2


def test_a_file_of_a_newer_version_is_left_alone(learner: Room, kept: Store, tmp_path: Path) -> None:
    path = tmp_path / "data" / "progress.json"
    path.parent.mkdir()
    path.write_text('{"version": 2}')
    learner.choose("pid", 2)
    assert "of version 2" in kept.take_notices()[0]
    assert path.read_text() == '{"version": 2}'
    assert learner.is_open("pid")


def test_what_was_known_outlives_damage(learner: Room, kept: Store, tmp_path: Path) -> None:
    path = tmp_path / "data" / "progress.json"
    learner.choose("pid", 2)
    path.write_text(path.read_text()[:50])
    assert learner.is_open("pid")
    assert "it is no JSON from line" in kept.take_notices()[0]
    assert Store(path).read() == kept.read() != Progress()


def test_a_file_that_comes_back_gets_what_waited_for_it(learner: Room, kept: Store, tmp_path: Path) -> None:
    path, lock = tmp_path / "data" / "progress.json", tmp_path / "data" / "progress.json.lock"
    learner.choose("pid", 1)
    before = path.read_text()
    lock.unlink()
    lock.mkdir()  # the file can be read, and nobody can change it
    fresh = Room(LESSON, Store(path))
    assert fresh.chosen("prediction", "pid") == 1
    fresh.choose("pid", 2)
    assert fresh.answer("q", 1)
    with pytest.raises(UserError, match="cannot be a name"):
        fresh.store.change(lambda old: report.named(old, "\0"))
    assert fresh.chosen("prediction", "pid") == 2
    assert path.read_text() == before
    [notice] = fresh.store.take_notices()
    assert "in this notebook only" in notice
    lock.rmdir()
    learner.hint("walls")  # another notebook, meanwhile
    assert fresh.chosen("prediction", "pid") == 2
    assert fresh.store.take_notices() == [f"your progress is kept in {path} again"]
    kinds = {(one.kind, one.choice, one.hints) for one in Store(path).read().entries}
    assert kinds == {("prediction", 2, 0), ("quiz", 1, 0), ("exercise", 0, 1)}


def test_a_choice_of_another_version_of_the_lesson(learner: Room, kept: Store) -> None:
    entry = Entry(LESSON.name, "prediction", "pid", 1.0, end_s=2.0, choice=9, right=True)
    kept.change(lambda old: Progress(entries=(entry,)))
    assert not learner.is_open("pid")
    assert learner.compare("pid") == ""
    assert "is kept: 1" in learner.choose("pid", 1)
    assert "you predicted 1" in learner.compare("pid")


def test_where_nothing_can_be_written_the_lesson_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "progress.json")
    learner = Room(LESSON, store)
    learner.choose("pid", 2)
    assert learner.is_open("pid")
    assert len(store.take_notices()) == 1


def _answer_often(path: Path, name: str) -> None:
    store = Store(path, patience_s=60)
    for number in range(20):
        store.change(partial(_begun, name, f"q{number}"))


def _begun(name: str, id: str, old: Progress) -> Progress:
    return old.changed(name, "quiz", id, 1.0, lambda entry: entry)


def test_two_notebooks_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_answer_often, args=(path, name)) for name in ("a", "b")]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    assert len(Store(path).read().entries) == 40
    assert sorted(one.name for one in tmp_path.iterdir()) == ["progress.json", "progress.json.lock"]


def test_a_table_and_what_a_teacher_gets(learner: Room, kept: Store, tmp_path: Path) -> None:
    learner.choose("pid", 1)
    learner.compare("pid")
    learner.hint("walls")
    learner.answer("q", 1)
    table = report.progress_table(kept.read())
    assert table.rows == [["walls-and-numbers", "0 / 1", "0 / 1", "1", "1 / 1"]]
    named = kept.change(lambda old: report.named(old, " =Kim "))
    assert "the name in it is =Kim" in report.write_export(named, str(tmp_path / "me.csv"))
    rows = list(csv.DictReader(StringIO((tmp_path / "me.csv").read_text(encoding="utf-8-sig"))))
    assert (tmp_path / "me.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # or Excel reads Korean names as another code
    assert [(row["name"], row["kind"], row["hints"]) for row in rows] == [
        ("'=Kim", "prediction", "0"),
        ("'=Kim", "exercise", "1"),
        ("'=Kim", "quiz", "0"),
    ]
    report.write_export(named, str(tmp_path / "me.json"))
    assert json.loads((tmp_path / "me.json").read_text())["work"][0]["lesson"] == "walls-and-numbers"
    report.write_export(named, str(tmp_path / "me.JSON"))
    report.write_export(kept.read(), str(tmp_path / "me.csv"))
    with pytest.raises(UserError, match="form is not known"):
        report.write_export(named, "me.txt")
    for file in ("~nobody-at-all/me.csv", "a\0.csv", str(tmp_path / "nowhere" / "me.csv")):
        with pytest.raises(UserError, match="cannot be written"):
            report.write_export(named, file)


@pytest.mark.parametrize("name", ["progress.json", "measured.csv"])
def test_a_report_replaces_no_other_file(learner: Room, kept: Store, tmp_path: Path, name: str) -> None:
    learner.choose("pid", 1)
    file = tmp_path / "data" / name
    if not file.exists():
        file.write_text("seconds\n1\n")
    before = file.read_text()
    with pytest.raises(UserError, match="is no such report"):
        report.write_export(kept.read(), str(file))
    assert file.read_text() == before


def test_nobody_takes_a_name_that_is_none(kept: Store) -> None:
    named = kept.read()
    with pytest.raises(UserError, match="cannot be a name"):
        report.named(named, "a\0b")


# -- in a notebook


@pytest.fixture
def shell(learner: Room, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setattr(room, "_room", learner)
    monkeypatch.setattr(messages, "_ask", messages._ask)
    monkeypatch.setattr(LabError, "say", LabError.say)
    shell: Any = InteractiveShell.instance()
    vmcontainer_kernel.load_ipython_extension(shell)
    shell.user_ns["done"] = done
    yield shell
    vmcontainer_kernel.unload_ipython_extension(shell)
    InteractiveShell.clear_instance()


def test_a_cell_waits_runs_and_is_compared(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "%%after pid\nprint('it ran')\n"
    refused = shell.run_cell(cell)
    assert isinstance(refused.error_in_exec, UserError)
    told = capsys.readouterr().out
    assert "first predict" in told
    assert "Traceback" not in told
    assert "it ran" not in told
    shell.run_cell("%predict pid = 2")
    assert shell.run_cell(cell).success
    told = capsys.readouterr().out
    assert told.index("it ran") < told.index("you predicted 2")


def test_any_kind_of_cell_may_wait(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%predict pid 2")
    shell.run_cell("%%after pid\n%%capture text\nprint('caught')\n")
    assert shell.user_ns["text"].stdout == "caught\n"
    assert "you predicted 2" in capsys.readouterr().out


def test_an_exercise_from_check_to_solution(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%check walls")
    assert "not yet" in capsys.readouterr().out
    shell.run_cell("%solution walls --now")
    shell.run_cell(capsys.readouterr().out)
    shell.run_cell("%check")
    assert "walls is solved" in capsys.readouterr().out


def test_a_slip_is_no_traceback(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    for line, told in (
        ("%predict", "%predict needs a name\n  try:   there are: pid"),
        ("%predict pid x", "it takes a name and a number"),
        ("%predict pid 0", "pid has no choice 0"),
        ("%predict pid 1000", "pid has no choice 1000"),
        ("%predict nothing", "no prediction 'nothing'"),
        ("%predict walls 1", "no prediction 'walls'"),
        ("%%after\n1", "%%after needs a name"),
        ("%%after pid 2\n1", "%%after pid: what is '2'?"),
        ("%quiz q 9", "q has no choice 9"),
        ("%hint a b", "%hint a: what is 'b'?"),
        ("%hint wals", "did you mean walls?"),
        ("%solution walls now", "what is 'now'?"),
        ("%check nothing", "no exercise 'nothing'"),
        ("%lab lesson", "which lesson?"),
        ("%lab progress --export ~nobody-at-all/me.csv", "cannot be written"),
    ):
        assert isinstance(shell.run_cell(line).error_in_exec, UserError), line
        out = capsys.readouterr().out
        assert told in out
        assert "Traceback" not in out


@pytest.mark.parametrize("line", ["pid 2", "pid = 2", "pid=2", "pid: 2", "pid,2", " pid  2 "])
def test_a_choice_may_be_written_as_one_likes(shell: InteractiveShell, learner: Room, line: str) -> None:
    shell.run_cell(f"%predict {line}")
    assert learner.chosen("prediction", "pid") == 2


def test_before_a_lesson_is_open_each_command_says_what_to_do(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_room", None)
    for line in ("%predict pid 2", "%check", "%hint", "%solution", "%quiz", "%%after pid\n1"):
        assert isinstance(shell.run_cell(line).error_in_exec, UserError), line
        assert "run its first cell: %lab lesson NAME" in capsys.readouterr().out


def test_the_solution_shows_nothing_and_its_errors_are_raised(shell: InteractiveShell) -> None:
    magics._run_quietly("done.append('x')\nprint('unseen')")
    assert done == ["x"]
    with pytest.raises(ZeroDivisionError):
        magics._run_quietly("1 / 0")


def test_a_choice_in_the_page_is_kept_and_nothing_foreign_is(learner: Room) -> None:
    from vmcontainer_widgets.choice import Choice

    widget = Choice(asks="?", choices=["a", "b"], form="%predict pid NUMBER <b>")
    widget.on_choice(lambda number: (learner.choose("pid", number), learner.chosen("prediction", "pid")))
    for foreign in (None, {}, {"choose": "1"}, {"choose": True}, {"choose": 3}, {"choose": -1}):
        widget._hear(widget, foreign, [])
    assert widget.chosen == 0
    widget._hear(widget, {"choose": 2}, [])
    assert (widget.chosen, learner.chosen("prediction", "pid")) == (2, 2)
    assert "your prediction is kept: 2" in widget.told
    learner.compare("pid")
    widget._hear(widget, {"choose": 1}, [])
    assert (widget.chosen, widget.told) == (2, "the experiment was run; you had predicted 2")
    bundle = widget._repr_mimebundle_()
    assert bundle is not None
    assert bundle[0]["text/plain"] == "%predict pid NUMBER <b>"
    assert "&lt;b&gt;" in bundle[0]["text/html"]
