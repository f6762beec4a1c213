"""Text from data and paths in Markdown that others will read: it is shown, and never obeyed."""

from __future__ import annotations

import re


def inline(text: str) -> str:
    """Text as one line that reads as it is: no markup, no HTML, no cell of a table ends in it."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    escaped = re.sub(r"[\\`*\[\]<>|&~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", flat)
    begun = re.sub(r"^(\d*)([.)])(?=\s|$)|^()([-+#=:])(?=[-#=:\s]|$)", r"\1\3\\\2\4", escaped)
    return re.sub(r"(?<=\s)(#+)$", r"\\\1", begun)  # a heading ends before these


def code(text: str) -> str:
    """Text between backticks, of which there are more than it holds; it may stand in a table."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("|", "\\|")
    ticks = _longer(flat, 1)
    around = " " if flat[:1] == "`" or flat[-1:] == "`" else ""
    return f"{ticks}{around}{flat}{around}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """A block of text, its fence longer than any that it holds."""
    fence = _longer(text, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _longer(text: str, least: int) -> str:
    return "`" * max(least, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
