"""The engine as a command that Docker, containerd and Podman can use in place of runc."""
