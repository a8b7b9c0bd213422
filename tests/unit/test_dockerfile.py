"""Dockerfiles as data: lines, words, stages, steps, patterns, cache keys; and whatever text comes, an answer."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.container.build.archives import media_type_of
from vmcontainer_kernel.container.build.cache import key_of
from vmcontainer_kernel.container.build.dockerfile import KEYWORDS, Instruction, parse
from vmcontainer_kernel.container.build.ignore import read_ignore
from vmcontainer_kernel.container.build.lines import read
from vmcontainer_kernel.container.build.plan import Copy, Folder, Given, Run, Step, images, select, uses_context
from vmcontainer_kernel.container.build.stage import plan_stage
from vmcontainer_kernel.container.build.words import Wrong, expand, split
from vmcontainer_kernel.errors import NotFound, UserError

BASE = {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/home"}


def steps(text: str, config: dict[str, Any] | None = None, target: str = "", **arguments: str) -> list[Step]:
    """All steps of a Dockerfile, stage by stage, each on an image with that ``config``."""
    file, wishes = parse(text), Given(arguments)
    chosen = select(file, wishes, target)
    return [step for one in chosen for step in plan_stage(file, one, config or BASE, wishes)]


def last(text: str, **arguments: str) -> dict[str, Any]:
    return steps(text, **arguments)[-1].config


def fault(text: str, **arguments: str) -> tuple[int, int, str]:
    """What is wrong: line, column, the whole text."""
    with pytest.raises(UserError) as caught:
        steps(text, **arguments)
    place = caught.value.where.splitlines()[0].replace(",", "").split()
    return int(place[2]), int(place[4]), str(caught.value)


# -- lines


def test_lines_are_joined_and_comments_left_out() -> None:
    text = "# comment\n\n  RUN a \\\n# inside\n\n   b \\  \n c\nRUN x \\\\\nCMD y\\"
    assert [line.text for line in read(text).lines] == ["RUN a    b  c", "RUN x \\\\", "CMD y"]


def test_another_escape_character() -> None:
    source = read("# escape=`\nRUN a `\n b\\\nCMD c:\\\\")
    assert [line.text for line in source.lines] == ["RUN a  b\\", "CMD c:\\\\"]
    assert read("# a comment ends them\n# escape=`\nRUN a `\nRUN b").escape == "\\"
    with pytest.raises(UserError, match="twice"):
        read("# escape=`\n# escape=`\n")
    with pytest.raises(UserError, match="must be"):
        read("# escape=x\n")


def test_directives_without_meaning_are_told() -> None:
    assert "syntax" in parse("# syntax=docker/dockerfile:1\nFROM a").warnings[0]
    assert "no JSON list" in parse("FROM a\nCMD ['a']").warnings[0]


def test_heredocs() -> None:
    source = read("RUN <<A cat <<-'B'\nA $x\nA\n\tb\n\tB\nCMD x\nRUN echo '<<C' x<<D $((1<<E))")
    assert [line.text for line in source.lines] == ["RUN <<A cat <<-'B'", "CMD x", "RUN echo '<<C' x<<D $((1<<E))"]
    first, second = source.lines[0].heredocs
    assert (first.text, first.expands, second.text, second.expands) == ("A $x\n", True, "b\n", False)
    assert source.lines[0].tail == "A $x\nA\n\tb\n\tB\n"
    assert "has no end" in fault("FROM a\nRUN <<EOF\nx\n")[2]


# -- words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$X", "x"),
        ("${X}y", "xy"),
        ("$Xy", ""),
        ("${U:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${U-d}", "d"),
        ("${X:+d}", "d"),
        ("${E:+d}", ""),
        ("${E+d}", "d"),
        ("${U:-${X}/$X}", "x/x"),
        ("\\$X", "$X"),
        ("'$X'", "$X"),
        ('"$X \\$X \\a"', "x $X \\a"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("a$.b", "a$.b"),
        ("'a'\"b\"c", "abc"),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert expand(text, {"X": "x", "E": ""}) == value


@pytest.mark.parametrize("text", ["'a", '"a', "${", "${X", "${X:-a", "${}", "${X%a}", "${X:=a}", "${U:?}", "${U?}"])
def test_words_that_are_wrong(text: str) -> None:
    with pytest.raises(Wrong):
        expand(text, {"X": "x"})


def test_variables_do_not_nest_without_end() -> None:
    with pytest.raises(Wrong, match="deep"):
        expand("${a:-" * 5000 + "}" * 5000, {})


def test_split() -> None:
    assert [one.text for one in split('a \'b c\' d\\ e "f\\" g"')] == ["a", "'b c'", "d\\ e", '"f\\" g"']
    assert [one.offset for one in split(" a  b", 10)] == [11, 14]


# -- stages


def test_only_needed_stages_are_built() -> None:
    file = parse("FROM a AS one\nFROM b AS two\nRUN x\nFROM one AS three\nCOPY --from=3x /a /b\nFROM two")
    wishes = Given({})
    assert [one.number for one in select(file, wishes)] == [1, 3]
    assert [one.number for one in select(file, wishes, "THREE")] == [0, 2]
    assert images(select(file, wishes, "2")) == ["a", "3x"]
    assert not uses_context(select(file, wishes))
    assert uses_context(select(parse("FROM a\nADD x /y"), wishes))
    assert not uses_context(select(parse("FROM a\nCOPY <<E /y\nE\n"), wishes))
    with pytest.raises(NotFound, match="no such stage"):
        select(file, wishes, "4")


def test_arguments_before_from() -> None:
    text = "ARG V=1\nARG W=$V-x\nFROM base:$W\nARG V\nARG W=mine\nENV A=$V B=$W\nFROM scratch\nENV C=$V"
    file = parse(text)
    assert select(file, Given({}))[-1].base == "scratch"
    assert select(file, Given({"V": "2"}), "0")[0].base == "base:2-x"
    assert last(text, target="0")["Env"][-2:] == ["A=1", "B=mine"]
    assert last(text)["Env"][-1] == "C="
    assert last("ARG V=1\nFROM a\nARG V\nENV A=$V", V="3")["Env"][-1] == "A=3"
    assert last("FROM a\nARG TARGETARCH\nENV A=$TARGETARCH")["Env"][-1] == "A=amd64"


# -- instructions


def test_run_has_arguments_where_no_variable_hides_them() -> None:
    run = steps("FROM a\nARG X=1\nARG PATH=/x\nRUN echo $X")[-1].action
    assert run == Run(("/bin/sh", "-c", "echo $X"), {"X": "1"}, "none")
    assert steps('FROM a\nSHELL ["/bin/ash", "-ec"]\nRUN x')[-1].action == Run(("/bin/ash", "-ec", "x"), {}, "none")
    assert steps('FROM a\nRUN ["x", "$y"]')[-1].action == Run(("x", "$y"), {}, "none")


def test_env_sees_what_was_before_its_line() -> None:
    assert last("FROM a\nENV x=hello\nENV x=bye y=$x\nENV z=$x")["Env"][1:] == ["x=bye", "y=hello", "z=bye"]
    assert last("FROM a\nENV old  the  rest 'q'")["Env"][-1] == "old=the  rest q"


def test_command_and_entry_point() -> None:
    assert last("FROM a\nCMD x")["Cmd"] == ["/bin/sh", "-c", "x"]
    assert "Cmd" not in last('FROM a\nENTRYPOINT ["e"]')
    assert last('FROM a\nCMD ["x"]\nENTRYPOINT ["e"]')["Cmd"] == ["x"]
    assert last("FROM a\nENTRYPOINT []")["Entrypoint"] == []


def test_copy() -> None:
    def copy(text: str) -> Copy:
        action = steps(f"FROM a AS x\nFROM b\n{text}")[-1].action
        assert isinstance(action, Copy)
        return action

    assert copy("COPY a ./b//c /d/") == Copy(("a", "b/c"), "/d/", "", "", None, False, ())
    assert copy("COPY . .").target == "/home/" and copy("COPY . .").sources == ("",)
    assert copy("COPY a ../../../b").target == "/b"
    assert copy('COPY ["a b", "/c d"]').sources == ("a b",)
    assert copy("COPY --from=X --chown=1:2 --chmod=755 a /b").replace(sources=()) == Copy(
        (), "/b", 0, "1:2", 0o755, False, ()
    )
    assert copy("COPY --from=image:1 a /b").origin == "image:1"
    assert copy("ADD a /b").extracts


def test_the_rest() -> None:
    text = "FROM a\nWORKDIR sub\nWORKDIR /x/../y\nWORKDIR z z\nEXPOSE 1 2-3/udp\nHEALTHCHECK --retries=2 CMD x"
    found = steps(text)
    assert [one.action.path for one in found if isinstance(one.action, Folder)] == ["/home/sub", "/y", "/y/z z"]
    assert found[-1].config["ExposedPorts"] == {"1/tcp": {}, "2/udp": {}, "3/udp": {}}
    assert found[-1].config["Healthcheck"] == {"Test": ["CMD-SHELL", "x"], "Retries": 2}
    assert last("FROM a\nHEALTHCHECK NONE")["Healthcheck"] == {"Test": ["NONE"]}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("FRM a", (1, 1), "did you mean FROM"),
        ("RUN x", (1, 1), "begin with FROM"),
        ("FROM a b", (1, 8), "FROM IMAGE AS NAME"),
        ("FROM a AS 1", (1, 11), "stage's name"),
        ("FROM a AS x\nFROM b AS X", (2, 11), "already"),
        ("FROM $NOTHING", (1, 6), "empty"),
        ("FROM --platform=linux/s390x a", (1, 1), "linux/amd64"),
        ("FROM a\nCOPY x", (2, 1), "something to copy"),
        ("FROM a\nCOPY x \\\n  y z", (3, 5), "/ at its end"),
        ("FROM a\nCOPY ../x /y", (2, 6), "leads out"),
        ("FROM a\nCOPY --from=$x a /b", (2, 13), "no variables"),
        ("FROM a\nCOPY --from=0 a /b", (2, 13), "above this one"),
        ("FROM a\nCOPY --chmod=9 a /b", (2, 14), "no mode"),
        ("FROM a\nRUN --mount=type=cache,target=/x y", (2, 5), "layer cache"),
        ("FROM a\nRUN --network=bridge y", (2, 1), "none, or host"),
        ("FROM a\nADD http://x/y /z", (2, 5), "fetches nothing"),
        ("FROM a\nONBUILD RUN x", (2, 1), "ONBUILD is not supported"),
        ("FROM a\nMAINTAINER me", (2, 1), "LABEL"),
        ("FROM a\nENV x", (2, 5), "no value"),
        ("FROM a\nENV x=1 y", (2, 9), "no ="),
        ("FROM a\n\tENV x='1", (2, 8), "second '"),
        ("FROM a\nARG 1=2", (2, 5), "no name"),
        ("FROM a\nEXPOSE 80 http", (2, 11), "no port"),
        ("FROM a\nUSER a b", (2, 8), "one word"),
        ("FROM a\nSTOPSIGNAL SIGNOTHING", (2, 12), "SIGNOTHING"),
        ("FROM a\nSHELL sh -c", (2, 7), "JSON"),
        ("FROM a\nRUN []", (2, 5), "empty"),
        ("FROM a\nHEALTHCHECK x", (2, 13), "HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK --interval=1x CMD x", (2, 24), "no time"),
        ("FROM a\nCMD", (2, 1), "nothing follows"),
        ("FROM a\nRUN <<E\n#!/bin/x\nE", (2, 5), "name the program"),
    ],
)
def test_what_is_wrong_is_shown_with_its_place(text: str, place: tuple[int, int], words: str) -> None:
    line, column, told = fault(text)
    assert words in told and (line, column) == place, told


def test_what_is_no_dockerfile() -> None:
    for text in ("", "# only a comment", "ARG x=1", "FROM a\0", "x" * (2 << 20)):
        with pytest.raises(UserError):
            parse(text)


# -- patterns, archives, keys


@pytest.mark.parametrize(
    ("rules", "ignored", "kept"),
    [
        ("*.pyc", ["a.pyc"], ["b/a.pyc", "a.pyc.x"]),
        ("**/*.pyc", ["a.pyc", "b/c/a.pyc"], ["apyc"]),
        ("build", ["build", "build/x/y"], ["rebuild", "x/build"]),
        ("/a/", ["a", "a/b"], ["b/a"]),
        ("*\n!keep", ["a", "b/keep"], ["keep", "keep/x"]),
        ("a/**\n!a/b\na/b/c", ["a/x", "a/b/c"], ["a/b", "a/b/d"]),
        ("[a-c]?\n# comment\n\n", ["a1"], ["d1", "a", "# comment"]),
        ("[^a]", ["b"], ["a", "bb"]),
        ("a\\*", ["a*"], ["ab"]),
        ("./x//y/../z", ["x/z"], ["x/y"]),
    ],
)
def test_ignore_rules(rules: str, ignored: list[str], kept: list[str]) -> None:
    ignore = read_ignore(rules)
    assert [path for path in ignored if not ignore.ignores(path)] == []
    assert [path for path in kept if ignore.ignores(path)] == []


def test_a_folder_is_passed_over_only_if_nothing_in_it_is_taken_back() -> None:
    assert read_ignore("a").prunes("a") and not read_ignore("a\n!a/b").prunes("a")


def test_archives_are_told_by_their_content() -> None:
    tar = b"x" * 257 + b"ustar" + b"\0" * 250
    assert media_type_of(tar, "x").endswith(".tar") and media_type_of(b"ustar", "x.tar") == ""
    assert media_type_of(b"\x1f\x8bnothing", "x.tgz") == ""
    with pytest.raises(UserError, match="xz"):
        media_type_of(b"\xfd7zXZ\0", "x.tar.xz")


def test_a_key_is_of_all_that_a_step_can_see() -> None:
    run, copy = Run(("a",), {}, "none"), Copy(("a",), "/b", "", "", None, False, ())
    seen = [
        key_of(run, ["1"], {}),
        key_of(run, ["1", "2"], {}),
        key_of(run, ["1"], {"Env": ["A=1"]}),
        key_of(run, ["1"], {"User": "1"}),
        key_of(run, ["1"], {"WorkingDir": "/"}),
        key_of(run.replace(variables={"A": "1"}), ["1"], {}),
        key_of(run.replace(network="host"), ["1"], {}),
        key_of(run, ["1"], {}, time_s=1),
        key_of(copy, ["1"], {}),
        key_of(copy, ["1"], {}, content="x"),
        key_of(copy.replace(owner="1"), ["1"], {}),
        key_of(copy.replace(mode=1), ["1"], {}),
        key_of(copy.replace(extracts=True), ["1"], {}),
        key_of(Folder("a"), ["1"], {}),
    ]
    assert len(set(seen)) == len(seen)
    assert key_of(run, ["1"], {"Labels": {"a": "b"}, "Cmd": ["x"]}) == seen[0]


# -- properties

WORD = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=20)
MARKS = "\n| |\\\n|#|<<E|\nE\n|$|${|}|:-|'|\"|[|]|,|=|--from=|--chmod=|--x|/|\t|a|1|*|escape=`|!"
PIECES = st.sampled_from([*KEYWORDS, "FROM a\n", *MARKS.split("|")])


@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join)))
def test_any_text_has_an_answer(text: str) -> None:
    for whole in (text, f"FROM a\n{text}"):
        try:
            steps(whole)
        except UserError as error:
            assert error.message
    try:
        read_ignore(text).ignores("a/b")
    except UserError as error:
        assert error.message


@given(WORD)
def test_a_quoted_word_is_itself(word: str) -> None:
    special = "\\$'\"" + string.whitespace
    quoted = "".join(f"\\{letter}" if letter in special or letter.isspace() else letter for letter in word)
    assert expand(quoted, {}) == word
    assert [one.text for one in split(quoted)] == [quoted]
    assert expand("'" + word.replace("'", "'\\''") + "'", {}) == word


@given(st.lists(st.tuples(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), WORD), min_size=1, max_size=4))
def test_env_round_trip(pairs: list[tuple[str, str]]) -> None:
    """What is written as ENV comes out as it was, however it is broken into lines."""
    quoted = [name + "='" + value.replace("'", "'\\''") + "'" for name, value in pairs]
    for glue in (" ", " \\\n ", "\\\n# between\n\n  "):
        config = steps("FROM a\neNv " + glue.join(quoted), config={"Env": []})[-1].config
        assert config["Env"] == [f"{name}={value}" for name, value in dict(pairs).items()]


@given(st.lists(WORD, min_size=1, max_size=5))
def test_exec_form_round_trip(strings: list[str]) -> None:
    import json

    instruction: Instruction = parse(f"FROM a\nCMD {json.dumps(strings)}").stages[0].instructions[0]
    assert [one.text for one in instruction.words] == strings
