"""The ladder as data: ids that are set aside, what a footing says, what is lost on each rung."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reach import open_to_all
from vmcontainer_kernel.container import ids, trial
from vmcontainer_kernel.container.checks import check_user, without_groups
from vmcontainer_kernel.container.config import make_config
from vmcontainer_kernel.container.ids import Ids, Steward, own_ids, read_ranges, subordinate_ids
from vmcontainer_kernel.container.ladder import BOUND, GUEST, ID_RANGES, ONE_ID, RUNGS, Footing, assumed, losses
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.spec import IdMapping, User
from vmcontainer_kernel.container.trial import Outcome, climb
from vmcontainer_kernel.errors import ContainerError, HostError

RANGES = Ids((IdMapping(0, 5, 1), IdMapping(1, 1000, 100)), (IdMapping(0, 6, 1), IdMapping(1, 2000, 50)))
ALONE = own_ids(5, 6)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann:1000:10\nbob:5000:3\n5:7000:2\n", [(1000, 10), (7000, 2)]),
        ("ann:1000:0\nann:x:3\nann:5\nann\n\n# ann:1:1\n", []),
        ("annie:1:1\n55:1:1\n", []),
        ("ann:1:1\n" * 500, [(1, 1)] * 339),
    ],
)
def test_ranges_of_a_user(text: str, found: list[tuple[int, int]]) -> None:
    assert read_ranges(text, ("5", "ann")) == found


def test_ranges_follow_one_another_inside(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("4242:1000:10\n4242:9000:5\n")
    (tmp_path / "subgid").write_text("4242:2000:7\n")
    found = subordinate_ids(4242, 43, str(tmp_path))
    assert found.uids == (IdMapping(0, 4242, 1), IdMapping(1, 1000, 10), IdMapping(11, 9000, 5))
    assert found.gids == (IdMapping(0, 43, 1), IdMapping(1, 2000, 7))
    assert found.lacks((0, 15), (0, 7)) == ""
    assert (found.lacks((16,), ()), found.lacks((), (0, 8))) == ("uid 16", "gid 8")


@pytest.mark.parametrize("lacking", ["subuid", "subgid"])
def test_both_kinds_of_range_are_needed(tmp_path: Path, lacking: str) -> None:
    other = {"subuid": "subgid", "subgid": "subuid"}[lacking]
    (tmp_path / other).write_text("4242:1000:10\n")
    with pytest.raises(HostError, match=f"{lacking} gives 4242 no range") as caught:
        subordinate_ids(4242, 43, str(tmp_path))
    assert f"usermod --add-{lacking}s" in caught.value.hint


@pytest.mark.parametrize("footing", [Footing(), Footing(BOUND.name, RANGES, ("/proc",), (("root", "why"),)), assumed()])
def test_a_footing_can_be_kept(footing: Footing) -> None:
    assert Footing.from_json(footing.to_json()) == footing
    assert RUNGS[footing.number - 1].name == footing.rung


def test_each_rung_says_what_is_lost() -> None:
    assert losses(Footing()) == []
    assert losses(Footing(), "none here") == ["no control groups: none here"]
    assert losses(Footing(ID_RANGES.name, RANGES)) == [ID_RANGES.lost]
    why = ((ID_RANGES.name, "no range"),)
    assert losses(Footing(ONE_ID.name, ALONE, why=why)) == [ID_RANGES.lost, f"{ONE_ID.lost} (no range)"]
    assert losses(Footing(BOUND.name, RANGES, ("/proc", "/sys"))) == [ID_RANGES.lost, BOUND.lost]
    assert any("/sys" in line for line in losses(Footing(ID_RANGES.name, RANGES, ("/sys",))))


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An ordinary user, whose trials are told rather than made."""
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    monkeypatch.setattr(os, "getegid", lambda: 6)
    monkeypatch.setattr(trial, "subordinate_ids", lambda uid, gid: RANGES)
    return monkeypatch


@pytest.mark.parametrize(
    ("several", "alone", "rung", "ids_found", "refused"),
    [
        (Outcome(), Outcome("never"), ID_RANGES, RANGES, []),
        (Outcome("EPERM 1"), Outcome(), ONE_ID, ALONE, [ID_RANGES]),
        (Outcome("", ("/proc",)), Outcome("never"), BOUND, RANGES, [ID_RANGES, ONE_ID]),
        (Outcome("EPERM 1"), Outcome("", ("/proc", "/sys")), BOUND, ALONE, [ID_RANGES, ONE_ID]),
        (Outcome("", ("/sys",)), Outcome("never"), ID_RANGES, RANGES, []),
        (Outcome("EPERM 1"), Outcome("EPERM 2"), GUEST, None, [ID_RANGES, ONE_ID, BOUND]),
    ],
)
def test_the_highest_rung_that_holds(
    ordinary: pytest.MonkeyPatch, several: Outcome, alone: Outcome, rung: object, ids_found: Ids, refused: list[object]
) -> None:
    ordinary.setattr(trial, "try_out", lambda found: several if found.several else alone)
    found = climb()
    assert (found.rung, found.ids) == (rung.name, ids_found)  # type: ignore[attr-defined]
    assert [name for name, _ in found.why] == ["root", *(one.name for one in refused)]  # type: ignore[attr-defined]
    assert all(reason for _, reason in found.why)


def test_without_ranges_one_id_is_tried_alone(ordinary: pytest.MonkeyPatch) -> None:
    def none(uid: int, gid: int) -> Ids:
        raise HostError("no range for you")

    tried = []
    ordinary.setattr(trial, "subordinate_ids", none)
    ordinary.setattr(trial, "try_out", lambda found: tried.append(found) or Outcome())
    assert climb().reason_against(ID_RANGES) == "no range for you"
    assert tried == [ALONE]


def test_users_a_container_does_not_have() -> None:
    check_user(User(1000, 1000), "ann", Footing())
    check_user(User(100, 50, additional_gids=(7,)), "ann", Footing(ID_RANGES.name, RANGES))
    for user in (User(101, 0), User(0, 51), User(0, 0, additional_gids=(51,))):
        with pytest.raises(HostError, match="up to 100, and ann is"):
            check_user(user, "ann", Footing(ID_RANGES.name, RANGES))
    with pytest.raises(HostError, match="one user, root, not ann: no range"):
        check_user(User(7, 7), "ann", Footing(ONE_ID.name, ALONE, why=((ID_RANGES.name, "no range"),)))


def test_the_configuration_follows_the_footing() -> None:
    options = Options(argv=("true",))
    spec = parse(make_config(options, {}, footing=Footing(BOUND.name, RANGES, ("/proc",))))
    assert (spec.linux.uid_mappings, spec.linux.gid_mappings) == (RANGES.uids, RANGES.gids)
    by_place = {one.destination: one for one in spec.mounts}
    assert by_place["/proc"].type == "bind" and {"rbind", "rro"} <= set(by_place["/proc"].options)
    assert by_place["/sys"].type == "sysfs" and "gid=5" in by_place["/dev/pts"].options
    alone = parse(make_config(options, {}, footing=Footing(ONE_ID.name, ALONE, ("/sys",))))
    by_place = {one.destination: one for one in alone.mounts}
    assert by_place["/proc"].type == "proc" and by_place["/sys"].type == "bind"
    assert not any(one.startswith("gid=") for one in by_place["/dev/pts"].options)


def test_limits_of_processes_instead_of_groups() -> None:
    spec = parse(make_config(Options(argv=("true",), memory_bytes=1 << 26, pids_limit=9), {}))
    limited, [told] = without_groups(spec)
    assert {one.type for one in limited.process.rlimits} == {"RLIMIT_AS", "RLIMIT_NPROC"} and "each process" in told
    plain = parse(make_config(Options(argv=("true",)), {}))
    assert without_groups(plain) == (plain, ())


def test_a_steward_of_one_id_does_things_itself(tmp_path: Path) -> None:
    steward = Steward(ALONE)
    assert (steward.ids, steward.layers) == (None, "sha256")
    assert steward.do(os.getpid) == os.getpid()
    (tmp_path / "a/b").mkdir(parents=True)
    steward.remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root maps any id")
def test_a_steward_does_things_in_a_child_and_tells_what_came_of_it(tmp_path: Path) -> None:
    steward = Steward(Ids(*[(IdMapping(0, 5, 1), IdMapping(1, 1000, 100))] * 2))
    assert steward.layers == "ids-1000"
    tmp_path.chmod(0o777)
    seen = steward.do(lambda: [os.getpid(), os.getuid(), Path("/proc/self/uid_map").read_text().split()])
    assert seen[0] != os.getpid() and seen[1:] == [0, ["0", "5", "1", "1", "1000", "100"]]

    def give() -> None:
        (tmp_path / "file").touch()
        os.chown(tmp_path / "file", 7, 8)

    mode = tmp_path.stat().st_mode
    open_to_all(tmp_path)
    tmp_path.chmod(mode)
    steward.do(give)
    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid) == (1006, 1007)

    def lose() -> None:
        raise ContainerError("lost", hint="look", where="here")

    with pytest.raises(ContainerError, match="lost") as caught:
        steward.do(lose)
    assert (caught.value.hint, caught.value.where) == ("look", "here")
    with pytest.raises(FileNotFoundError, match="/no/such"):
        steward.do(lambda: Path("/no/such").rmdir())
    with pytest.raises(HostError, match="wait status 9"):
        steward.do(lambda: os.kill(os.getpid(), 9))
    assert ids.Steward().do(lambda: 3) == 3
