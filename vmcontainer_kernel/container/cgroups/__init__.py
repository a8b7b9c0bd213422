"""Control groups, version 1, version 2 and both at once (hybrid), behind one interface: limit, count, freeze, kill,
remove.

    trees.py    where each controller of this node is, and where this process may make groups
    limits.py   the specification's resources as a table: which text goes into which file (pure)
    devices.py  the allowed devices, as version 1's lists or as a program for version 2
    groups.py   the groups of a session: made, opened, ended
    group.py    one container's group: joined, frozen, killed, removed, changed
    stats.py    what it used
    watch.py    when a limit strikes
    fallback.py what is left of limits where no group can be made
"""

from vmcontainer_kernel.container.cgroups.fallback import Fallback, fallback_rlimits
from vmcontainer_kernel.container.cgroups.group import Cgroup
from vmcontainer_kernel.container.cgroups.groups import Cgroups
from vmcontainer_kernel.container.cgroups.limits import Write, writes
from vmcontainer_kernel.container.cgroups.trees import Place, find_places

__all__ = ["Cgroup", "Cgroups", "Fallback", "Place", "Write", "fallback_rlimits", "find_places", "writes"]
