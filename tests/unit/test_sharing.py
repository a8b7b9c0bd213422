"""Folders lent to a machine: what is read of an option, and what of an archive is a change."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.errors import ContainerError, LabError, NotFound, UserError
from vmcontainer_kernel.sharing import changed, contents, pack, parse_lent


def archive(folder):
    out = io.BytesIO()
    pack(folder, out)
    return out


def names(data):
    with tarfile.open(fileobj=data, mode="r:") as tar:
        return {entry.name: entry.isdir() for entry in tar}


def test_a_folder_and_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    found = parse_lent("./data:/mnt/x/")
    assert (found.folder, found.place, found.read_only) == (tmp_path / "data", "/mnt/x", False)
    assert parse_lent("link:/mnt:ro").read_only
    assert parse_lent("link:/mnt:ro").folder == tmp_path / "data"
    for text in ("data", "data:", "data:mnt", "data:/", "data:/mnt:rx", ":/mnt"):
        with pytest.raises(UserError):
            parse_lent(text)
    with pytest.raises(NotFound):
        parse_lent("nothing:/mnt")


def test_only_what_changed_comes_back(tmp_path):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "same").write_text("same")
    (folder / "sub/other").write_text("before")
    (folder / "script").write_text("#!/bin/sh")
    sent = contents(archive(folder))
    assert set(sent) == {"", "same", "sub", "sub/other", "script"}
    out = io.BytesIO()
    assert changed(archive(folder), sent, out) == 0
    (folder / "sub/other").write_text("after!")
    (folder / "script").chmod(0o755)
    (folder / "new").symlink_to("same")
    out = io.BytesIO()
    assert changed(archive(folder), sent, out) == 3
    assert names(out) == {
        "data": True,
        "data/sub": True,
        "data/sub/other": False,
        "data/script": False,
        "data/new": False,
    }


@given(st.binary(max_size=3000))
def test_an_archive_that_is_none_is_an_error_or_empty(junk):
    try:
        assert changed(io.BytesIO(junk), {}, io.BytesIO()) >= 0
    except LabError as error:
        assert isinstance(error, ContainerError)
