"""Building: the effects. One step after the other becomes a layer, or is found in the cache; the name comes last.

    RUN        a container of this engine on the layers so far ─▶ its upper folder ─▶ layer
    COPY ADD   `files.in_roots`: an overlay of the layers so far ─▶ its upper folder ─▶ layer
    the rest   changes the image's configuration only

The same Dockerfile and context give the same digest: times are SOURCE_DATE_EPOCH (a build argument), or 0, and no file
is newer than that. What a RUN writes is its own affair.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.build import archives
from vmcontainer_kernel.container.build.cache import Cache, key_of
from vmcontainer_kernel.container.build.context import Place, Signature, digest
from vmcontainer_kernel.container.build.dockerfile import Instruction
from vmcontainer_kernel.container.build.files import Bundle, Writer, in_roots
from vmcontainer_kernel.container.build.plan import (
    EPOCH,
    SCRATCH,
    Action,
    Copy,
    Folder,
    Order,
    Run,
    Step,
    Wanted,
    check_order,
)
from vmcontainer_kernel.container.build.report import Report
from vmcontainer_kernel.container.build.running import run
from vmcontainer_kernel.container.build.stage import plan_stage
from vmcontainer_kernel.container.ids import Steward
from vmcontainer_kernel.container.images import LAYER_TYPE, Blob, Image, Store
from vmcontainer_kernel.container.images.changes import id_owners
from vmcontainer_kernel.container.images.pack import pack
from vmcontainer_kernel.container.runtime import Runtime
from vmcontainer_kernel.errors import LabError, NotFound, UserError

__all__ = ["Builder", "StagedStore"]


class StagedStore(Store):
    """The store, with images that have no name yet and that nobody else sees."""

    def __init__(self, path: Path | str, steward: Steward | None = None, *, unpacked: Path | str | None = None) -> None:
        super().__init__(path, steward, unpacked=unpacked)
        self.staged: dict[str, Image] = {}

    def resolve(self, reference: str) -> Image:
        """Return a staged image, or one of the store."""
        return self.staged.get(reference) or super().resolve(reference)


class Builder:
    """One build. `runtime`: of this build alone, on a `StagedStore`; `folder`: its own, empty; `context`: None where
    nothing is copied from it.
    """

    def __init__(self, runtime: Runtime, store: StagedStore, folder: Path, order: Order, context: Place | None) -> None:
        self._runtime, self._store, self._folder, self._order, self._context = runtime, store, folder, order, context
        self._cache = Cache(store)
        self._stages: dict[int, Image] = {}
        self._time_s = order.time_s
        self._count, self._checked = 0, False

    def build(self, out_fd: int, style: str) -> Image:
        """Build and name the image; tell about it on `out_fd`. Whatever fails leaves no image and no container."""
        wanted = check_order(self._order)
        bases = {one.number: self._base(one) for one in wanted if not isinstance(one.base, int)}
        report = Report(out_fd, style, sum(len(one.stage.instructions) + 1 for one in wanted))
        for text in self._order.file.warnings:
            report.note(f"[warning] {text}")
        used: set[str] = {EPOCH}
        for one in wanted:
            base = self._stages[one.base] if isinstance(one.base, int) else bases[one.number]
            self._stages[one.number] = self._stage(one, base, report, used)
        for name in sorted(self._order.given.arguments.keys() - used):
            report.note(f"[warning] --build-arg {name} is not used: no ARG {name}")
        last = self._stages[wanted[-1].number]
        image = self._store.add(self._order.name, last.config, list(last.layers))
        report.result(image.name, image.digest, f"{len(image.layers)} layers, {image.size_bytes} bytes")
        return image

    def _base(self, wanted: Wanted) -> Image:
        """Return the image that a stage begins with; the error shows its FROM."""
        if wanted.base == SCRATCH:
            system, _, architecture = self._order.given.platform.partition("/")
            config = {"architecture": architecture, "os": system, "config": {}}
            return Image(SCRATCH, "", config, (), (), 0)
        return self._image(wanted.stage.base, str(wanted.base))

    def _image(self, one: Instruction, name: str) -> Image:
        try:
            image = self._store.resolve(name)
        except NotFound as error:
            raise one.fault(error.message, f"{error.hint}; or fetch it: %container pull {name}") from None
        if (image.config.get("config") or {}).get("OnBuild"):
            raise one.fault(f"{name} has ONBUILD instructions, which are not supported", "build on another image")
        return image

    # -- a stage

    def _stage(self, wanted: Wanted, image: Image, report: Report, used: set[str]) -> Image:
        label = wanted.stage.name
        report.step(f"FROM {wanted.base if isinstance(wanted.base, str) else image.name}", label)
        report.busy()
        config = image.config.get("config") or {}
        for step in plan_stage(self._order.file, wanted, config, self._order.given, used):
            report.step(step.text, label)
            try:
                image = self._step(image, step, report)
            except LabError as error:
                _place(error, step)
                raise
        return image.replace(name=label or f"stage {wanted.number}")

    def _step(self, image: Image, step: Step, report: Report) -> Image:
        if step.action is None:
            report.busy()
            return self._with(image, step, None)
        config, seen = image.config.get("config") or {}, dict[str, Signature]()
        content = self._content(step, seen) if isinstance(step.action, Copy) else ""
        key = key_of(step.action, image.diff_ids, config, content=content, time_s=self._time_s)
        known = None if self._order.no_cache else self._cache.find(key)
        if known:
            report.cached()
            return self._with(image, step, known[0])
        report.busy()
        layer = self._layer(image, step.instruction, step.action, seen, report)
        self._cache.keep(key, layer)
        report.done()
        return self._with(image, step, layer)

    def _with(self, image: Image, step: Step, layer: Blob | None) -> Image:
        """Return the image after a step."""
        import time

        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._time_s))
        entry: dict[str, Any] = {"created": created, "created_by": step.text}
        entry |= {} if layer else {"empty_layer": True}
        history = [*(image.config.get("history") or [{"created": created} for _ in image.layers]), entry]
        # A layer is stored as it was packed, so its digest is that of its content, too.
        layers, diff_ids = (*image.layers, layer) if layer else image.layers, image.diff_ids
        diff_ids = (*diff_ids, layer.digest) if layer else diff_ids
        document = {**image.config, "created": created, "config": step.config, "history": history}
        document["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
        return image.replace(config=document, layers=layers, diff_ids=diff_ids)

    # -- the steps that change files

    def _content(self, step: Step, seen: dict[str, Signature]) -> str:
        """Return the digest of what a COPY copies: the files themselves, or the layers of where they come from."""
        action = step.action
        assert isinstance(action, Copy)
        if action.origin != "":
            return " ".join(self._origin(step.instruction, action).diff_ids)
        return digest(self._place(), action.sources, seen) if action.sources else ""

    def _place(self) -> Place:
        if self._context is None:
            raise UserError("there is no folder to copy from", hint="name one behind the options")
        return self._context

    def _origin(self, one: Instruction, action: Copy) -> Image:
        return self._stages[action.origin] if isinstance(action.origin, int) else self._image(one, str(action.origin))

    def _layer(
        self, image: Image, one: Instruction, action: Action, seen: dict[str, Signature], report: Report
    ) -> Blob | None:
        if isinstance(action, Run):
            if not image.layers:
                raise UserError("there is nothing to run in an empty image", hint="COPY a program into it first")
            self._check_folder()
            return self._run(image, action, report)
        with self._bundle() as folder:
            bundle: Bundle = (folder, self._store.rootfs_layers(image))
            if isinstance(action, Folder):
                in_roots([bundle], self._store.steward, lambda roots: Writer(roots[0]).make_folder(action.path))
                return self._pack(folder / "upper") if any((folder / "upper").iterdir()) else None
            self._copy(image, one, action, bundle, seen)
            return self._pack(folder / "upper")

    def _check_folder(self) -> None:
        """Refuse a place where a container's files would be in memory only, and gone before they are a layer."""
        if not self._checked:
            with self._bundle() as folder:
                in_roots([(folder, ())], self._store.steward, lambda roots: None)
            self._checked = True

    @contextlib.contextmanager
    def _bundle(self) -> Iterator[Path]:
        self._count += 1
        folder = self._folder / f"copy{self._count}"
        for name in ("rootfs", "upper", "work", "source/rootfs", "source/upper", "source/work"):
            (folder / name).mkdir(parents=True)
        (folder / "upper").chmod(0o755)  # it is the root folder's mode in the image, whatever our umask
        try:
            yield folder
        finally:
            self._store.steward.remove_tree(folder)

    def _pack(self, upper: Path) -> Blob:
        alone = os.geteuid() != 0 and self._store.steward.ids is None
        owners = id_owners([(0, os.geteuid(), 1)], [(0, os.getegid(), 1)]) if alone else None

        def work() -> tuple[str, int]:
            with self._store.new_blob(LAYER_TYPE) as target:
                pack(upper, target, owners=owners, time_s=self._time_s)
            return target.blob.digest, target.blob.size_bytes

        found = self._store.steward.do(work)
        return Blob(LAYER_TYPE, found[0], found[1])

    def _copy(self, image: Image, one: Instruction, action: Copy, bundle: Bundle, seen: dict[str, Signature]) -> None:
        owner, folder = self._owner(image, action.owner), bundle[0]
        unpacked: dict[str, Path] = {}
        bundles = [bundle]
        if action.origin != "":
            bundles.append((folder / "source", self._store.rootfs_layers(self._origin(one, action))))
        elif action.extracts:
            unpacked = archives.extract(self._place(), action.sources, folder / "archives", self._store.steward)

        def copy(roots: list[int]) -> None:
            place = Place(roots[1], root=True) if action.origin != "" else self._context
            writer = Writer(roots[0], owner, action.mode, seen, attributes=action.origin != "")
            paths = [path for source in action.sources for path in place.find(source)] if place else []
            many = len(paths) + len(action.documents) > 1
            for path in paths:
                assert place
                if path in unpacked:
                    archives.write(roots[0], unpacked[path], action, owner if action.owner else None)
                else:
                    writer.copy(place, [path], action.target, many=many)
            for document in action.documents:
                writer.write(document, action.target)

        in_roots(bundles, self._store.steward, copy)

    def _owner(self, image: Image, text: str) -> tuple[int, int]:
        """Return who files are to belong to; a user alone means the group of the same number (``COPY --chown``)."""
        if not text:
            return 0, 0
        user = self._store.find_user(image, text)[0]
        return (user.uid, user.gid) if ":" in text else (user.uid, user.uid)

    def _run(self, image: Image, action: Run, report: Report) -> Blob:
        self._count += 1
        name = f"build{self._folder.name}-{self._count}"
        self._store.staged[name] = image
        with run(self._runtime, name, action, report) as upper:
            return self._pack(upper)


def _place(error: LabError, step: Step) -> None:
    """Let an error show the instruction, unless it shows a place already."""
    if not error.where.startswith("Dockerfile, line"):
        error.where = "\n".join(filter(None, (step.instruction.fault("").where, error.where)))
