"""Words of an instruction: split at white space outside of quotes, variables replaced, quotes taken away (Dockerfile
reference, "Environment replacement").
"""

from __future__ import annotations

from collections.abc import Mapping

from vmcontainer_kernel.container.record import Record

__all__ = ["Word", "Wrong", "expand", "split"]

_DEPTH = 20
_SPECIAL = "@*#?-$!0123456789"


class Wrong(Exception):
    """What is wrong at an offset of the text."""

    def __init__(self, offset: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.offset, self.message, self.hint = offset, message, hint


class Word(Record):
    """A word as it was written, and where it begins."""

    text: str
    offset: int


def split(text: str, offset: int = 0, escape: str = "\\") -> list[Word]:
    """Split at white space that neither quotes nor the escape character protect; the words keep both."""
    words: list[Word] = []
    begin, quote, at = -1, "", 0
    while at < len(text):
        letter = text[at]
        if letter.isspace() and not quote:
            if begin >= 0:
                words.append(Word(text[begin:at], offset + begin))
            begin, at = -1, at + 1
            continue
        begin = at if begin < 0 else begin
        if letter == escape and quote != "'":
            at += 1
        elif letter == quote:
            quote = ""
        elif letter in "'\"" and not quote:
            quote = letter
        at += 1
    if begin >= 0:
        words.append(Word(text[begin:], offset + begin))
    return words


def expand(text: str, variables: Mapping[str, str], *, escape: str = "\\", offset: int = 0, quotes: bool = True) -> str:
    """Replace ``$X ${X} ${X:-word} ${X:+word} ${X:?word}`` and take quotes away; what is not set is empty.

    `quotes` False: they are plain text, as in a heredoc. Raises `Wrong`.
    """
    return _Expander(text, variables, escape, offset, quotes=quotes).until("", 0)


class _Expander:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str, offset: int, *, quotes: bool) -> None:
        self._text, self._variables, self._escape, self._offset = text, variables, escape, offset
        self._quotes = quotes
        self._at = 0

    def _wrong(self, at: int, message: str, hint: str = "") -> Wrong:
        return Wrong(self._offset + at, message, hint)

    def until(self, end: str, depth: int) -> str:
        """Return all up to the character `end`, or to the end of the text for none."""
        begin = self._at
        parts: list[str] = []
        while self._at < len(self._text):
            letter = self._text[self._at]
            if letter == end:
                self._at += 1
                return "".join(parts)
            parts.append(self._piece(letter, depth))
        if end:
            raise self._wrong(begin - 1, f"there is no {end} for this", f"write {end} at its end")
        return "".join(parts)

    def _piece(self, letter: str, depth: int) -> str:
        if letter == "$":
            return self._variable(depth)
        if letter == self._escape and self._quotes:
            self._at += 2
            return self._text[self._at - 1 : self._at]
        if letter == self._escape:
            return self._escaped("$" + self._escape)
        if letter == "'" and self._quotes:
            return self._single()
        if letter == '"' and self._quotes:
            return self._double(depth)
        self._at += 1
        return letter

    def _escaped(self, special: str) -> str:
        """The escape character where it counts only before some characters."""
        follower = self._text[self._at + 1 : self._at + 2]
        self._at += 2 if follower and follower in special else 1
        return follower if follower and follower in special else self._escape

    def _single(self) -> str:
        begin = self._at
        end = self._text.find("'", begin + 1)
        if end < 0:
            raise self._wrong(begin, "there is no second ' for this", "write \\' for the character itself")
        self._at = end + 1
        return self._text[begin + 1 : end]

    def _double(self, depth: int) -> str:
        begin = self._at
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            letter = self._text[self._at]
            if letter == '"':
                self._at += 1
                return "".join(parts)
            if letter == "$":
                parts.append(self._variable(depth))
            elif letter == self._escape:
                parts.append(self._escaped('"$' + self._escape))
            else:
                self._at += 1
                parts.append(letter)
        raise self._wrong(begin, 'there is no second " for this', 'write \\" for the character itself')

    def _variable(self, depth: int) -> str:
        begin = self._at
        self._at += 1
        if self._text[self._at : self._at + 1] == "{":
            self._at += 1
            return self._braced(begin, depth)
        name = self._name()
        return self._variables.get(name, "") if name else "$"

    def _name(self) -> str:
        begin = self._at
        if self._text[begin : begin + 1] and self._text[begin] in _SPECIAL:
            self._at += 1
            return self._text[begin]
        while self._at < len(self._text) and (self._text[self._at].isalnum() or self._text[self._at] == "_"):
            self._at += 1
        return self._text[begin : self._at]

    def _braced(self, begin: int, depth: int) -> str:
        if depth >= _DEPTH:
            raise self._wrong(begin, f"variables within variables, more than {_DEPTH} deep")
        name = self._name()
        value = self._variables.get(name)
        letter = self._text[self._at : self._at + 1]
        if not name or not letter:
            raise self._wrong(
                begin, "${ begins a variable that has no name or no end", "as in ${NAME} or ${NAME:-word}"
            )
        if letter == "}":
            self._at += 1
            return value or ""
        if letter == ":":
            self._at += 1
            value = value or None  # with a colon, empty is as good as not set
            letter = self._text[self._at : self._at + 1]
        if not letter or letter not in "-+?":
            hint = "${X:-word}, ${X:+word} and ${X:?word} are understood"
            raise self._wrong(self._at, f"${{{name}…: this change of a variable is not supported", hint)
        self._at += 1
        return self._modified(begin, name, value, letter, self.until("}", depth + 1))

    def _modified(self, begin: int, name: str, value: str | None, letter: str, word: str) -> str:
        if letter == "+":
            return "" if value is None else word
        if value is None and letter == "?":
            raise self._wrong(begin, f"{name} is not set: {word or 'it is needed here'}", "give it with --build-arg")
        return word if value is None else value
