"""What is sent back, as OpenAI has it: completions, chunks of a stream, log-probabilities, calls of tools, usage."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.measure.calls import Form
from tunewright.serve.requests import Result
from tunewright.serve.sampling import Said

Json = dict[str, Any]


@dataclass
class Envelope:
    """What all parts of one answer share. `kind`: "chat.completion" or "text_completion"."""

    kind: str
    model: str
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        start = "chatcmpl" if self.kind.startswith("chat") else "cmpl"
        self.id = self.id or f"{start}-{secrets.token_hex(12)}"

    def whole(self, choices: list[Json], usage: Json) -> Json:
        """The answer to a request without a stream."""
        return self._with(self.kind, choices) | {"usage": usage}

    def chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        """A part of a stream."""
        kind = f"{self.kind}.chunk" if self.kind.startswith("chat") else self.kind
        return self._with(kind, choices) | ({} if usage is None else {"usage": usage})

    def _with(self, kind: str, choices: list[Json]) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(prompt: int, written: int, cached: int) -> Json:
    """Counts of tokens; `cached` of the prompt's were read already."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def chat_logprobs(tokenizer: Any, said: Sequence[Said]) -> Json:
    """`logprobs` of a chat's choice."""

    def one(token: int, logprob: float) -> Json:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [{**one(s.token, s.logprob or 0.0), "top_logprobs": [one(t, p) for t, p in s.top]} for s in said],
        "refusal": None,
    }


def text_logprobs(tokenizer: Any, said: Sequence[Said], start: int = 0) -> Json:
    """`logprobs` of a completion's choice; `start`: characters before it."""
    tokens = [tokenizer.decode([s.token]) for s in said]
    offsets = [start + sum(map(len, tokens[:i])) for i in range(len(tokens))]
    return {
        "tokens": tokens,
        "token_logprobs": [s.logprob for s in said],
        "top_logprobs": [{tokenizer.decode([t]): p for t, p in s.top} for s in said],
        "text_offset": offsets,
    }


def message(result: Result, form: Form | None, most: int | None = None) -> tuple[Json, str | None]:
    """(a chat's message, why it ended). `form`: how calls of tools are written; None where there are none. At most
    `most` calls.
    """
    content, calls = result.text, calls_in(result.text, form)[:most]
    if not calls:
        return {"role": "assistant", "content": content, "refusal": None}, result.reason
    opening = form.opening if form is not None else ""
    before = content.partition(opening)[0].strip() if opening else ""
    return {"role": "assistant", "content": before or None, "refusal": None, "tool_calls": calls}, "tool_calls"


def calls_in(text: str, form: Form | None) -> list[Json]:
    """The calls of tools in an answer."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in (form.calls(text) if form is not None else ())
    ]
