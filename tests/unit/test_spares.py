"""What a container made ahead fits: whatever may come late changes nothing of what was made early."""

from __future__ import annotations

import pytest

from vmcontainer_kernel.container.config import make_config
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.planning import late_steps, plan, surroundings
from vmcontainer_kernel.container.process import program_steps
from vmcontainer_kernel.container.spares import _UNSAID, early, exact_plan, late, may_be_made_ahead, shape_of
from vmcontainer_kernel.container.spec import Spec
from vmcontainer_kernel.container.step import Step

PLACE = ("/run/c1", ("/layers/1",), None)
CHANGES: list[dict[str, object]] = [
    *({"argv": ["ls"], "entrypoint": ["sh"]}, {"argv": ["ls"], "runs_entrypoint": True}, {"env": {"A": "b"}}),
    *({"workdir": "/w"}, {"user": "5:6", "group_add": ["7"]}, {"interactive": True}, {"labels": ["a=b"]}),
    *({"hostname": "h", "domainname": "d"}, {"read_only": True}, {"cap_add": ["ALL"]}, {"cap_drop": ["ALL"]}),
    *({"ulimits": ["nofile=5"]}, {"memory_bytes": 1 << 24, "memory_swap_bytes": 1 << 25}, {"cpus": 0.5}),
    *({"memory_reservation_bytes": 1 << 24}, {"cpu_shares": 5}, {"pids_limit": 5}, {"restart": "always"}),
    *({"stop_signal": "SIGINT"}, {"stop_timeout_s": 3}, {"health": {"argv": ["true"]}}),
    *(
        {"security": ["seccomp=unconfined", "no-new-privileges:false"]},
        {"without": ["caps", "no-new-privs", "seccomp"]},
    ),
]
OTHERS: list[dict[str, object]] = [
    *({"image": "other"}, {"network": "host"}, {"pid": "host"}, {"without": ["uts"]}, {"without": ["mask"]}),
    *({"without": ["devices"]}, {"privileged": True}, {"security": ["systempaths=unconfined"]}, {"tmpfs": ["/t"]}),
    *({"shm_size_bytes": 1 << 16}, {"oom_score_adj": 5}, {"sysctls": ["net.ipv4.ip_forward=1"]}, {"cpuset_cpus": "0"}),
]


def asked(change: dict[str, object]) -> Options:
    return Options.from_json({"argv": ["true"], **change})


def spec_of(options: Options) -> Spec:
    return parse(make_config(options, {}, name="c1", cgroups_path="/vmcontainer/s/c1"))


def told(steps: list[Step]) -> list[dict[str, str]]:
    return [step.describe() for step in steps]


def test_every_option_that_may_come_late_is_tried_here() -> None:
    assert {name for change in CHANGES for name in change} == {*_UNSAID, "without", "security"}


@pytest.mark.parametrize("change", CHANGES, ids="-".join)
def test_what_comes_late_leaves_what_is_around_the_process_as_it_is(change: dict[str, object]) -> None:
    plain, options = asked({}), asked(change)
    assert shape_of(options) == shape_of(plain)
    assert early(spec_of(options)) == early(spec_of(plain))


@pytest.mark.parametrize("change", OTHERS, ids="-".join)
def test_anything_else_is_another_shape(change: dict[str, object]) -> None:
    assert shape_of(asked(change)) != shape_of(asked({}))


@pytest.mark.parametrize("change", CHANGES, ids="-".join)
def test_the_two_halves_are_the_plan(change: dict[str, object]) -> None:
    spec = spec_of(asked(change))
    halves = [*surroundings(early(spec), *PLACE), *late_steps(late(spec), seccomp=())]
    assert told(halves) == told(plan(spec, *PLACE, seccomp=()))
    *before, wait = exact_plan(spec, *PLACE, (), filtered=False)
    assert wait.name == "wait"
    assert told([*before, *program_steps(spec.process)]) == told(plan(spec, *PLACE, seccomp=()))


@pytest.mark.parametrize(
    "change",
    [
        *({"volumes": ["a:/a"]}, {"devices": ["/dev/fuse"]}, {"tty": True}, {"network": "lab"}, {"publish": ["80"]}),
        *({"ipc": "container:web"}, {"network": "container:web"}, {"add_host": ["a:1.2.3.4"]}),
    ],
    ids="-".join,
)
def test_what_may_be_another_one_by_then_is_not_made_ahead(change: dict[str, object]) -> None:
    assert may_be_made_ahead(shape_of(asked({})))
    assert not may_be_made_ahead(shape_of(asked(change)))
