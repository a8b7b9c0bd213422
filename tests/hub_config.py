"""The class's JupyterHub (docs/hub/jupyterhub_config.py) where there is no systemd, for students without accounts."""

# ruff: noqa: F821  (JupyterHub gives `c` and `load_subconfig`)

import os
import pwd
import sys
from pathlib import Path

from tests.hub import ROOT, STUDENTS

folder = Path(os.environ["CLASS_FOLDER"])
accounts = {
    name: pwd.struct_passwd((name, "x", uid, uid, "", str(folder / name), "/bin/sh")) for name, uid in STUDENTS.items()
}
# JupyterHub asks for a student's uid and home here, whoever starts the servers.
pwd.getpwnam = accounts.__getitem__

load_subconfig(str(ROOT / "docs/hub/jupyterhub_config.py"))

c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.bind_url = os.environ["CLASS_URL"]
c.JupyterHub.hub_port = int(os.environ["CLASS_HUB_PORT"])
c.JupyterHub.db_url = f"sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
c.ConfigurableHTTPProxy.command = [str(Path(sys.executable).with_name("configurable-http-proxy"))]
c.ConfigurableHTTPProxy.api_url = os.environ["CLASS_PROXY_URL"]
c.ConfigurableHTTPProxy.pid_file = str(folder / "proxy.pid")
c.DummyAuthenticator.password = os.environ["CLASS_PASSWORD"]
c.Authenticator.allowed_users = set(STUDENTS)
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.environment = {**c.Spawner.environment, "LAB_LANGUAGE": "en", "VMCONTAINER_PATIENCE_S": "600"}
