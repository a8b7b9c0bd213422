"""From a request to a container that can be started: looked up, checked, described, and its bundle written.

options ──▶ look_up ──▶ make_config ──▶ parse ──▶ Container        nothing is changed on the node
Container ──▶ write_bundle ──▶ BUNDLE/{config.json, rootfs, upper, work}
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.cgroups import Cgroups
from vmcontainer_kernel.container.checks import check_name, check_options, check_user, possible, without_groups
from vmcontainer_kernel.container.config import make_config, program_of
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.images import Image, Store
from vmcontainer_kernel.container.ladder import Footing
from vmcontainer_kernel.container.lookups import look_up
from vmcontainer_kernel.container.network import names
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.container.options import ExecOptions, Options
from vmcontainer_kernel.container.parsing import parse, parse_process
from vmcontainer_kernel.container.planning import begun
from vmcontainer_kernel.container.spec import Process, Seccomp, Spec, User
from vmcontainer_kernel.container.starting import recipe_of
from vmcontainer_kernel.container.volumes import Volumes
from vmcontainer_kernel.errors import HostError

__all__ = ["Preparer"]

_OWN_SHM = "the queues and System V memory are shared, /dev/shm is its own: to share that too, --volume NAME:/dev/shm"


class Preparer:
    """What of a node every container needs: where images, volumes, groups and bundles are; `find`: a container by
    its name.
    """

    def __init__(
        self,
        run_dir: Path,
        store: Store,
        session: str,
        cgroups: Cgroups | None,
        volumes: Volumes | None,
        networks: Networks,
        find: Callable[[str], Container],
        footing: Footing,
        *,
        guest: bool,
    ) -> None:
        self._run_dir, self._store, self._session = run_dir, store, session
        self._cgroups, self._volumes, self._networks, self._find = cgroups, volumes, networks, find
        self._footing, self._steward, self._guest = footing, store.steward, guest
        self._filter: tuple[dict[str, Any], Seccomp | None] | None = None

    def prepare(self, name: str, options: Options) -> Container:
        """Check everything and return the container as it will be; raise `UserError`, `NotFound`, `HostError` or
        `ImageError`.
        """
        check_name(name)
        image = self._store.resolve(options.image)
        user, home = self._user(image, options)
        check_options(options, user, self._footing, grouped=self._cgroups is not None, guest=self._guest)
        if not options.network.startswith("container:"):
            self._networks.check(options.network, aliases=options.network_alias, publish=options.publish)
        bundle = self._run_dir / "containers" / name
        config = make_config(
            options,
            image.config,
            name=name,
            user=user,
            home=home,
            cgroups_path="" if self._cgroups is None else self._cgroups.path(name),
            footing=self._footing,
            around=look_up(
                options,
                bundle,
                self._volumes,
                self._find,
                self._name_mounts(name, options),
                rootless=self._footing.ids is not None,
            ),
        )
        spec = possible(self._parse(config), options, rootless=self._footing.ids is not None)
        warnings: tuple[str, ...] = ()
        if self._cgroups is None:
            spec, warnings = without_groups(spec)
        if options.ipc.startswith("container:"):
            warnings += (_OWN_SHM,)
        group = self._cgroups.group(name, spec.linux.resources) if self._cgroups else None
        container = Container(name, f"{self._session}-{name}", image, config, spec, bundle, home, group)
        container.layers = [] if "root" in options.without else self._store.layer_paths(image)
        container.options, container.warnings = options, warnings
        return container

    def _parse(self, config: dict[str, Any]) -> Spec:
        """Parse a configuration; the filter, longer than all the rest, once for as long as it is the same document."""
        profile = config["linux"].get("seccomp")
        if profile is None:
            return parse(config)
        if self._filter is None or self._filter[0] is not profile:
            self._filter = profile, parse(config).linux.seccomp
        spec = parse({**config, "linux": {**config["linux"], "seccomp": None}})
        return spec.replace(linux=spec.linux.replace(seccomp=self._filter[1]))

    def explain(self, name: str, options: Options) -> dict[str, Any]:
        """Return its ``config``, and as ``steps`` what would be done to make and start it: step, call, why, source."""
        container = self.prepare(name, options)
        steps = [step.describe() for step in begun(container.spec)]
        steps += container.cgroup.describe() if container.cgroup else []
        steps += [step.describe() for step in recipe_of(container, tty=options.tty)()]
        if options.networked:
            at = next(number for number, step in enumerate(steps) if step["step"] == "network")
            publish, aliases = options.publish, options.network_alias
            steps[at:at] = self._networks.explain(name, options.network, aliases=aliases, publish=publish)
        return {"config": container.config, "steps": steps}

    def _name_mounts(self, name: str, options: Options) -> list[dict[str, Any]]:
        return names.mounts(self._run_dir / "network" / name) if options.named else []

    def adapt(self, spare: Container, options: Options) -> Container | None:
        """Return the container a spare becomes: only what may differ from its shape is made anew and checked, as that
        is on the way to a cell's first byte. None if the image has changed meanwhile; raises as `prepare` does.
        """
        image = self._store.resolve(options.image)
        if image.digest != spare.image.digest:
            return None
        program = program_of(options, image.config.get("config") or {}, spare.name, spare.home)
        config = {**spare.config, "process": {**spare.config["process"], **program}}
        process, new = spare.spec.process, parse_process(program)
        spec = spare.spec.replace(process=process.replace(args=new.args, env=new.env, cwd=new.cwd))
        return Container(
            spare.name, spare.id, image, config, spec, spare.bundle, spare.home, spare.cgroup, options=options
        )

    def _user(self, image: Image, options: Options) -> tuple[User, str]:
        """Return the ids and home folder of the process: asked for, or the image's own."""
        wanted = str(options.user or (image.config.get("config") or {}).get("User") or "")
        user, home = self._store.find_user(image, wanted) if wanted else (User(), "/root")
        more = tuple(self._store.find_user(image, f"0:{group}")[0].gid for group in options.group_add)
        return (user.replace(additional_gids=(*user.additional_gids, *more)) if more else user), home

    def exec_process(self, container: Container, options: ExecOptions) -> Process:
        """Return one more process of a container: its first one's surroundings, its own program and perhaps user."""
        base = container.spec.process
        user, home = base.user, container.home
        capabilities = base.capabilities
        if options.user:
            user, home = self._store.find_user(container.image, options.user)
            check_user(user, options.user, self._footing)
            if user.uid and capabilities is not None:
                capabilities = capabilities.replace(effective=0, permitted=0)
        env = dict(one.split("=", 1) for one in base.env) | {"HOME": home} | options.env
        return base.replace(
            args=options.argv,
            env=tuple(f"{key}={value}" for key, value in env.items()),
            cwd=options.workdir or base.cwd,
            user=user,
            capabilities=capabilities,
        )

    def write_bundle(self, container: Container) -> None:
        """Write what a start needs on the disk; nothing is left if that fails."""
        if "root" not in container.options.without:
            container.layers = self._store.rootfs_layers(container.image)
        self._steward.remove_tree(container.bundle)  # of an earlier run that was killed
        try:
            for folder in ("rootfs", "upper", "work"):
                (container.bundle / folder).mkdir(parents=True)
            # It is the root folder's mode in the container, whatever our umask.
            (container.bundle / "upper").chmod(0o755)
            self.write_config(container)
            self._write_extras(container)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._steward.remove_tree(container.bundle)
            raise HostError(
                f"no bundle could be written: {error.strerror}", hint="is the disk full?", where=str(container.bundle)
            ) from error

    def write_config(self, container: Container) -> None:
        """Write what the container is, as the specification has it; raises `OSError`."""
        (container.bundle / "config.json").write_text(json.dumps(container.config))

    def _write_extras(self, container: Container) -> None:
        """Make what the configuration mounts and is not there yet: volumes."""
        options = container.options
        for number, one in enumerate(options.volumes):
            if one.kind == "volume" and one.source and self._volumes:
                self._volumes.create(one.source)
            elif one.kind == "volume":
                (container.bundle / "volumes" / str(number)).mkdir(parents=True)
