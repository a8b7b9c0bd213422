"""The notebook kernel, started as Jupyter starts it: the extension is there before the first cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from vmcontainer_kernel import doctor, kernel


@pytest.fixture
def client(tmp_path: Path) -> Iterator[BlockingKernelClient]:
    kernel.install(prefix=str(tmp_path))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "share" / "jupyter" / "kernels")], ensure_native_kernel=False)
    manager = KernelManager(kernel_name=kernel.NAME, kernel_spec_manager=specs)
    manager.start_kernel(cwd=str(tmp_path))
    connected = manager.blocking_client()
    connected.start_channels()
    try:
        connected.wait_for_ready(timeout=60)
        yield connected
    finally:
        connected.stop_channels()
        manager.shutdown_kernel()


def outputs(client: BlockingKernelClient, code: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    reply = client.execute_interactive(code, timeout=60, output_hook=lambda message: found.append(message["content"]))
    assert reply["content"]["status"] == "ok", reply["content"]
    return found


def test_the_magics_are_there_without_load_ext(client: BlockingKernelClient) -> None:
    code = "import sys; print(sorted({'vm', 'container', 'lab'} & set(get_ipython().magics_manager.magics['line'])))"
    assert any(content.get("text") == "['container', 'lab', 'vm']\n" for content in outputs(client, code))


def test_lab_doctor_names_every_check(client: BlockingKernelClient) -> None:
    shown = str(outputs(client, "%lab doctor"))
    assert [name for name in doctor.NAMES if name not in shown] == []
