"""The command ``vmcontainer``: what can be done outside a notebook; each command imports late what it needs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import __version__
from .errors import LabError, UserError
from .messages import say, say_help

if TYPE_CHECKING:
    from .machines import Wish

__all__ = ["main"]

Report = Callable[[str, float], None]
Step = tuple[str, Callable[[Report], object]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after an error (it is told), 130 when interrupted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["runtime"]:
        from .container.oci.command import main as runtime

        return runtime(words[1:])
    LabError.say = staticmethod(say)
    options = say_help(_parser()).parse_args(words)
    try:
        status: int = options.run(options)
    except LabError as error:
        print(f"vmcontainer: {error.told()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(say("vmcontainer: interrupted; what is done stays done"), file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmcontainer", description="Virtual machines and containers in notebook cells"
    )
    parser.add_argument("--version", action="version", version=f"vmcontainer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="tell what this computer can do for the lab, and why not")
    doctor.add_argument("checks", nargs="*", metavar="CHECK", help="only these (qemu, kvm, cgroups, ...)")
    doctor.add_argument("--json", action="store_true", help="as a JSON document")
    doctor.set_defaults(run=_doctor)

    setup = commands.add_parser("setup", help="build what is missing: container images, guest image, template")
    setup.add_argument("--arch", default="", help="a guest for another processor instead, as arm64")
    setup.add_argument("--system", default="", help="a guest of another system instead, as debian13")
    setup.add_argument("--course", action="store_true", help="and the machines that the lessons use beside")
    setup.set_defaults(run=_setup)

    # Its options are Go's, as callers of runc write them, and it is read before any of this.
    commands.add_parser("runtime", help="containers by the OCI specification, as runc has them: runtime --help")

    kernel = commands.add_parser("kernel", help="the notebook kernel")
    install = kernel.add_subparsers(required=True, metavar="COMMAND").add_parser("install", help="tell Jupyter of it")
    place = install.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for this user")
    place.add_argument("--sys-prefix", action="store_true", help="in the environment of this Python")
    place.add_argument("--prefix", help="below this folder")
    install.set_defaults(run=_install)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    unknown = [name for name in options.checks if name not in doctor.NAMES]
    if unknown:
        raise UserError(f"no such check: {' '.join(unknown)}", hint=f"there are: {' '.join(doctor.NAMES)}")
    checks = doctor.examine(options.checks)
    print(json.dumps(doctor.to_json(checks), indent=1) if options.json else doctor.to_text(checks))
    return 0


def _install(options: argparse.Namespace) -> int:
    from . import kernel

    prefix = sys.prefix if options.sys_prefix else options.prefix
    folder = kernel.install(user=options.user, prefix=prefix)
    print(f"{say('installed')} {kernel.DISPLAY_NAME}: {folder}")
    return 0


def _setup(options: argparse.Namespace) -> int:
    steps: list[Step] = [
        ("container image", _build_image),
        ("guest image", _build_guest),
        ("template", _build_template),
        ("python image", _build_python),
    ]
    if options.arch or options.system:
        from .machines import Wish
        from .vm.systems import origin_of

        wish = Wish(origin=origin_of(options.system, options.arch))
        steps = [("guest", lambda report: _build_template(report, wish))]
    for step in steps:
        _make(*step)
    for step in _course_steps() if options.course else []:
        # Not each computer can have each of them, and a lesson can be read without.
        try:
            _make(*step)
        except LabError as error:
            print(f"vmcontainer: {error.told()}", file=sys.stderr)
    return 0


def _make(name: str, build: Callable[[Report], object]) -> None:
    progress = Progress(name)
    build(progress.report)
    progress.done()


def _build_image(report: Report) -> None:
    from .container.images import Store
    from .container.images.busybox import build_busybox
    from .paths import cache_dir

    build_busybox(Store(cache_dir("images")))


def _build_guest(report: Report) -> None:
    from .vm.guest import ensure_guest

    ensure_guest(report)


def _build_template(report: Report, wish: Wish | None = None) -> None:
    from .machines import ANY
    from .session import Session

    session = Session()
    try:
        session.prepare(report, wish or ANY)
    finally:
        session.close()


def _course_steps() -> list[Step]:
    """Return how to make what lessons would have to wait for: templates, one of each kind, a payload, and runc."""
    from functools import partial

    from .machines import Wish
    from .runtimes import ensure_runc
    from .vm.packages import Origin
    from .vm.systems import ensure_payload, payload_of

    kinds = {
        "512 MiB": Wish(512 << 20),
        "two processors": Wish(max_cpus=2),
        "arm64": Wish(origin=Origin("arm64")),
        "xen": Wish(origin=Origin(hypervisor="xen")),
    }
    steps = [(name, partial(_build_template, wish=wish)) for name, wish in kinds.items()]
    return [*steps, ("ipxe", partial(ensure_payload, payload_of("ipxe"))), ("runc", ensure_runc)]


def _build_python(report: Report) -> None:
    from .container.images import Store
    from .paths import cache_dir
    from .python_image import build_python

    build_python(Store(cache_dir("images")), report)


class Progress:
    """One line on standard error: rewritten on a terminal, a line for each phase elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = say(name)
        self._start_s = time.monotonic()
        self._phase = ""

    def report(self, phase: str, fraction: float) -> None:
        """Show how far a phase is; `fraction` from 0 to 1."""
        if sys.stderr.isatty():
            print(f"\r      {self.name}: {say(phase)} {fraction:4.0%}\x1b[K", end="", file=sys.stderr, flush=True)
        elif phase != self._phase:
            print(f"      {self.name}: {say(phase)}", file=sys.stderr, flush=True)
        self._phase = phase

    def done(self) -> None:
        """Say that it is there, and how long it took."""
        end = "\x1b[K\n" if sys.stderr.isatty() else "\n"
        start = "\r" if sys.stderr.isatty() else ""
        seconds = time.monotonic() - self._start_s
        print(f"{start}      {self.name}: {say('ready')} ({seconds:.1f} s)", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
