"""What was asked, as a reader wants it: the words without the chat template's markers, long texts cut in the middle.

A template puts markers around each turn, and some a default system turn of their own. They are what the model read,
and `rows.jsonl` keeps them; a page that shows them first shows every row alike.
"""

from __future__ import annotations

import re

_MARKER = re.compile(
    r"<\|[^|<>\n]{1,60}\|>"  # ChatML, Llama 3, Phi, GLM
    r"|<\uff5c[^<>\n]{1,60}\uff5c>"  # DeepSeek's full-width bars
    r"|</?s>|<bos>|<eos>|<pad>"
    r"|</?(?:start|end)_of_turn>|<(?:start|end)_of_turn>"  # Gemma
    r"|\[/?INST\]|\[/?SYSTEM_PROMPT\]|<<SYS>>|<</SYS>>"  # Mistral, Llama 2
    r"|\[CLS\]|\[SEP\]|\[PAD\]"
)
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "ipython": "tool",
}
_HEADER = re.compile(rf"({'|'.join(_ROLES)})[ \t]*(?:\n|$)")


def turns(prompt: str) -> list[tuple[str, str]]:
    """(role, text) of each turn with text; the role is "" where no marker names one."""
    out: list[tuple[str, str]] = []
    role, last = "", 0
    marked = False
    for match in [*_MARKER.finditer(prompt), None]:
        piece = prompt[last : match.start() if match else len(prompt)]
        last = match.end() if match else last
        header = _HEADER.match(piece.lstrip("\n")) if marked else None
        if header:
            role, piece = _ROLES[header[1]], piece.lstrip("\n")[header.end() :]
        if piece.strip():
            out.append((role, piece.strip()))
        if match:
            marked = True
            role = {"[INST]": "user", "[/INST]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user"}.get(
                match[0], role
            )
    return out


def shown(prompt: str) -> str:
    """The prompt without markers and without the system turn; several turns are told apart by their roles."""
    if not _MARKER.search(prompt):
        return prompt
    said = turns(prompt)
    asked = [(r, t) for r, t in said if r != "system"] or said
    if len({r for r, _ in asked}) <= 1:
        return "\n".join(t for _, t in asked)
    return "\n".join(f"{r}: {t}" if r else t for r, t in asked)


def middle_cut(text: str, most: int) -> str:
    """At most `most` characters: what is too much is taken from the middle, a third before and two thirds behind it,
    between words where they are not too long for that.
    """
    if len(text) <= most:
        return text
    before = (most - 3) // 3
    start, end = text[:before], text[len(text) - (most - 3 - before) :]
    cut = start.rfind(" ")
    start = start[:cut] if not text[before].isspace() and cut >= before // 2 else start
    cut = end.find(" ")
    end = end[cut:] if not text[len(text) - len(end) - 1].isspace() and 0 <= cut <= len(end) // 4 else end
    return f"{start.rstrip()} \u2026 {end.lstrip()}"
