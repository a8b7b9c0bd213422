"""The hypervisor view's pure parts: what a real QEMU 7.2 answered (``qemu-7.2/``), other versions' ways, and junk."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.delta import apply, difference
from vmcontainer_kernel.errors import MachineError
from vmcontainer_kernel.live.machine import with_inside
from vmcontainer_kernel.vm.observe import texts
from vmcontainer_kernel.vm.observe.asking import Answers, Question, ask
from vmcontainer_kernel.vm.observe.devices import device_list, pci_list
from vmcontainer_kernel.vm.observe.document import EVENTS_SHOWN, Facts, ProcTexts, document, gone_document, queue_name
from vmcontainer_kernel.vm.observe.ends import why_gone
from vmcontainer_kernel.vm.observe.observer import TURNS, Observer
from vmcontainer_kernel.vm.observe.parts import PARTS, UNITS, Inside, part_document, queue_questions
from vmcontainer_kernel.vm.observe.poller import Poller
from vmcontainer_kernel.vm.observe.proc import ram_document, read_smaps, read_stats

RECORDED = Path(__file__).with_name("qemu-7.2")
FACTS = Facts("vm", 1.5, "tcg", "no /dev/kvm", "7.2.22", 12, ("qemu-system-x86_64",), 256 << 20)
STAT = "1502 (CPU 0/TCG) x) S 1 1 1 0 -1 0 0 0 0 0 130 20 0 0 20 0 4 0 100"
SMAPS = """5500-7ff0 ---p 00000000 00:00 0  [rollup]
Rss: 40 kB
Pss: 37 kB
Private_Clean: 4 kB
Private_Dirty: 30 kB
Shared_Clean: 6 kB
"""
BALLOON = {"last-update": 5, "stats": {"stat-total-memory": 200, "stat-available-memory": 150}}
EXITS = [
    {"provider": "kvm", "qom-path": "/machine/unattached/device[0]", "stats": stats}
    for stats in (
        [{"name": "exits", "value": 5}, {"name": "io_exits", "value": 2}, {"name": "halt_wait_hist", "value": [1, 2]}],
        [{"name": "exits", "value": 7}, {"name": "guest_mode", "value": True}, {"name": "req_event", "value": 3}],
    )
]


def recorded(name):
    path = RECORDED / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else (RECORDED / f"{name}.txt").read_text()


def answers(**other):
    found = Answers({path.stem: recorded(path.stem) for path in RECORDED.iterdir()})
    peripheral = [{"name": "net", "type": "child<virtio-net-pci>"}, {"name": "disk", "type": "child<virtio-blk-pci>"}]
    found.values |= {"qom-list": peripheral, "guest-stats": BALLOON, "query-stats": EXITS}
    queue = recorded("x-query-virtio-queue-status")
    found.values |= {queue_name("net", number): {**queue, "used-idx": 40 + number} for number in (0, 1)}
    found.values |= other
    return found


def view(proc=None, given=None):
    return document(FACTS, given or answers(), proc or ProcTexts(SMAPS, {1502: STAT}), 100.0)


def numbers_at(value, path):
    """Return all that a path of `units` leads to."""
    name, _, rest = path.partition(".")
    inner = value[name.removesuffix("[]")]
    inner = inner if name.endswith("[]") else [inner]
    return [leaf for one in inner for leaf in (numbers_at(one, rest) if rest else [one])]


def test_the_view_is_json_with_a_unit_for_each_number():
    shown = view()
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["kind"], shown["version"], shown["status"]) == ("hypervisor", 1, "running")
    for path in shown["units"]:
        assert all(isinstance(value, int | float) or path.startswith("migration") for value in numbers_at(shown, path))
        assert numbers_at(shown, path), path
    assert "missing" not in shown


def test_a_virtual_cpu_is_a_thread():
    assert view()["vcpus"] == [{"index": 0, "thread_id": 1502, "cpu_s": 1.5, "state": "S"}]
    assert view(ProcTexts(SMAPS, {}))["vcpus"][0]["cpu_s"] is None


def test_memory_is_seen_from_outside_and_inside():
    assert view()["memory"] == {
        "given_bytes": 256 << 20,
        "balloon_bytes": 256 << 20,
        "guest_used_bytes": 50,
        "resident_bytes": 40 << 10,
        "proportional_bytes": 37 << 10,
        "private_bytes": 34 << 10,
        "shared_bytes": 6 << 10,
    }


def test_what_cannot_be_told_is_null_with_a_reason():
    unknown = {"last-update": 5, "stats": {"stat-total-memory": (1 << 64) - 1}}
    shown = view(ProcTexts(None, {}), answers(**{"guest-stats": unknown, "query-blockstats": [{"stats": {}}]}))
    assert shown["memory"]["resident_bytes"] is None
    assert shown["memory"]["guest_used_bytes"] is None
    assert shown["blocks"] == []
    names = ("guest_used", "resident", "proportional", "private", "shared")
    assert set(shown["missing"]) == {"blocks", *(f"memory.{name}_bytes" for name in names)}
    assert shown["missing"]["blocks"] == "QEMU's answer to query-blockstats was not understood"


def test_a_machine_that_is_gone_still_has_a_view():
    shown = gone_document(FACTS, 100.0)
    assert shown["status"] == "gone"
    assert set(shown) == {*view(), "missing"}


def test_the_last_events_are_shown():
    events = tuple((float(number), "STOP", "") for number in range(EVENTS_SHOWN + 5))
    shown = document(Facts(**{**vars(FACTS), "events": events}), answers(), ProcTexts(), 0.0)
    assert [one["time_s"] for one in shown["events"]] == [float(n) for n in range(5, EVENTS_SHOWN + 5)]


def test_disks_cards_translation_and_exits():
    shown = view()
    assert shown["blocks"][0]["device"] == "disk"
    card = {"device": "net", "mac": "52:54:00:e1:be:69", "received_buffers": 40, "sent_buffers": 41}
    assert shown["networks"] == [card]
    assert shown["translation"] == {
        "code_bytes": 5332579,
        "code_limit_bytes": 100658176,
        "blocks": 9268,
        "flushes": 1,
        "invalidations": 0,
    }
    assert shown["exits"] == [{"name": "exits", "count": 12}, {"name": "io_exits", "count": 2}]
    assert shown["migration"]["status"] == "completed"


def test_devices_are_joined_with_their_addresses():
    peripheral = [
        {"name": "type", "type": "string"},
        {"name": "disk", "type": "child<virtio-blk-pci>"},
        {"name": "agent", "type": "child<virtserialport>"},
    ]
    bridge = {"bus": 0, "slot": 1, "function": 0, "qdev_id": "", "class_info": {"desc": "Bridge"}}
    inner = {"bus": 1, "slot": 2, "function": 3, "qdev_id": "disk", "class_info": {"desc": "SCSI controller"}}
    pci = [{"bus": 0, "devices": [bridge | {"pci_bridge": {"devices": [inner]}}]}]
    disk, agent = device_list(peripheral, pci)
    assert (disk["id"], disk["type"], disk["bus"], disk["address"]) == ("disk", "virtio-blk-pci", "pci", "01:02.3")
    assert (agent["bus"], agent["address"]) == ("virtio-serial", None)


def test_pci_functions_are_paired_with_what_the_guest_found():
    found = {one["address"]: one for one in pci_list(recorded("query-pci"), {"00:02.0": {"driver": "virtio-pci"}})}
    assert found["00:02.0"]["guest"] == {"driver": "virtio-pci"}
    assert (found["00:02.0"]["vendor"], found["00:02.0"]["id"]) == ("1af4", "disk")
    assert found["00:00.0"]["guest"] is None


def test_proc_is_read_below_its_root(tmp_path):
    (tmp_path / "7/task/8").mkdir(parents=True)
    (tmp_path / "7/task/8/stat").write_text(STAT)
    assert read_stats(tmp_path, 7, [8, 9]) == {8: STAT}
    assert read_smaps(tmp_path, 7) is None


def test_a_clones_memory_is_its_templates_until_written():
    ram = ram_document(recorded("smaps"), 256 << 20)
    assert (ram["file"], ram["mapped_bytes"]) == ("ram", 256 << 20)
    assert ram["copied_bytes"] == 1324 << 10
    assert ram["template_bytes"] + ram["copied_bytes"] == ram["resident_bytes"] == 24572 << 10
    with pytest.raises(ValueError, match="large"):
        ram_document(recorded("smaps"), 1 << 40)


@pytest.mark.parametrize(
    ("events", "status", "words"),
    [
        (["GUEST_PANICKED action=poweroff", "SHUTDOWN guest=True reason=guest-panic"], 0, "panicked"),
        (["SHUTDOWN guest=True reason=guest-shutdown"], 0, "powered off"),
        (["SHUTDOWN guest=False reason=host-qmp-quit"], 0, "stopped"),
        ([], -9, "signal 9"),
        ([], -6, "signal 6"),
        ([], -7, "was cut short"),
        ([], 1, "status 1"),
    ],
)
def test_why_a_machine_is_gone(events, status, words):
    seen = [(0.0, *(one.split(" ", 1))) for one in events]
    assert words in why_gone(seen, status)
    assert ("OOM" in why_gone(seen, status, {"oom_kills": 1})) == (status == -9)


NOBODY = Inside()


def part(name, given=None, inside=NOBODY):
    return part_document(name, FACTS, given or answers(), recorded("smaps"), inside)


def test_registers_are_text_by_name():
    [cpu] = part("registers")["vcpus"]
    assert (cpu["index"], cpu["ring"], cpu["halted"], cpu["flags"]) == (0, 0, True, "---Z-P-")
    assert cpu["values"]["RIP"] == "ffffffff81a17a0b"
    assert cpu["values"]["R8"] == "ffff88800f622e80"
    assert cpu["values"]["CS"].split() == ["0010", "0000000000000000", "ffffffff", "00af9b00"]
    assert cpu["values"]["GDT"].split() == ["fffffe0000001000", "0000007f"]
    assert cpu["values"]["CR3"] == "0000000005494000"


def test_registers_of_two_and_of_arm():
    two = texts.registers("\nCPU#0\nRAX=00 RBX=01\n\nCPU#1\nRAX=02 RBX=03\n")
    assert [cpu["values"]["RAX"] for cpu in two] == ["00", "02"]
    text = "\nCPU#0\n PC=ffff800008010000 X00=0000000000000000 X01=00ff\n SP=ffff80000a\nPSTATE=600000c5 -ZC- EL1h\n"
    [arm] = texts.registers(text)
    assert (arm["values"]["PC"], arm["values"]["X01"], arm["flags"]) == ("ffff800008010000", "00ff", "-ZC- EL1h")
    assert arm["ring"] is None


def test_the_memory_map():
    found = part("memory")
    assert "missing" not in found
    assert found["summary"] == {"base_bytes": 256 << 20, "plugged_bytes": 0}
    blocks = {one["name"]: one for one in found["blocks"]}
    assert blocks["ram"] == {"name": "ram", "page_bytes": 4096, "used_bytes": 256 << 20, "total_bytes": 256 << 20}
    assert blocks["/rom@etc/acpi/tables"]["total_bytes"] == 2 << 20
    memory = next(one for one in found["spaces"] if one["name"] == "memory")
    first = memory["ranges"][0]
    assert (first["start"], first["kind"], first["name"]) == ("0x0", "ram", "ram")
    assert [one["name"] for one in found["spaces"]].count("I/O") == 1


def test_the_tree_of_devices():
    seen = {"00:02.0": {"driver": "virtio-pci"}}
    found = part("devices", inside=Inside(pci=seen))
    assert "missing" not in found
    types = {one["path"]: one["type"] for one in found["objects"]}
    assert types["/machine/peripheral/disk"] == "virtio-blk-pci"
    assert "memory-region" not in types.values()
    assert found["sockets"][0]["present"]
    assert part("devices")["missing"] == {"pci[].guest": "the guest was not asked"}


def test_queues_and_what_driver_and_device_agreed_on():
    given = answers(**{"x-query-virtio": [{"path": "/machine/peripheral/net/virtio-backend", "name": "virtio-net"}]})
    [status] = queue_questions(given)
    given.keep(status.name, recorded("x-query-virtio-status"))
    asked = queue_questions(given)
    assert [one.arguments["queue"] for one in asked] == [0, 1, 2]
    given.lose(queue_name("net", 2), "QEMU refused")
    [card] = part("queues", given)["devices"]
    assert (card["device"], card["kind"]) == ("net", "virtio-net")
    assert card["driver"][-1] == "DRIVER_OK"
    assert "F_VERSION_1" in card["features"]
    assert card["queues"][0] == {
        "queue": 0,
        "size": 64,
        "ready": True,
        "address": "0x5820000",
        "offered": 23,
        "taken": 23,
        "used": 40,
        "in_use": 0,
    }
    assert card["queues"][2] == {"queue": 2, "missing": "QEMU refused"}


def test_interrupts():
    text = "IRQ statistics for ioapic:\n  4: 12\n 20: 3\nIRQ statistics for isa-i8259:\n 0: 7\n"
    found = part("interrupts", answers(**{"x-query-irq": {"human-readable-text": text}}))
    assert found["lines"] == [
        {"controller": "ioapic", "line": 4, "count": 12},
        {"controller": "ioapic", "line": 20, "count": 3},
        {"controller": "isa-i8259", "line": 0, "count": 7},
    ]
    assert {"pin": 4, "vector": 36, "trigger": "edge", "destination": "1"} in found["routes"]
    assert {"pin": 20, "vector": 46, "trigger": "level", "destination": "1"} in found["routes"]
    assert all(one["pin"] != 0 for one in found["routes"]), "a masked pin leads nowhere"
    assert found["missing"] == {"guest": "the guest was not asked"}


def test_a_part_has_a_unit_for_each_number():
    given = answers(**{"x-query-virtio": []})
    for name in ("memory", "interrupts"):
        inside = Inside(interrupts=[{"line": "4", "count": 2}])
        given.keep("x-query-irq", "IRQ statistics for ioapic:\n 4: 12\n")
        for path in UNITS[name]:
            assert all(isinstance(one, int) for one in numbers_at(part(name, given, inside), path)), path


# -- whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(sorted(path.stem for path in RECORDED.iterdir())), JSON)
def test_junk_for_an_answer_spoils_no_more_than_its_section(name, junk):
    given_ = answers(**{name: junk} if name != "query-status" else {})
    shown = view(given=given_)
    assert json.dumps(shown)
    for each in PARTS:
        assert json.dumps(part(each, given_))


@given(st.sampled_from(["info registers -a", "info pic", "info mtree -f", "info qom-tree"]), st.data())
def test_damaged_text_is_read_or_not_understood(name, data):
    text = recorded(name)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 400)))
    damaged = text[:start] + data.draw(st.text(max_size=30)) + text[end:]
    readers = {"info registers -a": texts.registers, "info pic": texts.routes, "info mtree -f": texts.flat_views}
    found, reason = Answers({name: damaged}).read(readers.get(name, texts.object_tree), name)
    assert (found is None) == bool(reason)


@given(JSON)
def test_a_reader_of_text_raises_nothing_but_what_is_caught(junk):
    for reader in (texts.jit, texts.ram_blocks, texts.interrupts, texts.routes, texts.flat_views, texts.registers):
        _, reason = Answers({"it": junk}).read(reader, "it")
        assert reason


# -- differences


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_a_difference_leads_from_one_to_the_other(old, new):
    assert apply(old, difference(old, new)) == new
    assert difference(new, json.loads(json.dumps(new))) == {}


def test_a_difference_is_small():
    later = document(
        Facts(**{**vars(FACTS), "uptime_s": 2.0, "events": ((2.0, "STOP", ""),)}),
        answers(**{"guest-stats": {**BALLOON, "last-update": 0}}),
        ProcTexts(SMAPS, {1502: STAT.replace("130", "170")}),
        100.5,
    )
    change = difference(view(), later)
    assert change["set"]["/vcpus/0/cpu_s"] == 1.9
    assert change["set"]["/events/0"] == {"time_s": 2.0, "name": "STOP", "detail": ""}
    assert change["set"]["/memory/guest_used_bytes"] is None
    assert difference(later, view())["gone"] == ["/missing"]
    assert len(json.dumps(change)) < 400


# -- asking


class Qemu:
    """Answers from what was recorded; `refused` are commands it does not know."""

    def __init__(self, refused=()):
        self.refused, self.asked = refused, []

    async def __call__(self, command, exact=None, **arguments):
        self.asked.append(command)
        if command in self.refused:
            raise MachineError(f"QEMU refused {command}: unknown")
        if command in ("qom-list", "query-stats"):
            return [] if command == "qom-list" else EXITS
        if command in ("qom-get", "qom-set"):
            return BALLOON
        name = exact["command-line"] if command == "human-monitor-command" else command
        return recorded(name)


def observed(use, refused=(), accelerator="tcg"):
    async def whole():
        qemu, gone = Qemu(refused), asyncio.Event()
        facts = Facts(**{**vars(FACTS), "accelerator": accelerator})
        observer = Observer(qemu, lambda: facts, gone)
        try:
            return await use(qemu, observer, gone)
        finally:
            observer.close()

    return asyncio.run(whole())


def test_what_qemu_refuses_is_missing_and_nothing_else():
    async def use(qemu, observer, gone):
        return await observer.view(PARTS)

    shown = observed(use, ("x-query-jit", "x-query-irq", "query-migrate"))
    assert shown["translation"] is None
    assert shown["missing"]["translation"] == "QEMU refused x-query-jit: unknown"
    assert "TCG" in shown["missing"]["exits"]
    assert shown["parts"]["interrupts"]["missing"]["lines"] == "QEMU refused x-query-irq: unknown"
    assert shown["parts"]["memory"]["blocks"]


def test_under_kvm_exits_take_the_place_of_translation():
    async def use(qemu, observer, gone):
        return await observer.view(), qemu.asked

    shown, asked = observed(use, accelerator="kvm")
    assert "x-query-jit" not in asked
    assert shown["exits"][0] == {"name": "exits", "count": 12}
    assert "KVM" in shown["missing"]["translation"]


def test_a_live_view_asks_little_and_for_all_in_turns():
    async def use(qemu, observer, gone):
        await observer.next()
        turns = []
        for _ in range(TURNS):
            qemu.asked.clear()
            await observer.next()
            turns.append(list(qemu.asked))
        return turns

    turns = observed(use)
    assert sum("query-blockstats" in one for one in turns) == TURNS / 2
    assert sum("x-query-jit" in one for one in turns) == 1
    assert sum("query-migrate" in one for one in turns) == sum("query-status" in one for one in turns) == 1
    assert not any("query-pci" in one for one in turns), "the devices are the same"


def test_an_event_makes_a_live_view_ask_for_the_status():
    async def use(qemu, observer, gone):
        await observer.next()
        qemu.asked.clear()
        observer._facts = lambda: Facts(**{**vars(FACTS), "events": ((1.0, "STOP", ""),)})
        await observer.next()
        return qemu.asked

    assert "query-status" in observed(use)


def test_a_machine_that_ended_while_asked_is_gone():
    async def use(qemu, observer, gone):
        qemu.refused = ("query-status",)
        asyncio.get_running_loop().call_later(0.01, gone.set)
        return await observer.view()

    assert observed(use)["status"] == "gone"


def test_one_question_that_fails_does_not_spoil_the_others():
    async def use():
        found = Answers()
        questions = [Question("a", "query-status"), Question("b", "query-nothing")]
        await ask(Qemu(("query-nothing",)), questions, found)
        return found

    found = asyncio.run(use())
    assert found.values["a"]["status"] == "running"
    assert found.reasons == {"b": "QEMU refused query-nothing: unknown"}


# -- the poller


class Look:
    def __init__(self):
        self.count, self.parts, self.error = 0, [], None

    async def __call__(self, parts):
        if self.error:
            raise self.error
        self.count += 1
        self.parts.append(set(parts))
        found = {"time_s": float(self.count), "same": [1, 2], "vcpus": [{"cpu_s": self.count}]}
        return found | ({"parts": {name: {"turn": self.count} for name in parts}} if parts else {})


def test_the_poller_tells_all_once_and_then_what_changed():
    async def use():
        look = Look()
        poller = Poller(look, 0.01)
        async with poller.follow() as one, poller.follow(["queues"]) as two:
            first, second = await one.next(), await two.next()
            assert first["same"] == [1, 2]
            assert second["parts"] == {"queues": {"turn": 2}}
            change = await one.next()
            assert set(change["set"]) == {"/time_s", "/vcpus/0/cpu_s"}
            seen = json.loads(json.dumps(second))
            for _ in range(8):
                seen = apply(seen, await two.next())
                assert seen == two.document
            assert "parts" not in one.document
            assert seen["parts"]["queues"]["turn"] > 2, "parts are renewed now and then"
            assert sum(map(bool, look.parts)) < len(look.parts) / 2, "but not each time"
        count = look.count
        await asyncio.sleep(0.05)
        assert look.count == count, "nobody looks"

    asyncio.run(use())


def test_an_error_of_the_look_reaches_each_follower_and_a_new_one_may_try_again():
    async def use():
        look = Look()
        poller = Poller(look, 0.01)
        async with poller.follow() as one, poller.follow() as two:
            await one.next()
            await two.next()
            look.error = MachineError("it does not answer")
            for follower in (one, two):
                with pytest.raises(MachineError, match="does not answer"):
                    while True:
                        await follower.next()
        look.error = None
        async with poller.follow() as three:
            assert await three.next()
            assert await three.next()

    asyncio.run(use())


def test_what_is_asked_again_and_is_the_same_is_not_made_again():
    found, made = Answers(), []

    def build(answer):
        made.append(answer)
        return {"is": answer["n"]}

    found.keep("q", {"n": 1})
    first = found.read_once(build, "q")
    found.keep("q", {"n": 1})
    assert found.read_once(build, "q")[0] is first[0]
    found.keep("q", {"n": 2})
    assert found.read_once(build, "q") == ({"is": 2}, "")
    found.lose("q", "no more")
    assert found.read_once(build, "q") == (None, "no more")
    assert made == [{"n": 1}, {"n": 2}]


def test_the_guests_side_is_laid_beside_the_hypervisors_or_says_why_not():
    reason = "the guest was not asked"
    pci = [{"address": "00:01.0", "guest": None}, {"address": "00:02.0", "guest": None}]
    devices = {"pci": pci, "missing": {"pci[].guest": reason, "objects": "not understood"}}
    seen = {"parts": {"devices": devices, "interrupts": {"lines": [], "guest": None, "missing": {"guest": reason}}}}
    told = with_inside(seen, "devices", Inside(pci={"00:01.0": {"driver": "virtio-pci"}}))
    told = with_inside(told, "interrupts", Inside(interrupts=[{"line": "4", "count": 2, "what": "ttyS0"}]))
    assert [one["guest"] for one in told["parts"]["devices"]["pci"]] == [{"driver": "virtio-pci"}, None]
    assert told["parts"]["devices"]["missing"] == {"objects": "not understood"}
    assert told["parts"]["interrupts"] == {"lines": [], "guest": [{"line": "4", "count": 2, "what": "ttyS0"}]}
    silent = with_inside(with_inside(told, "devices", Inside(reason="paused")), "interrupts", Inside(reason="paused"))
    assert silent["parts"]["devices"]["missing"] == {"objects": "not understood", "pci[].guest": "paused"}
    assert silent["parts"]["interrupts"]["missing"] == {"guest": "paused"}
    assert seen["parts"]["devices"]["pci"][0]["guest"] is None, "the poller's own document stays as it is"
