"""The magics: ``%%vm``, ``%%container`` and ``%%asm`` run cells, ``%vm``, ``%container`` and ``%lab`` look and tidy up.

Parse, call the session, render; nothing else happens here. Heavy libraries are imported by the first use.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from typing import Any

from . import messages
from .errors import LabError
from .options import asm_arguments, container_arguments, parse, parse_asm, vm_arguments
from .teaching import magics as teaching

__all__ = ["load", "unload"]


def vm_cell(line: str, cell: str) -> None:
    """Run this cell with /bin/sh in a virtual machine, made by cloning a template if it does not exist.

    The machine stays: the next %%vm cell finds its files and processes. The interrupt button sends SIGINT to the
    command and leaves the machine alive; a second press kills the command. %vm lists what else can be done.

        %%vm                        %%vm big --memory 512m --cpus 2         %%vm --out text
        uname -r                    free -m                                 cat /proc/meminfo
    """
    from . import cells
    from .session import current

    options = parse(_CELLS["vm"], line)
    cells.require_text(cell)
    session, name = current(), options.name or cells.DEFAULT_MACHINE
    if options.explain:
        from .verbs import explain_machine

        _display(explain_machine(session, name, options))
        return
    progress = _progress()
    _run(options, f"machine {name}", cells.vm_start(session, options, cell, progress.report), progress)


def container_cell(line: str, cell: str) -> None:
    """Run this cell with /bin/sh in a container.

    Without a name the container is made for this cell and removed after it (docker run --rm). With a name it stays,
    and later cells run inside it (docker exec). --on NODE chooses the kernel that is shared: the host's, or a
    machine's. --without leaves a wall out, to see what it was good for; --explain shows every step.

        %%container                 %%container web --memory 64m            %%container --on vm
        echo $$; hostname           httpd -p 8080                           uname -r

    The first word build is a verb: the cell is a Dockerfile, and the folder is what COPY copies from (default: the
    notebook's); %container build --help shows its options. A container whose name is build is --name build.

        %%container build -t hello [FOLDER]
        FROM busybox
        CMD ["echo", "hello"]
    """
    from . import cells, verbs
    from .session import current

    if line.split(maxsplit=1)[:1] == ["build"]:
        verbs.build_cell(current(), line, cell)
        return
    options = parse(_CELLS["container"], line)
    session = current()
    progress = _progress()
    node = verbs.node_finder(session, options.on, progress.report)
    if options.explain:
        _display(verbs.explain_container(session, node, options))
        return
    if options.detach:
        _display_name(cells.start_detached(session, options, cells.shell_words(cell), node))
        return
    if options.name:
        cells.require_text(cell)
    where = f"container {options.name}" if options.name else "a container"
    _run(options, where, cells.container_start(session, options, cell, node, progress.report), progress)


def lab_cell(line: str, cell: str) -> None:
    """Experiment with this cell: %%lab VERB [OPTIONS]; %%lab VERB --help shows them.

    compare     run it as a plain process, in a container, in a machine, and in a container in a machine, several times
                in turns: what each costs, what it sees and what it could reach
    peel        run it in a container, and with walls of the container left out; in a machine made for that

        %%lab compare --rounds 5            %%lab peel --without pid,uts
        echo hello                          echo $$; hostname
    """
    from . import verbs
    from .session import current

    verbs.lab_cell(current(), line, cell, _language())


def asm_cell(line: str, cell: str) -> Any:
    """Assemble this cell and run it on a virtual CPU that this notebook's own hypervisor drives, without QEMU.

    A hypervisor gives a virtual CPU to the processor and waits. The guest's code runs by itself until it does what
    only the hypervisor can answer: that is an exit. Each one is shown, with the line of the cell that caused it: OUT
    and IN (KVM_EXIT_IO), memory that is not there (KVM_EXIT_MMIO), HLT, a triple fault (KVM_EXIT_SHUTDOWN). With
    --steps N every instruction is an exit (KVM_EXIT_DEBUG), and the registers it changed are shown.

        %%asm --registers ax=2,bx=3             %%asm loop --steps 20            %%asm --run none
        add ax, bx      # 2 + 3                 mov cx, 3                        mov si, offset text
        add al, '0'     # as a character        again: dec cx                    mov eax, [si]
        mov dx, 0x3f8   # the serial port       jnz again                        hlt
        out dx, al                              hlt                              text: .asciz "hi"
        hlt

    Intel syntax, by GNU as: # begins a comment, a label's address is "offset label", a name alone is what lies there;
    .byte .word .ascii .fill put bytes, all of it into one section. The machine has memory from address 0 on (beyond
    it nothing answers: the screen of a PC at 0xb8000 is an exit) and a serial port at 0x3f8; there is no firmware.
    The code begins with all registers 0, its stack below it. With a name, the result is a variable: loop.exits,
    loop.registers, loop.output, loop.code.

    --run qemu boots the cell as the boot sector of a whole PC, machine NAME (default: sector), with firmware and
    screen: there int 0x10 writes to the screen (%vm screen NAME), and out 0xf4, al ends the machine.
    """
    from .asm import run_cell

    options = parse_asm(_CELLS["asm"], line)
    if options.run == "qemu":
        _boot_sector(options, cell)
        return None
    program = run_cell(options, cell)
    if options.name:
        _shell().user_ns[options.name] = program
    return program


def _boot_sector(options: argparse.Namespace, cell: str) -> None:
    from . import verbs
    from .asm import DEFAULT_MACHINE, FIRST_LINE
    from .session import current
    from .vm.assembly import assemble, boot_sector

    code = boot_sector(assemble(cell, first_line=FIRST_LINE))
    verbs.sector_cell(current(), options.name or DEFAULT_MACHINE, code, options.timeout_s)


def _display_name(name: str) -> None:
    print(messages.say(f"[lab] container {name} runs: %container logs {name}, %container stop {name}"))


def _run(options: argparse.Namespace, where: str, start: Any, progress: Any) -> None:
    from . import cells
    from .display import show_timings
    from .session import current

    session, variables = current(), _shell().user_ns
    if options.bg:
        background = cells.Background(session, where, start)
        if options.proc:
            variables[options.proc] = background
        return
    run = session.run(where, start)
    try:
        cells.run_cell(session, run, options, variables, progress.show)
    finally:
        if getattr(options, "timings", False):
            show_timings(run.events)


def _progress() -> Any:
    from .display import Progress

    return Progress()


def vm_line(line: str) -> Any:
    """Look at machines and change them: %vm VERB [NAME].

    ls                      the machines there are
    start NAME…             make machines, all or none, and run nothing in them yet
    stop | rm NAME          power off and remove (a machine's disk is gone with it)
    pause | resume NAME     stop the virtual CPUs; let them run on
    update NAME [OPTIONS]   other memory, processors, weight, cap while it runs
    stats [NAME…]           what machines use, as host and hypervisor count it
    snapshot NAME [SNAP]    save its memory under a name; it goes on      snapshots [NAME]   which there are
    restore NAME SNAP       bring it back to that                         snapshot rm NAME:SNAP
    clone NEW --from NAME[:SNAP]   another machine, with the same processes and files
    suspend NAME            save it and end it: resume NAME wakes it, in another notebook too    suspended
    migrate NAME            move it to another QEMU while it runs, and measure how long it stood still
    reset NAME              press the reset button
    logs NAME               the guest's console
    inspect NAME            everything the hypervisor tells, as a JSON document
    inspect NAME registers | memory | devices | queues | interrupts | jit      a part of it as a table
    cp NAME:/PATH HERE      copy a file or folder out of a machine; cp HERE NAME:/PATH into one
    network | network connect LAB NAME     machines in private networks (%%vm NAME --network LAB), by name
    view NAME               the same as a live picture, with buttons
    terminal NAME [COMMAND] a terminal in it; --console: at its serial port
    timeline NAME           what its start consisted of, from the cell to the first byte

    systems                 what can be booted besides this computer's own system, and what of it is here
    boot NAME --system S    start what needs no Linux: memtest, ipxe, uefi; or --cdrom FILE, --disk DATA, [--uefi]
    screen NAME             a picture of its screen; --live: one that follows it and takes keys and clicks
    type NAME TEXT          type on its keyboard; key NAME ctrl-alt-delete; click NAME X Y
    console NAME            its serial port; -f follows it
    poweroff NAME           press its power button

    disk ls | create DATA --size 1g [--fs ext4] | create MINE --from DATA | inspect | rm     disks that stay
    disk attach | detach | limit NAME DATA      in a running machine: [--mount /data] [--read-only] [--bps 10m]
    disk flatten | commit MINE                  an overlay made whole; written into what it lies on
    disk import FILE DATA | export DATA FILE    qcow2, raw, vmdk, vdi, vhdx, vhd, ova
    """
    from . import verbs

    return verbs.run("vm", line, _language())


def container_line(line: str) -> Any:
    """Look at containers and change them: %container VERB [OPTIONS] [NAME] [--on NODE].

    The verbs and their options are docker's; %container VERB --help shows them.

    run | create IMAGE [COMMAND]     make one, and start it or not      start | stop | restart NAME
    exec NAME COMMAND                one more command in it             kill [-s SIGNAL] | rm NAME
    attach NAME [--stdin TEXT]       its output from now on             pause | unpause | wait NAME
    logs NAME [-f] [--tail N]        what it has written                update NAME --memory 64m
    cp NAME:/PATH HERE               copy files, both ways              prune    remove what has ended

    ls | ps                          the containers of a node           top NAME      its processes
    inspect NAME                     a JSON document                    port NAME     its published ports
    stats [NAME] [--no-stream]       what they use                      steps NAME    times of its start
    view [NAME]                      a live picture of the kernel       diff NAME     the files it changed
    timeline [NAME]                  its start, from cell to first byte terminal NAME [COMMAND]
    images                           the images there are               pull REF      fetch one
    import | load FILE               images out of a file               export | save IMAGE FILE
    tag IMAGE NAME                   one more name                      rmi | history IMAGE
    commit NAME IMAGE                make an image of a container       build -t NAME    one of a Dockerfile
    builder prune                    forget the layers that builds keep
    volume ls|create|inspect|rm|prune [NAME]                            named volumes
    network ls|create|inspect|rm [NAME]                                 networks

        %container run -d --name web --restart on-failure:3 busybox httpd -f -p 8080
        %container logs -f web
    """
    from . import verbs

    return verbs.run("container", line, _language())


def lab_line(line: str) -> Any:
    """Everything at once: %lab VERB.

    doctor                  what this computer can do, and why not
    view                    live pictures of the host's kernel and every machine, one tab each
    timeline                the last starts of machines, containers and commands, step by step
    nesting                 what is inside of what, and a process's PID at every level
    replay FILE             show what a view recorded
    lesson NAME             open a lesson: %predict %check %hint %solution %quiz are about it
    progress                what you have done in lessons; --export FILE, --name NAME
    reset                   end and remove everything this notebook started
    """
    from . import verbs

    return verbs.run("lab", line, _language())


# -- IPython


def _shell() -> Any:
    from IPython.core.getipython import get_ipython

    return get_ipython()


def _language() -> str:
    """Return the reader's language: the variable LAB_LANGUAGE of the notebook or the environment, the folder's, the
    locale's.

    The server says which notebook this is (jupyter_server, SessionManager, JPY_SESSION_NAME); lessons lie in en/, ko/.
    """
    # A thread may still write of what was done while the shell is taken down.
    variables = getattr(_shell(), "user_ns", {})
    chosen = str(variables.get("LAB_LANGUAGE") or os.environ.get("LAB_LANGUAGE") or "")
    folders = os.environ.get("JPY_SESSION_NAME", "").split("/")
    chosen = chosen or next((name for name in messages.LANGUAGES if name in folders), "")
    return chosen if chosen in messages.LANGUAGES else messages.from_locale()


def _display(value: Any) -> None:
    from .display import show

    show(value)


def _told(function: Any) -> Any:
    """Let an error of ours end a magic as itself: its own rendering tells the user what a traceback would hide."""

    def magic(*arguments: str) -> Any:
        try:
            return function(*arguments)
        except LabError as error:
            raise error.with_traceback(None) from None

    magic.__doc__ = function.__doc__
    magic.__name__ = function.__name__
    magic.getdoc = lambda: _help(function)  # type: ignore[attr-defined]  # IPython.core.oinspect, `getdoc`
    return magic


def _help(function: Any) -> str:
    """Return what ``%%vm?`` shows: a magic's help in the reader's language."""
    if hasattr(function, "parser"):
        import copy

        return str(messages.say_help(copy.deepcopy(function.parser)).format_help())
    return messages.say_lines(inspect.cleandoc(function.__doc__))


_CELLS: dict[str, Any] = {
    "vm": vm_arguments("%vm")(vm_cell),
    "container": container_arguments("%container")(container_cell),
    "asm": asm_arguments("%asm")(asm_cell),
    "lab": lab_cell,
    **teaching.CELLS,
}
_LINES = {"vm": vm_line, "container": container_line, "lab": lab_line, **teaching.LINES}


def load(ipython: Any) -> None:
    """Register the magics and the completion of their options; a second time changes nothing."""
    messages.follow(_language)
    LabError.say = staticmethod(messages.say)
    for name, function in _CELLS.items():
        ipython.register_magic_function(_told(function), "cell", name)
    for name, function in _LINES.items():
        ipython.register_magic_function(_told(function), "line", name)
    from .completion import match

    if ipython.Completer is not None and match not in ipython.Completer.custom_matchers:
        ipython.Completer.custom_matchers.append(match)
    if teaching.let_through not in ipython.input_transformers_cleanup:
        ipython.input_transformers_cleanup.append(teaching.let_through)
        ipython.events.register("post_run_cell", teaching.compare_after)


def unload(ipython: Any) -> None:
    """Remove the magics and end everything this notebook started."""
    for kind, names in (("cell", _CELLS), ("line", _LINES)):
        for name in names:
            ipython.magics_manager.magics[kind].pop(name, None)
    if teaching.let_through in ipython.input_transformers_cleanup:
        ipython.input_transformers_cleanup.remove(teaching.let_through)
        ipython.events.unregister("post_run_cell", teaching.compare_after)
    session = sys.modules.get("vmcontainer_kernel.session")
    if session is not None:
        session.end()
