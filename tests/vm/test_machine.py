"""Machines on a real QEMU: boot, pause, reset, the ways in which one ends, templates and clones."""

import asyncio
import dataclasses
import gc
import os
import platform
import shutil
import time
from pathlib import Path

import pytest

from tests.patience import now_s
from tests.vm.machines import Bench, asked, cpu_seconds, heard, standin_guest, told, told_more, until
from vmcontainer_kernel.errors import HostError, MachineError
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.vm import accelerator, template
from vmcontainer_kernel.vm.build import qemu_build
from vmcontainer_kernel.vm.machine import Machine
from vmcontainer_kernel.vm.observe.document import EVENTS_SHOWN
from vmcontainer_kernel.vm.template import clone, ensure_template, find_template


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standin")
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield standin_guest(folder, monkeypatch)
    # pytest would keep three runs of it: a gigabyte.
    shutil.rmtree(folder)


@pytest.fixture
def bench(image, tmp_path):
    bench = Bench(image, tmp_path)
    yield bench
    assert bench.launcher.left() == [], "QEMU is left behind"


@pytest.fixture(scope="module")
def saved(image, tmp_path_factory):
    """A template, asked for by two at once."""
    bench = Bench(image, tmp_path_factory.mktemp("template"))

    async def both():
        wish = (bench.config, bench.launcher, bench.run_dir, bench.settle)
        return await asyncio.gather(ensure_template(*wish), ensure_template(*wish))

    first, second = asyncio.run(both())
    assert first == second
    assert bench.settled == 1, "two at once must make it one time"
    assert bench.launcher.left() == []
    assert list((bench.run_dir / "machines").iterdir()) == []
    return first


def run_on_clone(bench, saved, use):
    """Run `use(machine)` with a fresh clone, which has ended afterwards."""

    async def whole():
        machine = await clone(saved, "c1", bench.launcher, bench.run_dir)
        try:
            return await use(machine)
        finally:
            await machine.stop()
            machine.stream.close()

    return asyncio.run(whole())


def test_a_machine_boots_to_its_agent(bench, image):
    async def use():
        async with bench.booted() as machine:
            assert await heard(machine) == f"hello from {image.release}"
            assert image.release != platform.release()
            assert await asked(machine, "os.getpid()") == "1"
            assert [name for name, _ in machine.phases] == ["begun", "spawn", "qmp"]
            assert await machine.status() == "running"
            return machine

    machine = asyncio.run(use())
    assert machine.gone.is_set()
    assert machine.reason == "it was stopped"


def test_reset_boots_the_kernel_again(bench, saved):
    async def use(machine):
        await asked(machine, "open('/mark', 'w').close()")
        await machine.reset()
        assert (await heard(machine)).startswith("hello")
        assert await asked(machine, "os.path.exists('/mark')") == "False"

    run_on_clone(bench, saved, use)


def test_pause_stops_the_guest_and_its_cpu(bench, saved):
    async def use(machine):
        await asked(machine, "0")
        await machine.pause()
        assert await machine.status() == "paused"
        await told(machine, "'late'")
        before = cpu_seconds(machine.pid)
        await asyncio.sleep(0.3)
        with pytest.raises(BlockingIOError):
            machine.stream.recv(1)
        assert cpu_seconds(machine.pid) - before < 0.05
        await machine.resume()
        assert await heard(machine) == "'late'"
        names = [name for _, name, _ in machine.events]
        assert names.index("STOP") < len(names) - 1 - names[::-1].index("RESUME")

    run_on_clone(bench, saved, use)


def test_the_view_is_of_this_machine(bench, saved):
    async def use(machine):
        await asked(machine, "0")
        # Its balloon driver is asked every two seconds.
        end = now_s() + 20
        while (view := await machine.view())["memory"]["guest_used_bytes"] is None:
            assert now_s() < end
            await asyncio.sleep(0.1)
        return machine, view

    machine, view = run_on_clone(bench, saved, use)
    assert (view["machine"], view["status"], view["qemu"]["pid"]) == ("c1", "running", machine.pid)
    assert view["memory"]["given_bytes"] == bench.config.memory_bytes
    assert 0 < view["memory"]["private_bytes"] <= view["memory"]["resident_bytes"]
    assert 8 << 20 < view["memory"]["guest_used_bytes"] < view["memory"]["given_bytes"]
    assert view["vcpus"][0]["cpu_s"] > 0
    ids = {device["id"]: device for device in view["devices"]}
    assert {"serial", "agent", "disk", "net", "rng", "panic", "balloon"} <= set(ids)
    assert ids["disk"]["address"]
    assert view["blocks"][0]["device"] == "disk"
    assert list(view["missing"]) == ["exits" if view["accelerator"]["name"] == "tcg" else "translation"]
    after = asyncio.run(machine.view())
    assert after["status"] == "gone"


@pytest.mark.parametrize(
    ("last_words", "reason"),
    [
        ("open('/proc/sysrq-trigger', 'w').write('c')", "panicked"),
        ("os.system('poweroff -f')", "powered off"),
    ],
)
def test_a_guest_that_ends_itself_tells_why(bench, saved, last_words, reason):
    async def use(machine):
        await told(machine, last_words)
        await asyncio.wait_for(machine.gone.wait(), 30)
        assert reason in machine.reason
        with pytest.raises(MachineError) as caught:
            await machine.pause()
        assert reason in caught.value.message
        assert caught.value.hint
        return caught.value

    error = run_on_clone(bench, saved, use)
    if reason == "panicked":
        assert "Kernel panic" in error.where


def test_a_killed_qemu_is_noticed(bench, saved):
    async def use(machine):
        os.kill(machine.pid, 9)
        await asyncio.wait_for(machine.gone.wait(), 30)
        assert "signal 9" in machine.reason
        with pytest.raises(MachineError, match="signal 9"):
            await machine.within(asyncio.sleep(10), 5, "answer")

    run_on_clone(bench, saved, use)


@pytest.mark.alone
def test_a_guest_that_never_answers_is_an_error_in_time(bench, saved):
    async def use(machine):
        start = now_s()
        with pytest.raises(MachineError, match=r"did not answer in 0\.5 s") as caught:
            await machine.within(asyncio.Event().wait(), 0.5, "answer")
        assert now_s() - start < 1
        assert caught.value.where and caught.value.hint

    run_on_clone(bench, saved, use)


def test_what_qemu_refuses_is_told_in_its_own_words(bench):
    bench.config = dataclasses.replace(bench.config, cpu_model="abacus")
    with pytest.raises(MachineError, match="could not start") as caught:
        asyncio.run(Machine.boot(bench.config, bench.launcher, bench.run_dir))
    assert "abacus" in caught.value.where


def test_a_kernel_that_panics_early_ends_the_machine(bench):
    bench.config = told_more(bench.config, "rdinit=/nonexistent root=/dev/null")

    async def use():
        async with bench.booted() as machine:
            await asyncio.wait_for(machine.gone.wait(), 30)
            return machine

    machine = asyncio.run(use())
    assert machine.reason == "the guest's kernel panicked"
    assert "Kernel panic" in machine.console_tail()


def test_a_cancelled_start_leaves_nothing(bench):
    async def use():
        task = asyncio.create_task(Machine.boot(bench.config, bench.launcher, bench.run_dir))
        await until(lambda: bench.launcher.spawned)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())


def test_clones_share_no_changes(bench, saved):
    async def use():
        one, two = [await clone(saved, name, bench.launcher, bench.run_dir) for name in ("one", "two")]
        assert await asked(one, "os.mkdir('/only-here')") == "None"
        assert await asked(two, "os.path.exists('/only-here')") == "False"
        assert one.config.mac != two.config.mac
        for machine in (one, two):
            await machine.stop()
            machine.stream.close()

    asyncio.run(use())
    assert template.is_sound(saved)


def test_a_template_that_is_there_is_found_at_once(bench, saved):
    async def use():
        start = time.perf_counter()
        found = await ensure_template(bench.config, bench.launcher, bench.run_dir, bench.settle)
        return found, time.perf_counter() - start

    # The least of several: the computer may be busy at one moment, not at each.
    tries = [asyncio.run(use()) for _ in range(5)]
    assert all(found == saved == find_template(bench.config) for found, _ in tries)
    assert min(seconds for _, seconds in tries) < 0.05
    assert bench.launcher.spawned == []


def test_an_idle_clone_comes_to_rest(bench, saved):
    """At most 1 % of a core, once what it had to do after waking is done; a guest that polls never gets there."""

    async def use(machine):
        await asked(machine, "0")
        shares = []
        while len(shares) < 6 and (not shares or shares[-1] >= 0.01):
            before = cpu_seconds(machine.pid)
            await asyncio.sleep(4)
            shares.append((cpu_seconds(machine.pid) - before) / 4)
        return shares

    shares = run_on_clone(bench, saved, use)
    assert shares[-1] < 0.01, shares


async def answers_anew(bench):
    """Make the template again if that is needed; a clone of it must answer."""
    again = await ensure_template(bench.config, bench.launcher, bench.run_dir, bench.settle)
    machine = await clone(again, "c", bench.launcher, bench.run_dir)
    assert await asked(machine, "1 + 2") == "3"
    await machine.stop()
    machine.stream.close()


def test_a_template_takes_no_room_for_pages_that_are_zero(saved):
    status = saved.ram.stat()
    assert status.st_size == saved.config.memory_bytes
    assert status.st_blocks * 512 < status.st_size / 2


def test_a_damaged_template_is_refused_and_made_again(bench, saved):
    with saved.state.open("r+b") as state:
        state.write(b"damage")

    async def use():
        with pytest.raises(MachineError, match="damaged"):
            await clone(saved, "c", bench.launcher, bench.run_dir)
        assert find_template(bench.config) is None
        await answers_anew(bench)

    asyncio.run(use())


def test_a_template_that_is_cut_short_while_clones_run(bench, saved):
    """Deleted it is open still; cut short it takes its clones with it, and nobody else, and is made anew."""

    async def use():
        cut = await clone(saved, "cut", bench.launcher, bench.run_dir)
        try:
            saved.ram.rename(saved.ram.with_name("kept"))
            assert find_template(bench.config) is None
            assert await asked(cut, "1 + 2") == "3"
            saved.ram.with_name("kept").rename(saved.ram)
            async with bench.booted() as other:
                os.truncate(saved.ram, 0)
                await asyncio.wait_for(cut.gone.wait(), 30)
                assert "cut short" in cut.reason
                with pytest.raises(MachineError, match="cut short"):
                    await cut.pause()
                assert await heard(other)
                assert await asked(other, "1 + 2") == "3"
        finally:
            await cut.stop()
            cut.stream.close()
        await answers_anew(bench)

    asyncio.run(use())


def test_events_without_end_are_not_all_kept(bench, saved):
    from qemu.qmp import Message

    def kept():
        gc.collect()
        return sum(isinstance(one, Message) for one in gc.get_objects())

    async def use(machine):
        before, heard_all = kept(), machine.expect("RESUME")
        for _ in range(400):
            await asyncio.gather(machine.pause(), machine.resume())
        await heard_all
        shown = (await machine.view())["events"]
        assert (len(shown), len(machine.events)) == (EVENTS_SHOWN, 100)
        assert {one["name"] for one in shown} == {"STOP", "RESUME"}
        assert kept() - before < 50
        assert await asked(machine, "1 + 2") == "3"

    run_on_clone(bench, saved, use)


def test_a_state_that_does_not_load_is_not_offered_again(bench, saved):
    """The digest is right, but QEMU refuses it: as after a change that no key foresaw."""
    config = told_more(bench.config, "unforeseen")
    key = template.key_of(config, qemu_build(config.platform).identity)
    place = cache_dir("templates") / key
    place.mkdir()
    (place / "ram").symlink_to(saved.ram)
    (place / "state").write_bytes(b"no state of QEMU's")
    template._write_manifest(place, key, {})
    wrong = find_template(config)
    assert wrong is not None
    with pytest.raises(MachineError) as caught:
        asyncio.run(clone(wrong, "c", bench.launcher, bench.run_dir))
    assert "stream" in caught.value.where
    assert find_template(config) is None


def failing(bench):
    """Try to build a template of another size; return the error and what is then in the cache."""
    bench.config = dataclasses.replace(bench.config, memory_bytes=200 << 20)
    before = set(cache_dir("templates").iterdir())
    with pytest.raises((HostError, MachineError)) as caught:
        asyncio.run(ensure_template(bench.config, bench.launcher, bench.run_dir, bench.settle))
    assert set(cache_dir("templates").iterdir()) == before, "half a template is left"
    return caught.value


def test_a_full_disk_leaves_no_half_template(bench, saved, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    error = failing(bench)
    assert isinstance(error, HostError)
    assert "VMCONTAINER_CACHE" in error.hint


def test_a_template_whose_guest_never_settles_is_not_kept(bench, saved):
    async def never(machine):
        await machine.within(asyncio.Event().wait(), 0.2, "settle")

    bench.settle = never
    assert "did not settle" in failing(bench).message


def test_kvm_that_carries_no_guest_is_given_up(bench, saved, tmp_path, monkeypatch):
    """A KVM that passes the probe and then fails: the next rung is emulation, and it is remembered."""
    kept = accelerator._store().read_text() if accelerator._store().exists() else None
    bench.config = dataclasses.replace(bench.config, accelerator=accelerator.Accelerator("kvm", "it said so"))
    builds = []

    async def build(config, *rest):
        builds.append(config.accelerator.name)
        if config.accelerator.name == "kvm":
            raise MachineError("no first byte")
        return saved

    monkeypatch.setattr(template, "_build", build)
    try:
        found = asyncio.run(ensure_template(bench.config, bench.launcher, tmp_path, bench.settle))
        assert found == saved
        assert builds == ["kvm", "tcg"]
        assert "no first byte" in accelerator.choose().reason
    finally:
        if kept is None:
            accelerator._store().unlink()
        else:
            accelerator._store().write_text(kept)


def test_nothing_is_left(saved):
    """No process has the template's memory mapped any more."""
    mapped = [path for path in Path("/proc").glob("[0-9]*/maps") if str(saved.ram) in _readable(path)]
    assert mapped == []


def _readable(path):
    try:
        return path.read_text()
    except OSError:
        return ""
