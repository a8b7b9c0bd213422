"""A command's answer, as a node that cannot be trusted may give it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vmcontainer_kernel.errors import ProtocolError
from vmcontainer_kernel.run import Run


class Answered:
    """A request that has its answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.done.set_result(answer)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def run(loop: asyncio.AbstractEventLoop, answer: dict[str, Any]) -> Run:
    async def start(_: Run) -> Any:
        return Answered(answer)

    return Run(loop, "machine vm", start)


@pytest.mark.parametrize("answer", [{}, {"status": None}, {"status": "0"}, {"signal": 9}])
def test_an_answer_without_a_status_is_refused(loop: asyncio.AbstractEventLoop, answer: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="without a status"):
        run(loop, answer).answer.result(5)


def test_a_signal_that_does_not_exist_is_named_by_its_number(loop: asyncio.AbstractEventLoop) -> None:
    command = run(loop, {"status": 255, "signal": 999})
    assert command.answer.result(5)["status"] == 255
    failure = command.failure(255, 999)
    assert failure is not None
    assert "signal 999" in failure.message
