"""How much of a container this user can have on this node: a ladder, and what is lost at each rung.

    root          namespaces of the node's own root
    id ranges     a user namespace: root is this user, and the others are ids set aside for him (newuidmap(1))
    one id        a user namespace with root alone
    node's /proc  as the two above, but part of /proc is covered here, so that no fresh one may be mounted
    guest         no namespaces at all: the default node becomes a machine

Which rung holds is found out by stepping on it (`trial`); no setting of the system tells the truth.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.container.ids import Ids, own_ids
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import IdMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BOUND", "GUEST", "ID_RANGES", "ONE_ID", "ROOT", "RUNGS", "Footing", "Rung", "assumed", "losses"]


class Rung(Record):
    """A rung: what it needs, and in words what is lost there against the one above ("" if nothing)."""

    name: str
    needs: str
    lost: str = ""


ROOT = Rung("root", "CAP_SYS_ADMIN of the node")
ID_RANGES = Rung(
    "id ranges",
    "user namespaces, newuidmap(1), and ranges in /etc/subuid and /etc/subgid",
    "root in a container is you outside: no bridges, no devices of the node",
)
ONE_ID = Rung("one id", "user namespaces", "containers have one user, root")
BOUND = Rung(
    "node's /proc",
    "user namespaces and mounts in them",
    "ps and top in a container show the node's processes, with the node's pids, and nothing in /proc can be written",
)
GUEST = Rung("guest", "QEMU", "containers run in a machine, beside a kernel that is not this one")

RUNGS = (ROOT, ID_RANGES, ONE_ID, BOUND, GUEST)


class Footing(Record):
    """Where this user stands: the rung; `ids`: of a user namespace, None for root; `bound`: which of /proc and /sys are
    the node's own, as fresh ones may not be mounted; `why`: rung → why not this one, from the top down.
    """

    rung: str = ROOT.name
    ids: Ids | None = None
    bound: tuple[str, ...] = ()
    why: tuple[tuple[str, str], ...] = ()

    @property
    def number(self) -> int:
        """The rung's place from the top, which is 1."""
        return [one.name for one in RUNGS].index(self.rung) + 1

    def reason_against(self, rung: Rung) -> str:
        """Say why a higher rung does not hold; "" for one that was not tried."""
        return dict(self.why).get(rung.name, "")

    def to_json(self) -> dict[str, Any]:
        """Describe it, to be kept or sent."""
        maps = [_rows(self.ids.uids), _rows(self.ids.gids)] if self.ids else None
        return {"rung": self.rung, "ids": maps, "bound": list(self.bound), "why": [list(one) for one in self.why]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Footing:
        """Read what `to_json` wrote."""
        maps = document["ids"]
        ids = Ids(*(tuple(IdMapping(*row) for row in rows) for rows in maps)) if maps else None
        why = tuple((str(rung), str(reason)) for rung, reason in document["why"])
        return cls(str(document["rung"]), ids, tuple(document["bound"]), why)


def _rows(maps: tuple[IdMapping, ...]) -> list[list[int]]:
    return [[one.container_id, one.host_id, one.size] for one in maps]


def assumed() -> Footing:
    """Return what can be said without trying: root stands at the top, anybody else has at most himself."""
    if os.geteuid() == 0:
        return Footing()
    return Footing(ONE_ID.name, own_ids(os.geteuid(), os.getegid()), (), ((ROOT.name, "this is an ordinary user"),))


def losses(footing: Footing, no_groups: str = "") -> list[str]:
    """Say what containers lack on this node, a sentence each; `no_groups`: why there are no control groups."""
    found = []
    if footing.rung in (ID_RANGES.name, ONE_ID.name, BOUND.name):
        found.append(ID_RANGES.lost)
    if footing.ids and not footing.ids.several:
        reason = footing.reason_against(ID_RANGES)
        found.append(f"{ONE_ID.lost} ({reason})" if reason else ONE_ID.lost)
    if "/proc" in footing.bound:
        found.append(BOUND.lost)
    elif footing.bound:
        found.append("/sys shows the node's network devices")
    if no_groups:
        found.append(f"no control groups: {no_groups}")
    return found
