"""The rootless ladder in a notebook: what its cells can do on each rung, what they tell, and that nothing is left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.node.test_rootless import COVER_PROC, COVER_SYS, FIRST, NO_RANGES, RANGES
from tests.notebooks import left_behind, wait_until_nothing_is_left
from tests.ordinary_user import FIRST_LIMIT_S, User
from tests.patience import now_s
from vmcontainer_kernel.container.ladder import BOUND, ID_RANGES, ONE_ID

END_LIMIT_S = 5.0

pytestmark = [
    pytest.mark.needs("containers-on-host", "user-namespaces"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    user = User(tmp_path_factory.mktemp("cells"), machines=False)
    yield user
    assert not left_behind(user.run, [])


def test_what_one_id_loses_is_told_once(user: User) -> None:
    first, second, limited, refused = user.cells(
        "%%container --on host\nid -u",
        "%%container --on host\nid -u",
        "%%container --on host --memory 64m\nulimit -v",
        "%%container --on host --user guest\ntrue",
        before=NO_RANGES,
    )
    assert [one["out"] for one in (first, second)] == ["0\n", "0\n"]
    assert first["err"].startswith("[host] warning: containers here: ") and first["err"].count("\n") == 1
    assert ID_RANGES.lost in first["err"] and f"{ONE_ID.lost} (/etc/subuid gives nobody no range)" in first["err"]
    assert "no control groups" in first["err"]
    assert second["err"] == ""
    assert limited["out"] == "65536\n" and "addresses of each process" in limited["err"]
    assert refused["error"] == "HostError" and "/etc/subuid gives nobody no range" in refused["text"]


def test_with_ranges_files_of_all_users_can_be_looked_at_copied_and_committed(user: User) -> None:
    (user.folder / "note").write_text("hello\n")
    cells = [
        "%%container one\numask 077; mkdir /home/guest/d; echo secret > /home/guest/d/f; chown -R guest /home/guest/d",
        "%%container one --user guest\nid -un; cat ~/d/f",
        "%container diff one",
        f"%container cp one:/home/guest/d {user.folder}/copied",
        f"%container cp {user.folder}/note one:/home/guest/d/note",
        "%%container one --user guest\ncat ~/d/note",
        "%container commit one mine",
        "%%container --image mine --user guest\ncat ~/d/f; stat -c %U ~/d",
        "%%container --volume kept:/v\nmkdir -m 700 /v/d; touch /v/d/f; chown -R guest /v/d",
        "%container volume rm kept",
        "%container stop one\n",
        f"%container cp one:/home/guest/d/f {user.folder}/stopped",
        "%container rm one",
        "%container rmi mine",
    ]
    answers = user.cells(*cells, before=RANGES, new_privs=True)
    assert [(cell, one["text"]) for cell, one in zip(cells, answers, strict=True) if one["error"]] == []
    assert "id ranges" not in answers[0]["err"] and ID_RANGES.lost in answers[0]["err"]
    assert answers[1]["out"] == "guest\nsecret\n"
    assert "/home/guest/d/f" in answers[2]["out"]
    assert (user.folder / "copied/f").read_text() == (user.folder / "stopped").read_text() == "secret\n"
    assert answers[5]["out"] == "hello\n"
    assert answers[7]["out"] == "secret\nguest\n"
    assert not (user.folder / "cache/volumes/kept").exists()
    layers = [*(user.folder / f"cache/images/unpacked/ids-{FIRST}").iterdir()]
    assert len(layers) == 1 and [*user.run.iterdir()] == []


def test_a_killed_notebook_leaves_no_files_of_sub_ids(user: User) -> None:
    ready = user.folder / "ready"
    cells = ["%%container web\numask 077; mkdir /d; touch /d/f; chown -R 9:9 /d", "%%container --bg\nsleep 1000"]
    wait = f"open({str(ready)!r}, 'w').close(); import time; time.sleep(1000)"
    with user.start(*cells, wait, before=RANGES, new_privs=True) as process:
        deadline_s = now_s() + FIRST_LIMIT_S
        while not ready.exists():
            assert process.poll() is None and now_s() < deadline_s
            time.sleep(0.05)
        [upper] = user.run.glob("*/containers/web/upper/d")
        assert upper.stat().st_uid == FIRST + 8
        process.kill()
        process.communicate()
    wait_until_nothing_is_left(user.run, [], END_LIMIT_S)


def test_in_a_pod_the_nodes_proc_is_told(user: User) -> None:
    pod = f"{RANGES} && {COVER_PROC} && {COVER_SYS}"
    seen, doctor = user.cells("%%container --on host\necho $$; ls -d /proc/1", "%lab doctor", before=pod)
    assert seen["out"].split() == ["1", "/proc/1"]
    assert BOUND.lost in seen["err"] and "no_new_privs is set" in seen["err"]
    assert "rung 4 of 5" in doctor["out"] and "not one id: no fresh /proc" in doctor["out"]


def test_a_cell_is_compared_with_the_rights_of_its_user(user: User) -> None:
    (told,) = user.cells("%%lab compare --rounds 1 --only process,container\necho here")
    process, container = told["out"].splitlines()[1:3]
    assert "read a file of this notebook" in process and "set the clock" not in process
    assert "read a file of this notebook" not in container and "set the clock" not in container
