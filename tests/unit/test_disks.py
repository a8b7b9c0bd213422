"""Disks without a guest: every format out and in again, packages, overlays, a full disk."""

import asyncio
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vm.launcher import LocalLauncher
from vmcontainer_kernel.drives import Wanted, parse_wanted, run_program
from vmcontainer_kernel.errors import HostError, ImageError, LabError, NotFound, UserError
from vmcontainer_kernel.vm.disks import convert, making, nodes
from vmcontainer_kernel.vm.disks.disk import Disk, Layer
from vmcontainer_kernel.vm.disks.headers import identify, refuse_names
from vmcontainer_kernel.vm.disks.importing import import_image
from vmcontainer_kernel.vm.disks.ovf import DiskFile, read_disks, write_ovf
from vmcontainer_kernel.vm.disks.source import Source, open_source
from vmcontainer_kernel.vm.disks.store import Kept, Store

MIB = 1 << 20
SIZE = 3 * MIB + 512


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "disks")


@pytest.fixture
def run(tmp_path):
    """A runner as the supervisor's; it keeps what it ran."""
    launcher = LocalLauncher()

    def run(argv, fds, told):
        run.commands.append(argv)
        return asyncio.run(run_program(launcher, tmp_path, argv, fds, told))

    run.commands = []
    yield run
    assert launcher.left() == []


@pytest.fixture(scope="module")
def content():
    """A few megabytes, of which the middle is empty."""
    data = bytearray(SIZE)
    data[:MIB] = random.Random(4).randbytes(MIB)
    data[-1000:] = random.Random(5).randbytes(1000)
    return bytes(data)


def img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def content_of(store, run, name, folder):
    making.export(store, run, name, folder / "content.raw")
    return (folder / "content.raw").read_bytes()


def source_of(data, name="image"):
    return Source(name, len(data), lambda offset, count: data[offset : offset + count])


KINDS = [
    ("raw", "raw", ""),
    ("qcow2", "qcow2", ""),
    ("qcow2", "qcow2", "compat=0.10"),
    ("qcow2", "qcow2", "extended_l2=on,cluster_size=128k"),
    ("qcow", "qcow", ""),
    ("vmdk", "vmdk", "subformat=monolithicSparse"),
    ("vmdk", "vmdk", "subformat=streamOptimized"),
    ("vmdk", "vmdk", "subformat=monolithicFlat"),
    ("vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vdi", "vdi", ""),
    ("vdi", "vdi", "static=on"),
    ("vhdx", "vhdx", ""),
    ("vhdx", "vhdx", "subformat=fixed"),
    ("vhd", "vpc", "force_size=on"),
    ("vhd", "vpc", "subformat=fixed,force_size=on"),
]


@pytest.mark.parametrize(("suffix", "format", "options"), KINDS)
def test_what_others_have_written_comes_in_unchanged(suffix, format, options, store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    image = tmp_path / f"in.{suffix}"
    if format != "raw":
        img("convert", "-f", "raw", "-O", format, *(["-o", options] if options else []), tmp_path / "in.raw", image)
    phases = []
    assert import_image(store, run, image, "data", report=lambda phase, part: phases.append((phase, part))) == ["data"]
    assert store.kept("data").size_bytes == SIZE
    assert content_of(store, run, "data", tmp_path) == content
    assert phases[-1] == ("importing data", 1.0)
    if os.geteuid() == 0:
        assert all("setpriv" in command for command in run.commands[:-1]), "strangers' images are read as nobody"


@pytest.mark.parametrize("suffix", ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vhd", "ova"])
def test_what_is_written_for_others_comes_back_unchanged(suffix, store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    import_image(store, run, tmp_path / "in.raw", "data")
    target = tmp_path / f"out.{suffix}"
    making.export(store, run, "data", target)
    assert [one.name for one in tmp_path.glob("out*")] == [target.name], "no half files, no helpers"
    import_image(store, run, target, "back")
    assert content_of(store, run, "back", tmp_path) == content
    if suffix != "ova":
        driver = {"vhd": "vpc"}.get(suffix, suffix)
        with target.open("rb") as file:
            assert identify(open_source(file.fileno(), "out")).format == driver
        img("compare", "-f", driver, "-F", "raw", target, tmp_path / "in.raw")
