"""The command as a script of its own: ``python3 -S -I …/container/oci/__main__.py create …``."""

import sys

sys.path.insert(0, __file__.rpartition("/vmcontainer_kernel/")[0])

from vmcontainer_kernel.container.oci.command import leave

leave(sys.argv[1:])
