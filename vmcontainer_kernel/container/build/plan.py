"""What is to be built: which stages, on which images, and the steps they come to; worked out before anything is done.

A step has an `Action` if it changes files (RUN, COPY, ADD, WORKDIR), and always the image's configuration after it
(image-spec, config.md). `stage` makes them.
"""

from __future__ import annotations

from vmcontainer_kernel.container.build.dockerfile import Dockerfile, Instruction, Stage
from vmcontainer_kernel.container.build.lines import Heredoc
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import NotFound, UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "EPOCH",
    "SCRATCH",
    "Action",
    "Copy",
    "Folder",
    "Given",
    "Order",
    "Run",
    "Step",
    "Wanted",
    "arguments_of",
    "check_order",
    "global_scope",
    "images",
    "origin_of",
    "select",
    "stage_numbers",
    "uses_context",
]

SCRATCH = "scratch"
EPOCH = "SOURCE_DATE_EPOCH"
_MAX_TIME_S = 1 << 36
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Given(Record):
    """What the user gives besides the Dockerfile: ``--build-arg``, the machine (uname(2)), ``--network``."""

    arguments: dict[str, str]
    machine: str = "x86_64"
    network: str = "none"

    @property
    def platform(self) -> str:
        """The only platform there is: the node's."""
        return f"linux/{_ARCHITECTURES.get(self.machine, self.machine)}"

    def platform_arguments(self) -> dict[str, str]:
        """Return the arguments that are set without being given (Dockerfile reference, "Automatic platform ARGs")."""
        found: dict[str, str] = {}
        for whose in ("TARGET", "BUILD"):
            system, _, architecture = self.platform.partition("/")
            found |= {f"{whose}PLATFORM": self.platform, f"{whose}OS": system, f"{whose}ARCH": architecture}
        return found


class Run(Record):
    """Run a program in the image; `variables`: build arguments, seen besides the image's own."""

    argv: tuple[str, ...]
    variables: dict[str, str]
    network: str


class Copy(Record):
    """Copy files to `target`, an absolute path; one with a / at its end is a folder.

    `origin`: empty for the context, else a stage's number or an image's name. `extracts`: archives are unpacked (ADD).
    """

    sources: tuple[str, ...]
    target: str
    origin: int | str
    owner: str
    mode: int | None
    extracts: bool
    documents: tuple[Heredoc, ...]


class Folder(Record):
    """Make a folder unless it is there."""

    path: str


Action = Run | Copy | Folder


class Step(Record):
    """One instruction: what is shown of it, what it does to files, and the image's ``config`` afterwards."""

    instruction: Instruction
    text: str
    action: Action | None
    config: dict[str, Any]


class Order(Record):
    """What is to be built: the file, its arguments, the image's name (with its tag), the stage; whether the cache is
    not asked.
    """

    file: Dockerfile
    given: Given
    name: str
    target: str = ""
    no_cache: bool = False

    @property
    def time_s(self) -> int:
        """The time of everything in the image."""
        text = self.given.arguments.get(EPOCH, "0")
        if not text.isdecimal() or len(text) > 11 or int(text) > _MAX_TIME_S:
            raise UserError(f"{EPOCH}={text}: this must be seconds since 1970", hint="as of date +%s")
        return int(text)


class Wanted(Record):
    """A stage that is to be built; `base`: the number of an earlier stage, or an image's name."""

    number: int
    stage: Stage
    base: int | str


def select(file: Dockerfile, given: Given, target: str = "") -> list[Wanted]:
    """Return the stages that `target` (the last one, if empty) needs, itself last."""
    scope = global_scope(file, given)
    names = stage_numbers(file)
    wanted = names.get(target.lower(), int(target) if target.isdecimal() and len(target) < 6 else -1)
    wanted = len(file.stages) - 1 if not target else wanted
    if not 0 <= wanted < len(file.stages):
        raise NotFound(f"--target {target}: there is no such stage", hint=f"there are: {' '.join(names) or 'none'}")
    bases = [_base(stage, number, names, scope, given) for number, stage in enumerate(file.stages[: wanted + 1])]
    needed, todo = set(), [wanted]
    while todo:
        number = todo.pop()
        if number in needed:
            continue
        needed.add(number)
        origins = [origin_of(one, names, number) for one in file.stages[number].instructions if "from" in one.flags]
        todo += [one for one in (bases[number], *origins) if isinstance(one, int)]
    return [Wanted(number, file.stages[number], bases[number]) for number in sorted(needed)]


def uses_context(wanted: list[Wanted]) -> bool:
    """Tell whether a step reads the context."""
    instructions = [one for each in wanted for one in each.stage.instructions]
    return any(
        one.keyword in ("COPY", "ADD") and "from" not in one.flags and len(one.words) > len(one.heredocs) + 1
        for one in instructions
    )


def images(wanted: list[Wanted]) -> list[str]:
    """Return the names of the images that are needed, as the Dockerfile has them."""
    found = [one.base for one in wanted if isinstance(one.base, str) and one.base != SCRATCH]
    earlier: dict[str, int] = {}
    for each in wanted:
        for one in each.stage.instructions:
            if "from" in one.flags and isinstance(origin := origin_of(one, earlier, each.number), str):
                found.append(origin)
        earlier |= {each.stage.name: each.number} if each.stage.name else {}
    return list(dict.fromkeys(found))


def stage_numbers(file: Dockerfile) -> dict[str, int]:
    """Return the stages' numbers by their names."""
    return {stage.name: number for number, stage in enumerate(file.stages) if stage.name}


def global_scope(file: Dockerfile, given: Given) -> dict[str, str]:
    """Return the arguments that FROM sees: those before it, and what says which platform this is."""
    scope = given.platform_arguments()
    for one in file.arguments:
        for name, value in arguments_of(one, scope):
            chosen = given.arguments.get(name, value)
            if chosen is not None:
                scope[name] = chosen
    return scope


def arguments_of(one: Instruction, scope: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Return what ARG declares: names, and their defaults if they have one."""
    found = []
    for word in one.words:
        name, equals, text = word.text.partition("=")
        inner = word.replace(text=text, offset=word.offset + len(name) + 1)
        found.append((name, one.expand(inner, scope) if equals else None))
    return found


def _base(stage: Stage, number: int, names: dict[str, int], scope: Mapping[str, str], given: Given) -> int | str:
    one = stage.base
    platform = one.flag("platform", scope)
    if platform not in ("", given.platform):
        raise one.fault(f"--platform={platform}: this node is {given.platform}", "leave --platform out")
    word = one.words[0]
    reference = one.expand(word, scope)
    if not reference:
        hint = "an ARG before FROM gives it a value, as in ARG VERSION=1"
        raise one.fault(f"{word.text} is empty here", hint, word.offset)
    return names[reference.lower()] if names.get(reference.lower(), number) < number else reference


def origin_of(one: Instruction, names: dict[str, int], number: int) -> int | str:
    """Return where ``COPY --from`` copies from: an earlier stage's number, or an image's name."""
    word = one.flags["from"]
    text = word.text
    if "$" in text:
        raise one.fault(
            "--from takes no variables", "name a stage FROM … AS NAME instead, and write its name", word.offset
        )
    found = names.get(text.lower(), int(text) if text.isdecimal() and len(text) < 6 else text)
    if isinstance(found, int) and found >= number:
        raise one.fault(f"--from={text}: only stages above this one can be copied from", offset=word.offset)
    return found


def check_order(order: Order) -> list[Wanted]:
    """Find what can be found without an image: wrong arguments, names and stages."""
    order.time_s  # noqa: B018 - it is checked when it is read
    return select(order.file, order.given, order.target)
