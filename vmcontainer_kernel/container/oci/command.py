"""``vmcontainer runtime``: the options and exit statuses of runc, so that Docker, containerd and Podman can call it.

Each command is a `Command` (its help, from which its options are read) and a function here or in the module it names.
What only one command needs is imported in its function: a command is a process, and imports are most of its time.
"""

from __future__ import annotations

import os
import sys

from vmcontainer_kernel.container.oci import log
from vmcontainer_kernel.container.oci.arguments import Arguments, Command, read
from vmcontainer_kernel.container.oci.state import Folder, default_root
from vmcontainer_kernel.errors import LabError, UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = ["COMMANDS", "GLOBAL", "PROGRAM", "leave", "main"]

PROGRAM = "vmcontainer runtime"

GLOBAL = Command(
    "[OPTION…] COMMAND …",
    "Containers by the OCI runtime specification 1.2.",
    """
    --root DIR             where the state of containers is kept (/run/vmcontainer/runtime, or below XDG_RUNTIME_DIR)
    --log FILE             write errors and warnings there too
    --log-format FORMAT    text or json
    --debug                show where in the program an error arose
    --systemd-cgroup       refused: groups are made in the cgroup file systems directly
    --rootless WHEN        true, false or auto; only auto does anything: what is possible is found out
-v, --version              print the version
-h, --help                 print this
""",
    stops=True,
)

_MAKE = """
-b, --bundle DIR           the folder with config.json (default: the current one)
    --pid-file FILE        write the pid there
    --console-socket PATH  send the terminal's master to this unix socket
    --preserve-fds N       give the program N more descriptors, from 3 on
    --no-new-keyring       leave the session keyring as it is
    --no-pivot             refused: the root is always changed by pivot_root
"""

COMMANDS = {
    "create": Command("create [OPTION…] ID", "Make a container; its program waits for start.", _MAKE),
    "run": Command(
        "run [OPTION…] ID",
        "Make a container, run its program, wait for it and delete the container.",
        _MAKE
        + """
-d, --detach               do not wait
    --keep                 do not delete the container at its end
    --no-subreaper         do not adopt processes that lose their parent
""",
    ),
    "start": Command("start ID", "Run the program of a created container."),
    "state": Command("state ID", "Print the state of a container as JSON."),
    "kill": Command(
        "kill [OPTION…] ID [SIGNAL]",
        "Send a signal, by number or name (default: TERM), to the first process of a container.",
        "-a, --all  to all of its processes",
    ),
    "delete": Command(
        "delete [OPTION…] ID",
        "Remove a stopped container.",
        "-f, --force  end it first; it is no error if there is none",
    ),
    "exec": Command(
        "exec [OPTION…] ID PROGRAM [ARGUMENT…]",
        "Run one more program in a container.",
        """
-p, --process FILE         the process as JSON (config.md, "Process"); then there is no PROGRAM
-t, --tty                  give it a terminal
-d, --detach               do not wait
    --console-socket PATH  send the terminal's master to this unix socket
    --pid-file FILE        write the pid there
    --cwd DIR              its working folder
-e, --env NAME=VALUE…      one more variable
-u, --user UID[:GID]       who runs it
-g, --additional-gids N…   one more group
-c, --cap NAME…            one more capability
    --no-new-privs         set no_new_privs
    --preserve-fds N       give it N more descriptors, from 3 on
    --ignore-paused        even if the container is paused
    --process-label TEXT   refused: there is no SELinux
    --apparmor NAME        refused: there is no AppArmor
    --cgroup PATH          refused: it runs in the container's group
""",
        stops=True,
    ),
    "ps": Command(
        "ps [OPTION…] ID [PS-OPTION…]",
        "Show the processes of a container.",
        "-f, --format FORMAT  table (as ps shows them) or json (a list of pids)",
        stops=True,
    ),
    "list": Command(
        "list [OPTION…]",
        "Show all containers.",
        "-f, --format FORMAT  table or json\n-q, --quiet          only their ids",
    ),
    "events": Command(
        "events [OPTION…] ID",
        "Print what a container uses, as a JSON line every few seconds, and when it runs out of memory.",
        "    --stats          once\n    --interval TIME  time between two lines, such as 5s",
    ),
    "pause": Command("pause ID", "Freeze all processes of a container."),
    "resume": Command("resume ID", "Let the processes of a paused container go on."),
    "update": Command(
        "update [OPTION…] ID",
        "Change the limits of a container.",
        """
-r, --resources FILE           as JSON (config-linux.md, "resources"); - is standard input
    --memory BYTES             memory limit
    --memory-reservation BYTES soft limit
    --memory-swap BYTES        memory and swap together
    --cpu-period US            period of the quota
    --cpu-quota US             time in each period
    --cpu-share N              weight
    --cpuset-cpus LIST         processors
    --cpuset-mems LIST         memory nodes
    --pids-limit N             number of processes
    --blkio-weight N           weight of block I/O
""",
    ),
    "install": Command(
        "install [OPTION…]",
        "Write a program that starts faster than this one: what engines are to call.",
        "    --path FILE  where (default: /usr/local/bin/vmcontainer-runtime)",
    ),
    "features": Command("features", "Print what this runtime knows as JSON (features.md)."),
    "spec": Command(
        "spec [OPTION…]",
        "Write a config.json to begin with.",
        "-b, --bundle DIR  where (default: the current folder)\n    --rootless    for an ordinary user",
    ),
}


class Context:
    """What the options before the command say."""

    def __init__(self, options: Arguments) -> None:
        self._root = options.text("root")
        if options.flag("systemd-cgroup"):
            raise UserError(
                "groups are not made through systemd", hint="leave out --systemd-cgroup (engines: cgroupfs driver)"
            )
        if (form := options.text("log-format", "text")) not in ("text", "json"):
            raise UserError(f"--log-format is text or json, not {form!r}")

    @property
    def root(self) -> str:
        """Where the state of containers is kept."""
        return os.path.abspath(self._root or default_root())

    def folder(self, arguments: Arguments) -> Folder:
        """Return the one container the arguments name."""
        return Folder(self.root, *arguments.only("ID"))


def main(words: list[str]) -> int:
    """Run one command and return its exit status: its program's, or 1 after an error, which is told."""
    options = Arguments({}, [])
    try:
        options = read(GLOBAL, words, program=PROGRAM)
        log.aim(options.text("log"), options.text("log-format", "text"))
        context = Context(options)
        return _run(context, options)
    except (LabError, OSError) as error:
        if options.flag("debug"):
            import traceback

            traceback.print_exc()
        log.tell(error)
        return 1


def leave(words: list[str]) -> NoReturn:
    """Run one command and end this process at once, without tearing down what is gone in a moment anyway."""
    status = 1
    try:
        status = main(words)
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _run(context: Context, options: Arguments) -> int:
    if options.flag("version"):
        from vmcontainer_kernel import __version__

        print(f"{PROGRAM.replace(' ', '-')} version {__version__}\nspec: 1.2.0")
        return 0
    if options.flag("help") or not options.rest or options.rest[0] in ("help", "h"):
        print(_help(), end="")
        return 0
    name, *words = options.rest
    if name not in COMMANDS:
        raise UserError(f"there is no command {name}", hint=f"see {PROGRAM} --help")
    if words and words[0] in ("--help", "-h"):
        print(COMMANDS[name].help(PROGRAM), end="")
        return 0
    arguments = read(COMMANDS[name], words, program=f"{PROGRAM} {name}")
    return _ACTIONS[name](context, arguments) or 0


def _help() -> str:
    lines = [f"  {name:9} {command.summary}" for name, command in COMMANDS.items()]
    return GLOBAL.help(PROGRAM) + "\nCommands:\n" + "\n".join(lines) + "\n"


# -- the commands


def _create(context: Context, arguments: Arguments) -> int:
    from vmcontainer_kernel.container.oci.launching import create

    return create(context.root, arguments)


def _run_container(context: Context, arguments: Arguments) -> int:
    from vmcontainer_kernel.container.oci.launching import run

    return run(context.root, arguments)


def _exec(context: Context, arguments: Arguments) -> int:
    from vmcontainer_kernel.container.oci.launching import execute

    return execute(context.root, arguments)


def _start(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.lifecycle import start

    start(context.folder(arguments))


def _state(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.lifecycle import state

    _print_json(state(context.folder(arguments)))


def _kill(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.lifecycle import send_signal

    name, *more = arguments.rest if 1 <= len(arguments.rest) <= 2 else arguments.only("ID", "SIGNAL")
    send_signal(Folder(context.root, name), signal_number(*more), everything=arguments.flag("all"))


def signal_number(text: str = "TERM") -> int:
    """Return the number of a signal given as 9, KILL or SIGKILL."""
    import signal

    known = {one.name.removeprefix("SIG"): int(one) for one in signal.Signals}
    name = text.upper().removeprefix("SIG")
    if name.startswith("RTMIN+") and name[6:].isdecimal():
        number = signal.SIGRTMIN + int(name[6:])
    else:
        number = int(text) if text.isdecimal() else known.get(name, -1)
    if not 0 <= number <= signal.SIGRTMAX:
        raise UserError(f"there is no signal {text}", hint="see kill -l")
    return number


def _delete(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.lifecycle import delete

    delete(context.folder(arguments), force=arguments.flag("force"))


def _pause(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.lifecycle import pause

    pause(context.folder(arguments))


def _resume(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.lifecycle import resume

    resume(context.folder(arguments))


def _ps(context: Context, arguments: Arguments) -> int:
    from vmcontainer_kernel.container.oci.looking import processes

    name, *options = arguments.rest or arguments.only("ID")
    return processes(Folder(context.root, name), arguments.text("format", "table"), options)


def _list(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.looking import listing

    arguments.only()
    print(listing(context.root, arguments.text("format", "table"), quiet=arguments.flag("quiet")), end="")


def _events(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.looking import events

    events(context.folder(arguments), arguments.text("interval", "5s"), once=arguments.flag("stats"))


def _update(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.update import update

    update(context.folder(arguments), arguments)


def _features(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.features import features

    arguments.only()
    _print_json(features())


def _spec(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.template import write

    arguments.only()
    write(arguments.text("bundle", "."), rootless=arguments.flag("rootless"))


def _install(context: Context, arguments: Arguments) -> None:
    from vmcontainer_kernel.container.oci.install import install

    arguments.only()
    install(arguments.text("path", "/usr/local/bin/vmcontainer-runtime"))


def _print_json(document: Any) -> None:
    import json

    json.dump(document, sys.stdout, indent=2)
    print()


_ACTIONS: dict[str, Callable[[Context, Arguments], int | None]] = {
    "create": _create,
    "run": _run_container,
    "exec": _exec,
    "start": _start,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "ps": _ps,
    "list": _list,
    "events": _events,
    "pause": _pause,
    "resume": _resume,
    "update": _update,
    "features": _features,
    "spec": _spec,
    "install": _install,
}
