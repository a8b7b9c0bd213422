"""The steps of one stage: a small machine that reads instructions and changes an image's configuration."""

from __future__ import annotations

import json
import posixpath

from vmcontainer_kernel.container.build.dockerfile import Dockerfile, Instruction, exec_form, pairs
from vmcontainer_kernel.container.build.lines import Heredoc
from vmcontainer_kernel.container.build.plan import (
    Action,
    Copy,
    Folder,
    Given,
    Run,
    Step,
    Wanted,
    arguments_of,
    global_scope,
    origin_of,
    stage_numbers,
)
from vmcontainer_kernel.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["plan_stage"]

SHELL = ("/bin/sh", "-c")
_PROXIES = frozenset(f"{name}_proxy" for name in ("http", "https", "ftp", "no", "all"))
_PROXIES |= frozenset(name.upper() for name in _PROXIES)


def plan_stage(
    file: Dockerfile, wanted: Wanted, base_config: Mapping[str, Any], given: Given, used: set[str] | None = None
) -> list[Step]:
    """Return the steps of a stage on an image with this ``config``; `used` is told the build arguments it asks for."""
    planner = _Planner(stage_numbers(file), wanted.number, dict(base_config), global_scope(file, given), given)
    steps = [planner.step(one) for one in wanted.stage.instructions]
    if used is not None:
        used |= planner.declared | {name for one in file.arguments for name, _ in arguments_of(one, {})}
    return steps


class _Planner:
    """The state that instructions change: configuration, arguments in scope, whether CMD was set in this stage."""

    def __init__(
        self, names: dict[str, int], number: int, config: dict[str, Any], scope: dict[str, str], given: Given
    ) -> None:
        self._names, self._number, self._config, self._global, self._given = names, number, config, scope, given
        self._arguments = {name: value for name, value in given.arguments.items() if name in _PROXIES}
        self.declared: set[str] = set(self._arguments)
        self._command_set = False

    def step(self, one: Instruction) -> Step:
        """Carry an instruction over; the state is what it leaves."""
        action: Action | None = getattr(self, f"_{one.keyword.lower()}")(one)
        flags = "".join(f" --{name}={word.text}" for name, word in one.flags.items())
        text = f"{one.keyword}{flags} {one.body}"
        if isinstance(action, Run):
            text = f"RUN {' '.join(action.argv)}"
        return Step(one, text, action, json.loads(json.dumps(self._config)))

    @property
    def _environment(self) -> dict[str, str]:
        return dict(one.partition("=")[::2] for one in self._config.get("Env") or [])

    @property
    def _variables(self) -> dict[str, str]:
        """What words are expanded with: ENV comes before ARG (Dockerfile reference, "Using ARG variables")."""
        return self._arguments | self._environment

    def _shell_or_exec(self, one: Instruction) -> list[str]:
        strings = exec_form(one.body)
        if strings is not None:
            return list(strings)
        return [*(self._config.get("Shell") or SHELL), one.body]

    def _arg(self, one: Instruction) -> None:
        for name, default in arguments_of(one, self._variables):
            self.declared.add(name)
            value = self._given.arguments.get(name, self._global.get(name) if default is None else default)
            if value is not None:
                self._arguments[name] = value

    def _env(self, one: Instruction) -> None:
        environment = self._environment | dict(pairs(one, self._variables))
        self._config["Env"] = [f"{name}={value}" for name, value in environment.items()]

    def _label(self, one: Instruction) -> None:
        self._config["Labels"] = (self._config.get("Labels") or {}) | dict(pairs(one, self._variables))

    def _run(self, one: Instruction) -> Run:
        argv = self._heredoc_command(one) if one.heredocs else self._shell_or_exec(one)
        if not argv:
            raise one.fault("the list is empty", 'as in RUN ["echo", "hello"]', one.offset)
        network = one.flag("network", self._variables) or self._given.network
        if network == "default":
            network = self._given.network
        if network not in ("none", "host"):
            hint = "none, or host for the node's own network"
            raise one.fault(f"--network={network} is not supported here", hint)
        variables = {name: value for name, value in self._arguments.items() if name not in self._environment}
        return Run(tuple(argv), variables, network)

    def _heredoc_command(self, one: Instruction) -> list[str]:
        """A document alone is the script; with words before it, it is their input, which the shell arranges."""
        shell = [*(self._config.get("Shell") or SHELL)]
        if len(one.words) > 1:
            return [*shell, f"{one.body}\n{one.line.tail}"]
        if one.heredocs[0].text.startswith("#!"):
            raise one.fault("a heredoc with #! is not supported", "name the program: RUN python3 <<EOF", one.offset)
        return [*shell, one.heredocs[0].text]

    def _copy(self, one: Instruction) -> Copy:
        origin: int | str = origin_of(one, self._names, self._number) if "from" in one.flags else ""
        documents = {f"<<{doc.name}": doc for doc in one.heredocs}
        *words, last = one.words
        sources, found = [], []
        for word in words:
            bare = word.text.replace("<<-", "<<").replace('"', "").replace("'", "")
            if bare in documents:
                found.append(self._document(one, documents[bare]))
            else:
                sources.append(self._source(one, one.expand(word, self._variables), word.offset))
        target = one.expand(last, self._variables)
        if not target or (len(words) > 1 and not target.endswith("/") and posixpath.basename(target) != "."):
            hint = "write a / at its end, as in COPY a b /app/"
            raise one.fault("several files need a folder to go to", hint, last.offset)
        owner, mode = one.flag("chown", self._variables), self._mode(one)
        return Copy(tuple(sources), self._absolute(target), origin, owner, mode, one.keyword == "ADD", tuple(found))

    _add = _copy

    def _document(self, one: Instruction, document: Heredoc) -> Heredoc:
        if not document.expands:
            return document
        word = one.words[0].replace(text=document.text)
        return document.replace(text=one.expand(word, self._variables, quotes=False))

    def _source(self, one: Instruction, path: str, offset: int) -> str:
        if one.keyword == "ADD" and ("://" in path or path.startswith("git@")):
            hint = "fetch it in a RUN with --network=host, or put the file beside the Dockerfile"
            raise one.fault(f"ADD fetches nothing: {path}", hint, offset)
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path:
            hint = "copy it into the folder first, or give the folder above as context"
            raise one.fault(f"{path} leads out of the folder that is built from", hint, offset)
        return "/".join(parts)

    def _mode(self, one: Instruction) -> int | None:
        text = one.flag("chmod", self._variables)
        if text and (text.strip("01234567") or int(text, 8) > 0o7777):
            raise one.fault(
                f"--chmod={text} is no mode", "an octal number, as in --chmod=755", one.flags["chmod"].offset
            )
        return int(text, 8) if text else None

    def _absolute(self, path: str) -> str:
        folder = self._config.get("WorkingDir") or "/"
        ending = "/" if path.endswith(("/", "/.")) or path in (".", "") else ""
        # Two slashes at the front are something of their own (POSIX, 4.13); here they are not.
        clean = "/" + posixpath.normpath(posixpath.join("/", folder, path)).lstrip("/")
        return clean if clean == "/" else clean + ending

    def _workdir(self, one: Instruction) -> Folder:
        word = one.words[0].replace(text=one.body, offset=one.offset)
        path = one.expand(word, self._variables)
        if not path or "\0" in path:
            raise one.fault(f"{word.text} is empty here", offset=word.offset)
        self._config["WorkingDir"] = self._absolute(path).rstrip("/") or "/"
        return Folder(self._config["WorkingDir"])

    def _user(self, one: Instruction) -> None:
        user = one.expand(one.words[0], self._variables)
        if not user:
            raise one.fault(f"{one.body} is empty here", offset=one.offset)
        self._config["User"] = user

    def _cmd(self, one: Instruction) -> None:
        self._config["Cmd"] = self._shell_or_exec(one)
        self._command_set = True

    def _entrypoint(self, one: Instruction) -> None:
        self._config["Entrypoint"] = self._shell_or_exec(one)
        if not self._command_set:
            self._config.pop("Cmd", None)  # it was meant for the entry point of the image below

    def _shell(self, one: Instruction) -> None:
        self._config["Shell"] = list(exec_form(one.body) or ())
        if not self._config["Shell"]:
            raise one.fault("the list is empty", 'as in SHELL ["/bin/sh", "-c"]', one.offset)

    def _expose(self, one: Instruction) -> None:
        ports = dict(self._config.get("ExposedPorts") or {})
        for word in one.words:
            numbers, _, protocol = one.expand(word, self._variables).partition("/")
            first, _, last = numbers.partition("-")
            kind = protocol.lower() or "tcp"
            if not all(_is_port(text) for text in (first, last or first)) or kind not in ("tcp", "udp", "sctp"):
                raise one.fault(f"{word.text[:40]} is no port", "as in EXPOSE 80 or EXPOSE 53/udp", word.offset)
            ports |= {f"{port}/{kind}": {} for port in range(int(first), int(last or first) + 1)}
        self._config["ExposedPorts"] = ports

    def _volume(self, one: Instruction) -> None:
        paths = [one.expand(word, self._variables) for word in one.words]
        if not all(paths):
            raise one.fault("one of the paths is empty", offset=one.offset)
        self._config["Volumes"] = (self._config.get("Volumes") or {}) | {path: {} for path in paths}

    def _stopsignal(self, one: Instruction) -> None:
        from vmcontainer_kernel.container.signals import number_of

        text = one.expand(one.words[0], self._variables)
        try:
            number_of(text)
        except UserError as error:
            raise one.fault(error.message, error.hint, one.offset) from None
        self._config["StopSignal"] = text

    def _healthcheck(self, one: Instruction) -> None:
        keyword, _, rest = one.body.partition(" ")
        if keyword.upper() == "NONE" and not rest.strip():
            self._config["Healthcheck"] = {"Test": ["NONE"]}
            return
        if keyword.upper() != "CMD" or not rest.strip():
            raise one.fault("it is HEALTHCHECK CMD command or HEALTHCHECK NONE", offset=one.offset)
        strings = exec_form(rest.strip())
        test = ["CMD-SHELL", rest.strip()] if strings is None else ["CMD", *strings]
        check: dict[str, Any] = {"Test": test}
        for flag, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start-period", "StartPeriod")):
            if flag in one.flags:
                check[key] = _nanoseconds(one, flag)
        if "retries" in one.flags:
            check["Retries"] = _whole(one, "retries")
        self._config["Healthcheck"] = check


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536


def _whole(one: Instruction, flag: str) -> int:
    word = one.flags[flag]
    if not word.text.isdecimal() or len(word.text) > 6:
        raise one.fault(f"--{flag}={word.text[:40]} is no whole number", offset=word.offset)
    return int(word.text)


def _nanoseconds(one: Instruction, flag: str) -> int:
    """Return a time such as ``1m30s`` as Docker's images have it."""
    import re

    word = one.flags[flag]
    units = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
    parts = re.findall(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", word.text)
    if not parts or "".join(number + unit for number, unit in parts) != word.text:
        raise one.fault(f"--{flag}={word.text[:40]} is no time", "as in 30s or 1m30s", word.offset)
    return sum(round(float(number) * units[unit]) for number, unit in parts)
