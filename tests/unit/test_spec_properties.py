"""Any configuration that is right is read, any one wrong member is named, and nothing else ever comes out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.oci_documents import FULL
from vmcontainer_kernel.container.linux import CAPABILITIES
from vmcontainer_kernel.container.parsing import parse, parse_process
from vmcontainer_kernel.container.spec import Process, Spec
from vmcontainer_kernel.errors import SpecError

# -- what is right

words = st.text("abcxyz0189_-", min_size=1, max_size=6)
texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8)
paths = st.lists(words, max_size=3).map(lambda parts: "/" + "/".join(parts))
variables = st.builds("{}={}".format, words, texts)
ids = st.integers(0, 2**32 - 2)
numbers = st.integers(0, 2**32 - 1)
wide = st.integers(0, 2**64 - 1)
times = st.integers(1000, 1_000_000)
limits = st.one_of(st.integers(4096, 2**63 - 1), st.just(-1), st.just(0))
cpus = st.sampled_from(["", "0", "0-3", "1,3-4"])
mappings = st.lists(
    st.builds(
        lambda inside, outside, size: {"containerID": inside, "hostID": outside, "size": size},
        st.integers(0, 2**31),
        st.integers(0, 2**31),
        st.integers(1, 2**31 - 1),
    ),
    min_size=1,
    max_size=2,
)


def may(**members: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """Members that may be null, which counts as absent."""
    return {name: st.none() | value for name, value in members.items()}


def record(must: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(must, optional=may(**optional))


def some(value: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(value, max_size=2)


@st.composite
def capability_sets(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [f"CAP_{name}" for name in CAPABILITIES]
    permitted = draw(st.lists(st.sampled_from(names), max_size=4))
    within = st.lists(st.sampled_from(permitted), max_size=3) if permitted else st.just([])
    return {
        "bounding": draw(st.lists(st.sampled_from(names), max_size=4)),
        "permitted": permitted,
        "effective": draw(within),
        "inheritable": permitted,
        "ambient": draw(within),
    }


rlimits = st.lists(
    st.tuples(st.sampled_from(["NOFILE", "CORE", "AS", "RTTIME"]), wide, wide).map(
        lambda one: {"type": f"RLIMIT_{one[0]}", "soft": min(one[1:]), "hard": max(one[1:])}
    ),
    max_size=3,
    unique_by=lambda one: one["type"],
)
schedulers = st.one_of(
    record({"policy": st.sampled_from(["SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE"])}, nice=st.integers(-20, 19)),
    record({"policy": st.sampled_from(["SCHED_FIFO", "SCHED_RR"]), "priority": st.integers(1, 99)}),
    st.lists(st.integers(1024, 2**63 - 1), min_size=3, max_size=3)
    .map(sorted)
    .map(lambda ns: {"policy": "SCHED_DEADLINE", "runtime": ns[0], "deadline": ns[1], "period": ns[2]}),
)
processes = record(
    {"args": st.tuples(words, texts).map(list), "cwd": paths},
    env=some(variables),
    terminal=st.booleans(),
    consoleSize=record({"height": st.integers(0, 65535), "width": st.integers(0, 65535)}),
    user=record({"uid": ids, "gid": ids}, umask=st.integers(0, 0o777), additionalGids=some(ids)),
    capabilities=capability_sets(),
    rlimits=rlimits,
    noNewPrivileges=st.booleans(),
    oomScoreAdj=st.integers(-1000, 1000),
    scheduler=schedulers,
    ioPriority=record({"class": st.just("IOPRIO_CLASS_IDLE"), "priority": st.integers(0, 7)}),
    execCPUAffinity=record({}, initial=cpus, final=cpus),
)
mounts = st.one_of(
    record({"destination": paths, "type": words}, source=texts, options=some(words)),
    record({"destination": words, "source": words, "options": st.just(["rbind", "ro"])}, type=words),
    mappings.flatmap(
        lambda ids: record({"destination": paths, "type": st.just("bind"), "source": paths}).map(
            lambda one: one | {"uidMappings": ids, "gidMappings": ids}
        )
    ),
)
hooks = some(record({"path": paths}, args=some(texts), env=some(variables), timeout=st.integers(1, 2**31 - 1)))
disks = {"major": numbers, "minor": numbers}
rates = some(record({**disks, "rate": wide}))
weights = st.integers(10, 1000) | st.just(0)
resources = record(
    {},
    memory=record(
        {}, limit=limits, reservation=limits, swap=st.just(-1), kernelTCP=limits, swappiness=st.integers(0, 100)
    ),
    cpu=record(
        {},
        shares=wide,
        quota=st.integers(1000, 2**40) | st.just(-1),
        burst=st.integers(0, 1000),
        period=times,
        cpus=cpus,
        mems=cpus,
        idle=st.integers(0, 1),
    ),
    pids=record({"limit": st.integers(-5, 2**22)}),
    blockIO=record({}, weight=weights, weightDevice=some(record({**disks, "weight": st.integers(10, 1000)})))
    | record({}, throttleReadBpsDevice=rates, throttleWriteIOPSDevice=rates),
    hugepageLimits=some(record({"pageSize": st.sampled_from(["64KB", "2MB", "1GB"]), "limit": wide})),
    network=record({}, classID=numbers, priorities=some(record({"name": words, "priority": numbers}))),
    rdma=st.dictionaries(words, record({"hcaHandles": numbers}, hcaObjects=numbers), max_size=2),
    devices=some(record({"allow": st.booleans()}, type=st.sampled_from("abc"), access=st.sampled_from(["r", "rwm"]))),
    unified=st.dictionaries(st.builds("{}.{}".format, words, words), texts, max_size=2),
)
rules = some(
    st.one_of(
        record(
            {"names": st.lists(words, min_size=1, max_size=3), "action": st.just("SCMP_ACT_ALLOW")},
            args=some(
                record(
                    {"index": st.integers(0, 5), "value": wide, "op": st.sampled_from(["SCMP_CMP_EQ", "SCMP_CMP_NE"])},
                    valueTwo=wide,
                )
            ),
        ),
        record({"names": st.just(["x"]), "action": st.just("SCMP_ACT_ERRNO")}, errnoRet=st.integers(0, 4095)),
    )
)
seccomps = record(
    {"defaultAction": st.sampled_from(["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ALLOW"])},
    architectures=some(st.sampled_from(["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"])),
    listenerPath=paths,
    syscalls=rules,
)


@st.composite
def linux_parts(draw: st.DrawFn) -> dict[str, Any]:
    kinds = draw(st.sets(st.sampled_from(["pid", "network", "ipc", "user", "cgroup", "time"])))
    document: dict[str, Any] = draw(
        record(
            {},
            devices=some(
                record(
                    {
                        "path": paths,
                        "type": st.sampled_from("bcu"),
                        "major": st.integers(0, 4095),
                        "minor": st.integers(0, 2**20 - 1),
                    },
                    fileMode=st.integers(0, 0o7777),
                )
            ),
            cgroupsPath=paths,
            resources=resources,
            seccomp=seccomps,
            maskedPaths=some(paths),
            readonlyPaths=some(paths),
            rootfsPropagation=st.sampled_from(["", "private", "rslave", "unbindable"]),
            personality=record({"domain": st.sampled_from(["LINUX", "LINUX32"])}),
        )
    )
    document["namespaces"] = [{"type": kind} for kind in ("mount", "uts", *sorted(kinds))]
    if "user" in kinds:
        document["uidMappings"], document["gidMappings"] = draw(mappings), draw(mappings)
    if "time" in kinds:
        document["timeOffsets"] = {"boottime": {"secs": draw(st.integers(-(2**63), 2**63 - 1))}}
    if "network" in kinds:
        document["sysctl"] = {"net.core.somaxconn": draw(texts)}
    return document


configurations = record(
    {
        "ociVersion": st.sampled_from(["1.0.0", "1.0.2-dev", "1.2.0", "1.2.1+build.5"]),
        "root": record({"path": words | paths}, readonly=st.booleans()),
        "process": processes,
        "linux": linux_parts(),
    },
    hostname=words,
    domainname=words,
    mounts=some(mounts),
    hooks=record({}, prestart=hooks, createContainer=hooks, poststop=hooks),
    annotations=st.dictionaries(words, texts, max_size=2),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(configurations)
def test_what_is_right_is_read(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    assert isinstance(parse(document), Spec)
    assert document == before, "reading changes nothing"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(processes)
def test_a_process_that_is_right_is_read(document: dict[str, Any]) -> None:
    assert isinstance(parse_process(document), Process)


# -- what is wrong

Spot = tuple[str | int, ...]


def spots(value: Any, path: Spot = ()) -> list[Spot]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, inner in below for spot in spots(inner, (*path, key)))]


def name(spot: Spot) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in spot).removeprefix(".")


def replaced(spot: Spot, value: Any) -> Any:
    document: Any = copy.deepcopy(FULL)
    place = document
    for part in spot[:-1]:
        place = place[part]
    place[spot[-1]] = value
    return document


def at(spot: Spot) -> Any:
    value: Any = FULL
    for part in spot:
        value = value[part]
    return value


SPOTS = [spot for spot in spots(FULL) if spot]
SAID = [spot for spot in SPOTS if at(spot) is not None]


def refused(document: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(document)
    assert caught.value.message.startswith(caught.value.where)
    assert len(caught.value.message) < 900
    return caught.value


def test_a_member_of_a_wrong_type_is_named() -> None:
    for spot in SAID:
        right = at(spot)
        for wrong in (7.5, True, "x", [], {}, 10**5000):
            empty = wrong in ([], {}, "") and not right
            if type(wrong) is not type(right) and not empty:
                assert refused(replaced(spot, wrong)).where == name(spot)


def test_a_number_out_of_range_is_named() -> None:
    for spot in (spot for spot in SAID if type(at(spot)) is int):
        for wrong in (-(2**64), 2**64):
            assert refused(replaced(spot, wrong)).where == name(spot)


def test_a_misspelt_member_is_an_error_or_a_warning() -> None:
    maps = ("annotations", "unified", "rdma", "sysctl", "timeOffsets")
    for *parents, last in (spot for spot in SAID if isinstance(spot[-1], str)):
        if parents and parents[-1] in maps:
            continue
        document = replaced((*parents, f"{last}X"), at((*parents, last)))
        assert refused(document).where == name((*parents, f"{last}X"))
        warnings: list[str] = []
        assert parse(document, warnings) == parse(FULL)
        assert [warning.split()[0] for warning in warnings] == [name((*parents, f"{last}X"))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(spot=st.sampled_from(SPOTS), value=JSON, lenient=st.booleans())
def test_whatever_stands_in_a_place_gives_a_spec_or_a_spec_error(spot: Spot, value: Any, lenient: bool) -> None:
    try:
        assert isinstance(parse(replaced(spot, value), [] if lenient else None), Spec)
    except SpecError as error:
        assert error.message and error.where


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_document_gives_a_spec_error(document: Any) -> None:
    with pytest.raises(SpecError):
        parse(document)
    with pytest.raises(SpecError):
        parse_process(document)


def test_a_document_nested_without_end_is_a_spec_error() -> None:
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    for spot in (("linux", "intelRdt"), ("process", "args", 0), ("linux", "resources", "memory", "limit"), ("root",)):
        with pytest.raises(SpecError):
            parse(replaced(spot, deep))


def test_reading_a_thousand_times_as_much_takes_no_longer_each() -> None:
    """Not a matter of time: a list of 100 000 names would never end if each looked through all the others."""
    many = [f"call{number}" for number in range(100_000)]
    document = replaced(("linux", "seccomp", "syscalls", 0, "names"), many)
    seccomp = parse(document).linux.seccomp
    assert seccomp and len(seccomp.rules[0].names) == len(many)
