"""What an OpenAI-compatible address says is wrong: by its status, or in a body whose status says that all is well."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers of a server that may be others a little later."""
WORDS = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "service_unavailable": 503,
    "overloaded_error": 529,
}
"""The status that an error's `code` or `type` means, where a body alone says that there is one."""
TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
"""Of OpenAI and of llama.cpp; vLLM says it in the message alone."""
KEPT_BACK = frozenset({"content_filter", "content_policy_violation"})
LONGEST = 200
"""Characters of a server's own words that are told on."""


@dataclass(frozen=True)
class Fault:
    """`status` (0: none is known), what the server says in one line, and why this prompt alone gets no answer ("": it
    is not this prompt's fault).
    """

    status: int
    message: str
    refuses: str = ""


def fault_of(status: int, said: Any, data: bytes) -> Fault | None:
    """What is wrong with a response of `status` whose body is `data`, in JSON values `said` (None: it is none)."""
    told = said.get("error") if isinstance(said, dict) else None
    if status < 300 and (not told or (isinstance(said, dict) and said.get("choices"))):
        return None
    error = told or said
    known = error if isinstance(error, dict) else {}
    words = [str(known[k]) for k in ("code", "status", "type") if isinstance(known.get(k), str | int)]
    text = known.get("message") if isinstance(known.get("message"), str) else error if isinstance(error, str) else None
    text = text or (json.dumps(error) if error else data.decode("utf-8", "replace"))
    message = one_line(text) or "nothing more"
    if status < 300:
        status = next((n for word in words if (n := _status(word))), 0)
    refuses = ""
    if status in (0, 400, 403, 413, 422):
        if TOO_LONG & set(words) or "maximum context length" in text.lower():
            refuses = f"the prompt is too long: {message}"
        elif KEPT_BACK & set(words):
            refuses = f"refused: {message}"
    return Fault(status, message, refuses)


def _status(word: str) -> int:
    """The HTTP status that a code or type means; 0 where it means none."""
    if word.isascii() and word.isdigit() and len(word) == 3 and word >= "400":
        return int(word)
    return WORDS.get(word, 0)


def one_line(text: str) -> str:
    """The first words of a server's text, without what is not for reading: line ends, control characters, halves of
    surrogate pairs.
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LONGEST]).split())[:LONGEST]
