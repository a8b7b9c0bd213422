"""Cells that make no sense, at the real magics of one live kernel: each ends at once in an error of ours that names
what is wrong in a few words, and leaves nothing behind, on this computer and in a machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notebooks import Notebook, sessions, wait_until_nothing_is_left

LIMIT_S = 5.0  # a patient clock's; the first that gets as far as a guest's engine waits for its import
MANY = "9" * 4000
CONTAINERS = (
    *(f"--memory {size}" for size in (MANY, "-5", "1e999g", "''", "nan", "0")),
    *("--cpus inf", "--cpus -0", "--pids-limit 0", f"--pids-limit {MANY}", "--shm-size 1", f"--ulimit nofile={MANY}"),
    *("--name 'ä b'", f"--name {'x' * 5000}", "--name ../../etc", "--name -rf", f"--hostname {'h' * 300}"),
    *("--image 이미지", f"--image {'a/' * 3000}b", "--entrypoint ./no/such", "--entrypoint /etc"),
    *("--volume /no/such:/x", "--volume :", "--volume /tmp:relative", "--volume '/tmp:/a\\nb:zz'"),
    *("--workdir relative", "--user nobody-such", "--user 99999999999999", "--user 0:0:0"),
    *("--network nosuch", "-p 99999:1", "-p ::::", "-p ８０", "--device /dev/nosuch", "--stop-signal FLY"),
    *("--cap-add EVERYTHING", "--env =x", "--timeout -1", f"--timeout {MANY}x", "--nosuch", "--unclosed 'quote"),
    *("--time-offset 5", "--sysctl x=y", "--cpuset-cpus 4000-9000"),
)
LINES = (
    *("exec {} nosuch true", "stop {} nosuch -t " + MANY, "logs {} nosuch -n -5", "kill {} nosuch -s 999"),
    *("cp {} nosuch:/x .", "cp {} /no/such c:/x", "cp {} a:/b c:/d", "update {} nosuch --memory 1g", "port {} nosuch"),
    *("network create {} 'a b'", "network rm {} nosuch", "volume inspect {} nosuch", "inspect {} ''", "wait {} 이름"),
    *("nosuchverb {}", "rm {} " + " ".join(f"c{number}" for number in range(300))),
)
MACHINES = (
    *("%%vm " + "v" * 300, "%%vm 'a b'", "%%vm --memory 1k", f"%%vm x --memory {MANY}", "%%vm x --cpus 0"),
    *("%%vm x --cpus 99999", "%%vm x --system nosuch", "%%vm x --volume nothing", "%%vm x --disk nosuch:/x"),
    *(
        "%%vm x --timeout abc",
        "%%vm x -p 99999:1",
        "%vm update nosuch --memory 1g",
        "%vm key nosuch f2",
        "%vm rm nosuch",
    ),
    *(
        "%vm snapshot nosuch '../x'",
        "%vm disk create ../x --size 1g",
        f"%vm disk create x --size {MANY}",
        "%vm type nosuch",
    ),
    *("%vm cp nosuch:/no/such .", "%vm console nosuch", "%lab nosuchverb", "%lab replay /no/such"),
    *("%%lab compare --rounds 0", "%%lab peel --without nosuch"),
)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    base = tmp_path_factory.mktemp("absurd")
    notebook = Notebook(base, base / "run")
    yield notebook
    ids = sessions(base / "run")
    notebook.close()
    wait_until_nothing_is_left(base / "run", ids, 20.0)
    assert [path.name for path in base.iterdir() if path.name != "run"] == []


def refused(notebook: Notebook, code: str) -> str:
    """Return what is wrong with a cell's end, or nothing."""
    cell = notebook.cell(f"{code}\ntrue" if code.startswith("%%") else code)
    shown = cell.failure
    faults = {
        "no error": not cell.error,
        "not ours": "Traceback" in shown or 'File "' in shown,
        "no word of what to do": "\n" not in shown and len(shown) < 20,
        "long": len(shown) > 1500,
        "late": cell.patient_s > LIMIT_S,
    }
    found = [name for name, is_so in faults.items() if is_so]
    return f"{code[:80]!r}: {found} {cell.patient_s:.1f} s {shown[:300]!r}" if found else ""


def check(notebook: Notebook, codes: list[str]) -> None:
    assert [fault for code in codes if (fault := refused(notebook, code))] == []


def of_containers(node: str) -> list[str]:
    on = f"--on {node}"
    return [f"%%container {on} {line}" for line in CONTAINERS] + [f"%container {line.format(on)}" for line in LINES]


@pytest.mark.needs("containers-on-host")
def test_on_this_computer(notebook: Notebook) -> None:
    check(notebook, of_containers("host"))
    assert "no containers" in notebook.ok("%container ls --on host").text


@pytest.mark.needs("qemu")
def test_of_machines(notebook: Notebook) -> None:
    check(notebook, [*MACHINES])
    shown = notebook.ok("%vm ls").text.splitlines()
    assert [line.split()[0] for line in shown[1:]] in ([], ["vm"])


@pytest.mark.needs("qemu")
def test_in_a_machine(notebook: Notebook) -> None:
    notebook.ok("%%vm\ntrue", 120)
    notebook.ok("%%container --on vm\ntrue", 120)
    check(notebook, of_containers("vm"))
    assert "no containers" in notebook.ok("%container ls --on vm").text
