"""Files copied into and out of a machine, and folders lent to a cell."""

import os

import pytest

from tests.vm.test_machine_network import Notebook
from vmcontainer_kernel import sharing
from vmcontainer_kernel.errors import LabError, NotFound, UserError

pytestmark = pytest.mark.needs("qemu")


@pytest.fixture(scope="module")
def notebook():
    notebook = Notebook()
    notebook.cell("box", "true")
    yield notebook
    notebook.session.close()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_and_folders_both_ways(notebook, here):
    data = os.urandom(3_000_000)
    (here / "tree/inner").mkdir(parents=True)
    (here / "tree/inner/data").write_bytes(data)
    (here / "tree/run").write_text("#!/bin/sh\necho ran\n")
    (here / "tree/run").chmod(0o755)
    (here / "tree/link").symlink_to("run")
    notebook.verb("cp tree box:/tmp/there")
    assert notebook.cell("box", "/tmp/there/link; stat -c %s /tmp/there/inner/data") == "ran\n3000000"
    notebook.verb("cp box:/tmp/there/inner/data back")
    assert (here / "back").read_bytes() == data
    notebook.verb("cp box:/tmp/there .")
    assert (here / "there/inner/data").read_bytes() == data
    assert os.access(here / "there/run", os.X_OK)
    assert (here / "there/link").readlink().name == "run"
    notebook.verb("cp back box:/tmp")
    assert notebook.cell("box", "cmp /tmp/back /tmp/there/inner/data && echo same") == "same"


def test_what_cannot_be_copied_is_named(notebook):
    with pytest.raises(NotFound, match="/tmp/nothing"):
        notebook.verb("cp box:/tmp/nothing .")
    with pytest.raises(NotFound, match="nothing"):
        notebook.verb("cp nothing box:/tmp")
    with pytest.raises(NotFound, match="no machine other"):
        notebook.verb("cp other:/tmp/x .")
    with pytest.raises(UserError, match="between a machine and this computer"):
        notebook.verb("cp a b")


def test_a_guest_leads_no_copy_out_of_its_folder(notebook, here):
    (here / "victim").write_text("mine")
    (here / "in").mkdir()
    notebook.cell("box", f"mkdir -p /tmp/trap && ln -sfn {here} /tmp/trap/way && echo x > /tmp/trap/file")
    notebook.verb("cp box:/tmp/trap in")
    notebook.cell("box", "rm /tmp/trap/way && mkdir /tmp/trap/way && echo taken > /tmp/trap/way/victim")
    with pytest.raises(LabError):
        notebook.verb("cp box:/tmp/trap in")  # `in/trap/way` is a link by now, and none is followed
    assert (here / "victim").read_text() == "mine"


def lend(notebook, line, text):
    """Run a cell as the notebook does, with what follows its end."""
    from vmcontainer_kernel import cells, magics
    from vmcontainer_kernel.options import parse

    options = parse(magics.vm_cell, line)
    start = cells.vm_start(notebook.session, options, text, lambda phase, fraction: None)
    cells.run_cell(notebook.session, notebook.session.run("box", start), options, {}, lambda: None)


def test_a_folder_is_lent_for_a_cell(notebook, here, capsys):
    (here / "data").mkdir()
    (here / "data/a").write_text("1\n")
    (here / "data/same").write_text("same")
    before = (here / "data/same").stat().st_mtime_ns
    lend(notebook, "box --volume ./data:/srv/in/data", "cd /srv/in/data && cat a && echo 2 >> a && echo new > b")
    assert capsys.readouterr().out == "1\n"
    assert (here / "data/a").read_text() == "1\n2\n"
    assert (here / "data/b").read_text() == "new\n"
    assert (here / "data/same").stat().st_mtime_ns == before, "what did not change is not written"
    lend(notebook, "box -v ./data:/srv/in/data:ro", "echo 3 >> /srv/in/data/a; cat /srv/in/data/a")
    assert capsys.readouterr().out == "1\n2\n3\n"
    assert (here / "data/a").read_text() == "1\n2\n"


def test_too_much_is_neither_lent_nor_taken_back(notebook, here, monkeypatch, capsys):
    (here / "data").mkdir()
    (here / "data/a").write_bytes(bytes(100_000))
    monkeypatch.setattr(sharing, "LENT_MAX_BYTES", 50_000)
    with pytest.raises(UserError, match="can be lent"):
        lend(notebook, "box --volume ./data:/srv/x", "true")
    (here / "data/a").write_bytes(b"")
    lend(notebook, "box --volume ./data:/srv/x", "head -c 200000 /dev/zero > /srv/x/b")
    assert "not copied back" in capsys.readouterr().err
    assert not (here / "data/b").exists()
    with pytest.raises(UserError, match="--bg"):
        lend(notebook, "box --bg --volume ./data:/srv/x", "true")
