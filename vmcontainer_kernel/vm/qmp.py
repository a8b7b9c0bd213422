"""A machine's monitor: the QEMU Machine Protocol over a socket of ours, with the errors of this project.

    execute("query-status") ─▶ {"execute": "query-status", "id": …} ─▶ QEMU
                            ◀─ {"return": {"status": "running"}}     ◀─
    on_event(name, data, seconds)  ◀─ {"event": "STOP", …}           ◀─   at any time

The protocol itself is the library qemu.qmp's; it is imported when the first machine starts, as that takes 100 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MachineError

if TYPE_CHECKING:
    from qemu.qmp import Message, QMPClient

__all__ = ["Monitor", "OnEvent", "preload"]

OnEvent = Callable[[str, Mapping[str, Any], float], None]

COMMAND_LIMIT_S = 10.0


def preload() -> None:
    """Import the library now (100 ms), so that the first machine need not wait for it."""
    import qemu.qmp  # noqa: F401


class Monitor:
    """One QMP connection, used on one event loop."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client
        # A descriptor travels beside the bytes of the command that takes it: no other may come between.
        self._giving = asyncio.Lock()

    @classmethod
    async def connect(cls, sock: socket.socket, on_event: OnEvent, limit_s: float = COMMAND_LIMIT_S) -> Monitor:
        """Greet the QEMU at the other end of a connected socket and negotiate; the socket is then the monitor's.

        Raises MachineError when QEMU ends, does not answer in `limit_s` seconds or speaks something else.
        """
        client = _client(on_event)
        async with _mapped("connect", limit_s):
            await client.connect(sock)
        return cls(client)

    @property
    def version(self) -> str:
        """QEMU's version, as in ``7.2.22``."""
        greeting = self._client.greeting
        if greeting is None:
            return ""
        found = greeting.QMP.version["qemu"]
        return "{major}.{minor}.{micro}".format_map(found) if isinstance(found, dict) else ""

    async def execute(
        self,
        command: str,
        *,
        limit_s: float = COMMAND_LIMIT_S,
        exact: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Any:
        """Run a command and return its answer; in argument names ``_`` stands for ``-``, but not in those of `exact`.

        Raises MachineError when QEMU refuses, ends before it answers, or answers not in time. The commands are listed
        in the QEMU QMP Reference Manual.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()} | dict(exact or {})
        async with _mapped(command, limit_s):
            return await self._client.execute(command, named or None)

    async def give(self, descriptor: int, name: str) -> None:
        """Pass an open file to QEMU, which then knows it as ``fd:NAME`` (QMP ``getfd``, SCM_RIGHTS of unix(7))."""
        async with self._giving:
            self._client.send_fd_scm(descriptor)
            await self.execute("getfd", fdname=name)

    async def share(self, descriptor: int, number: int) -> str:
        """Pass an open file to QEMU and return the name under which its block nodes open it (QMP ``add-fd``)."""
        async with self._giving:
            self._client.send_fd_scm(descriptor)
            await self.execute("add-fd", fdset_id=number)
        return f"/dev/fdset/{number}"

    async def add_file(self, descriptor: int) -> int:
        """Pass an open file to QEMU; return N of its name ``/dev/fdset/N`` (QMP ``add-fd``)."""
        self._client.send_fd_scm(descriptor)
        return int((await self.execute("add-fd"))["fdset-id"])

    async def close(self) -> None:
        """End the connection; never raises."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.disconnect(), 1.0)


def _client(on_event: OnEvent) -> QMPClient:
    """Return a client that passes events on and keeps none: the library's own listeners keep all that they ever heard,
    and a guest that resets itself in a loop would fill the notebook's memory. Nor does it write each message out for a
    log that nobody reads, which was a quarter of what it costs to look at a machine.
    """
    from qemu.qmp import EventListener, QMPClient

    class Quiet(QMPClient):
        def _cb_outbound(self, msg: Message) -> Message:
            return msg

        def _cb_inbound(self, msg: Message) -> Message:
            return msg

    class Passing(EventListener):
        async def put(self, event: Message) -> None:
            on_event(str(event["event"]), _data(event), _seconds(event))

    client = Quiet()
    client.events.event_filter = lambda event: False  # it cannot be removed
    client.register_listener(Passing())
    return client


def _data(event: Message) -> Mapping[str, Any]:
    data = event.get("data")
    return data if isinstance(data, Mapping) else {}


def _seconds(event: Message) -> float:
    stamp = event.get("timestamp")
    return stamp["seconds"] + stamp["microseconds"] / 1e6 if isinstance(stamp, Mapping) else 0.0


@contextlib.asynccontextmanager
async def _mapped(command: str, limit_s: float) -> AsyncIterator[None]:
    """Turn the library's errors into ours; this is the one border where they are seen."""
    from qemu.qmp import ExecuteError, QMPError

    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        hint = "the host may be overloaded; stop the machine and try again"
        raise MachineError(f"QEMU did not answer {command} in {limit_s:g} s", hint=hint) from error
    except ExecuteError as error:
        raise MachineError(
            f"QEMU refused {command}: {error}", hint="see the machine's state with %vm inspect"
        ) from error
    except (QMPError, OSError, EOFError) as error:
        raise MachineError(f"QEMU ended while it was asked to {command}", hint="start the machine again") from error
