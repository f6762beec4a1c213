"""Whether bytes are the beginning of a JSON object, byte by byte: what `response_format: json_object` is held to.

JSON nests without end, so that no table of states holds it; a stack does. Whitespace between parts is held to a line's
end and the indentation of what is open, or a model that means to say something else would write it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

DEEPEST = 64
END_OF_LINE, INDENTATION = 2, 4
_SPACE, _DIGITS, _HEX = frozenset(b" \n\r\t"), frozenset(b"0123456789"), frozenset(b"0123456789abcdefABCDEF")
_WORDS = {b[0]: b for b in (b"true", b"false", b"null")}
_NUMBER = {
    "-": ("0", "i"),
    "0": (".", "e", "end"),
    "i": ("i", ".", "e", "end"),
    ".": ("f",),
    "f": ("f", "e", "end"),
    "e": ("s", "x"),
    "s": ("x",),
    "x": ("x", "end"),
}
"""Parts of a number, and what may follow: minus, a lone 0, whole digits, point, fraction, e, its sign, exponent."""


@dataclass
class JsonObject:
    """A JSON object that is being written. `expects`: what may come; `stack`: "{" and "[" that are open."""

    stack: str = ""
    expects: str = "object"
    rest: bytes = b""
    blank: int = 0

    @property
    def done(self) -> bool:
        """Whether the object is whole."""
        return self.expects == "nothing"

    def copy(self) -> JsonObject:
        return JsonObject(self.stack, self.expects, self.rest, self.blank)

    def takes(self, data: bytes) -> bool:
        """Go on by these bytes; False, and the state of no use, where they are no JSON."""
        return all(self._take(b) for b in data)

    def _take(self, b: int) -> bool:
        e = self.expects
        if e == "string" or e == "key":
            return self._in_string(b)
        if e.startswith("number"):
            part = _part(e[6:], b)
            if part is not None:
                self.expects = f"number{part}"
                return True
            if "end" not in _NUMBER[e[6:]]:
                return False
            self.expects = "after"
        elif e == "word":
            if not self.rest or self.rest[0] != b:
                return False
            self.rest = self.rest[1:]
            self.expects = "word" if self.rest else "after"
            return True
        return self._between(b)

    def _in_string(self, b: int) -> bool:
        if self.rest:
            if self.rest == b"\\":
                self.rest = b"uuuu" if b == ord("u") else b""
                return b in b'"\\/bfnrtu'
            self.rest = self.rest[1:]
            return b in _HEX
        if b == ord("\\"):
            self.rest = b"\\"
        elif b == ord('"'):
            self.expects = "colon" if self.expects == "key" else "after"
        return b >= 0x20

    def _between(self, b: int) -> bool:
        if b in _SPACE:
            self.blank += 1
            return not self.done and self.blank <= END_OF_LINE + INDENTATION * len(self.stack)
        self.blank = 0
        e, c = self.expects, chr(b)
        if e == "colon":
            self.expects = "value"
            return c == ":"
        if e in ("first-key", "next-key") and c == '"':
            self.expects = "key"
            return True
        if e == "after" and c == "," and self.stack:
            self.expects = "next-key" if self.stack[-1] == "{" else "value"
            return True
        if (e in ("after", "first-key") and c == "}") or (e in ("after", "first-value") and c == "]"):
            fits = self.stack[-1:] == ("{" if c == "}" else "[")
            self.stack = self.stack[:-1]
            self.expects = "after" if self.stack else "nothing"
            return fits
        if e == "object" or e in ("value", "first-value"):
            return self._value(b, c, e == "object")
        return False

    def _value(self, b: int, c: str, only_object: bool) -> bool:
        if c == "{" or (c == "[" and not only_object):
            self.stack += c
            self.expects = "first-key" if c == "{" else "first-value"
            return len(self.stack) <= DEEPEST
        if only_object:
            return False
        if c == '"':
            self.expects = "string"
        elif b in _WORDS:
            self.expects, self.rest = "word", _WORDS[b][1:]
        elif c == "-" or b in _DIGITS:
            self.expects = "number" + ("-" if c == "-" else "0" if c == "0" else "i")
        else:
            return False
        return True


def _part(part: str, b: int) -> str | None:
    """The part of a number that a byte goes on with."""
    c = chr(b)
    for following in _NUMBER[part]:
        fits = {
            "0": c == "0",
            "i": b in _DIGITS and (part == "i" or c != "0"),
            ".": c == ".",
            "f": b in _DIGITS,
            "e": c in "eE",
            "s": c in "+-",
            "x": b in _DIGITS,
        }.get(following, False)
        if fits:
            return following
    return None
