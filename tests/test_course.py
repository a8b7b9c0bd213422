"""The course: catalogues and notebooks are what the sources make, every claim has its evidence, and every cell runs.

The first half needs no privileges and no machine. The second half executes the notebooks: nbval compares all outputs
with the stored ones, and a run of our own looks at each reply, at the time a cell takes, and at what is left behind.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "course"))

import build  # noqa: E402  (course/ is a folder of lessons, not a package)

LESSONS = build.lessons()
CLAIMS = {"V4", "V5", "C1", "C3", "C7", "C8", "C10"}
CELL_LIMIT_S = 10
CODE_WIDTH = 88
GONE_WITHIN_S = 5


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
def test_code_is_in_english_and_fits_the_page(lesson):
    for cell in build.read_lesson(lesson):
        if cell.cell_type == "code":
            assert cell.source.isascii(), cell.source
            assert max(map(len, cell.source.splitlines())) <= CODE_WIDTH, cell.source


def test_claims_have_an_assertion_in_their_cell():
    shown = set()
    for lesson in LESSONS:
        for cell in build.read_lesson(lesson):
            claims = {tag.partition(":")[2] for tag in build.tags(cell) if tag.startswith("claim:")}
            assert not claims or _asserts(cell.source), cell.source
            shown |= claims
    assert shown >= CLAIMS


def _asserts(source):
    python = "\n".join(line for line in source.splitlines() if not line.startswith("%%after "))
    return any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(python)))


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


def _problems():
    return "\n".join(build.check("01-welcome"))


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


def test_check_finds_a_path_of_this_machine(course):
    path = build.notebook_path("01-welcome", "en")
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.get("outputs"))
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{course.parent}/x")]
    path.write_text(nbformat.writes(notebook))
    assert "a path of this machine" in _problems()


def test_an_ignored_output_needs_a_reason(course):
    _replace(course / "src" / "01-welcome.md", ' reason="', ' because="')
    assert "ignores its output and gives no reason" in _problems()


def test_blocks_do_not_split_a_fence():
    assert list(build.blocks("a\nb\n\n```\nc\n\nd\n```\n\n\ne")) == ["a\nb", "```\nc\n\nd\n```", "e"]


# ── running the lessons ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def templates():
    build.prepare()


@pytest.fixture
def run_folder(tmp_path, monkeypatch, templates):
    """A run folder of this test's own, so that what a lesson leaves behind can be told from what others are doing."""
    folder = tmp_path / "run"
    folder.mkdir()
    orphaned_before = _orphaned_cgroups()
    monkeypatch.setenv("VMCONTAINER_RUN", str(folder))
    for name, value in build.QUIET.items():
        monkeypatch.setenv(name, value)
    yield folder
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := _left_behind(folder, orphaned_before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _left_behind(folder, orphaned_before=frozenset()):
    """Name the processes, mounts and files of the sessions whose run folder this is, and cgroups that lost theirs."""
    left = [f"process {process.name} {_read(process / 'cmdline')}" for process in _processes_of(folder)]
    left += [f"file {path}" for path in folder.rglob("*")]
    left += [f"mount {line}" for line in _read(Path("/proc/self/mounts")).splitlines() if str(folder) in line]
    return left + [f"cgroup {path}" for path in _orphaned_cgroups() - orphaned_before]


def _orphaned_cgroups():
    """Return the cgroups of sessions (named sPID-…) whose notebook process is gone."""
    root = Path("/sys/fs/cgroup")
    groups = [*root.glob("vmcontainer/s*"), *root.glob("*/vmcontainer/s*")]
    return {path for path in groups if not Path("/proc", path.name[1:].partition("-")[0]).exists()}


def _processes_of(folder):
    for process in Path("/proc").glob("[0-9]*"):
        if str(folder) in _read(process / "environ") + _read(process / "cmdline") and process.name != str(os.getpid()):
            yield process


def _read(path):
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_what_is_left_behind_is_noticed(tmp_path):
    (tmp_path / "file").touch()
    environment = {**os.environ, "VMCONTAINER_RUN": str(tmp_path)}
    with subprocess.Popen(["sleep", "60"], env=environment) as sleeper:
        while not _read(Path(f"/proc/{sleeper.pid}/environ")):  # execve(2) closes files before it writes this
            time.sleep(0.01)
        left = _left_behind(tmp_path)
        sleeper.kill()
    # Somebody else's session may just be ending: its control groups are not ours to count.
    assert [kind for line in left if (kind := line.partition(" ")[0]) != "cgroup"] == ["process", "file"]


@pytest.mark.parametrize("language", build.LANGUAGES)
@pytest.mark.parametrize("lesson", LESSONS)
def test_outputs_are_those_stored(lesson, language, run_folder):
    command = [sys.executable, "-m", "pytest", "--nbval", f"--nbval-sanitize-with={build.ROOT / 'sanitize.cfg'}"]
    command += ["--nbval-cell-timeout=60", "-p", "no:cacheprovider", "-q", "--color=no", "--override-ini=addopts="]
    done = subprocess.run(
        [*command, str(build.notebook_path(lesson, language))], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_reply_is_ok_and_in_time(lesson, run_folder):
    _run(_notebook(lesson, build.SOURCE_LANGUAGE))


def test_a_lesson_stays_true_where_containers_run_in_a_guest(run_folder):
    notebook = _notebook("03-first-container", build.SOURCE_LANGUAGE)
    here = next(cell for cell in notebook.cells if cell.source.endswith("node = lab.default_node"))
    here.source = "from vmcontainer_kernel.verbs import nodes\nnodes._default_node = 'vm'\n" + here.source
    _run(notebook)
    table = next(cell for cell in notebook.cells if cell.source.startswith("PROBE = "))
    assert "".join(output.text for output in table.outputs).endswith("the node's    the node's    its own\n")


def _run(notebook):
    client = NotebookClient(
        notebook,
        timeout=60,
        record_timing=True,
        resources={"metadata": {"path": str(build.ROOT / build.SOURCE_LANGUAGE)}},
    )
    replies = []
    client.on_cell_executed = lambda cell, cell_index, execute_reply: replies.append((cell, execute_reply))
    client.execute()
    assert replies
    for cell, reply in replies:
        expected = "error" if "raises-exception" in build.tags(cell) else "ok"
        assert reply["content"]["status"] == expected, cell.source
        assert _seconds(cell) < CELL_LIMIT_S, cell.source


def _seconds(cell):
    begin, end = (
        datetime.fromisoformat(cell.metadata["execution"][event])
        for event in ("iopub.execute_input", "shell.execute_reply")
    )
    return (end - begin).total_seconds()
