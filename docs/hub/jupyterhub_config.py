"""JupyterHub for a class on one machine: each student a system user, with limits, and images that nobody waits for.

jupyterhub -f docs/hub/jupyterhub_config.py            (as root; docs/teaching.md tells what to do before)
"""

# ruff: noqa: F821  (JupyterHub gives `c`)

import asyncio
import os
import pwd
from pathlib import Path

LAB = Path(os.environ.get("CLASS_LAB", "/srv/vmcontainer"))
"""This project, checked out and set up (./lab setup), readable for all."""
IMAGES = Path(os.environ.get("CLASS_IMAGES", "/srv/vmcontainer-images"))
"""A cache that was made for the class (VMCONTAINER_CACHE=/srv/vmcontainer-images, setup --course), readable for all."""
STUDENT_MEMORY = "2G"
STUDENT_CPUS = 1.0
STUDENTS_AT_ONCE = 20

COPY = """
umask 077
[ -e "$HOME/course" ] || cp -r "$1/course" "$HOME/course"
[ -e "$HOME/.cache/vmcontainer" ] && exit
mkdir -p "$HOME/.cache/vmcontainer"
cd "$2"
# What is unpacked is private to who unpacked it; each student unpacks for himself.
set -- images/blobs images/index.json images/oci-layout templates/????????????????
# For other processors, and for Xen: `vmcontainer setup --course` made them, or nobody did.
for part in guests guests/arm64 guests/xen payloads runtimes; do
    for found in "$part"/packages.json "$part"/???????????????? "$part"/runc "$part"/ipxe; do
        [ ! -e "$found" ] || set -- "$@" "$found"
    done
done
cp -r --preserve=timestamps --parents --reflink=auto --sparse=always "$@" "$HOME/.cache/vmcontainer"
"""


async def furnish(spawner):  # noqa: ANN001, ANN201
    """Give a student the course and the images, unless he has them: as himself, so that no link leads root astray."""
    user = pwd.getpwnam(spawner.user.name)
    who = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
    environment = {"PATH": os.environ["PATH"], "HOME": user.pw_dir}
    command = ["setpriv", *who, "sh", "-ec", COPY, "sh", str(LAB), str(IMAGES)]
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd="/")
    if await process.wait() != 0:
        raise RuntimeError(f"{user.pw_name} could not copy the course and the images: is the disk full?")


c.JupyterHub.spawner_class = "systemdspawner.SystemdSpawner"
c.JupyterHub.active_server_limit = STUDENTS_AT_ONCE
c.JupyterHub.concurrent_spawn_limit = 4
# A server that was started by a hub which is gone is nobody's.
c.JupyterHub.cleanup_servers = True
# Who they are: the accounts of this machine (PAM). Name them; without a list nobody gets in.
c.Authenticator.allowed_users = set()
c.Authenticator.admin_users = set()

c.Spawner.pre_spawn_hook = furnish
c.Spawner.cmd = [str(LAB / ".venv/bin/jupyterhub-singleuser")]
c.Spawner.default_url = "/lab/tree/course/en/01-welcome.ipynb"
# The first start copies the images.
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
c.Spawner.mem_limit = STUDENT_MEMORY
c.Spawner.cpu_limit = STUDENT_CPUS
c.Spawner.environment = {
    # No machine is made ahead: thirty of them would be thirty that nobody uses.
    "VMCONTAINER_SPARES": "0",
    # A machine that is saved is as big as its memory, and homes are small.
    "VMCONTAINER_SAVED_MIB": "512",
}
# A kernel that nobody looks at for an hour ends, then the server: machines and containers end with their notebook.
c.Spawner.args = [
    "--MappingKernelManager.cull_idle_timeout=3600",
    "--ServerApp.shutdown_no_activity_timeout=7200",
]

c.SystemdSpawner.isolate_tmp = True
# Rights that set-user-ID programs give, sudo's and newuidmap's among them, are not for students.
c.SystemdSpawner.disable_user_sudo = True
c.SystemdSpawner.unit_extra_properties = {
    # The server's control group is handed to the student, so that his containers have limits of their own below it.
    # The server itself sits in a folder beside them (systemd 254 or later), as a divided group has no processes.
    "Delegate": "yes",
    "DelegateSubgroup": "server",
    "TasksMax": "1024",
    # Others' processes are not in his /proc.
    "ProtectProc": "invisible",
    # What does not end with the server is ended after that.
    "KillMode": "mixed",
    "TimeoutStopSec": "20",
}
