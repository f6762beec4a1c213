"""From a request's texts to token ids: the tokenizer's chat template, tools as it writes them, plain prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.errors import ModelError
from tunewright.measure.calls import HERMES, Form, form_of, told
from tunewright.serve.errors import ApiError
from tunewright.serve.schemas import Message, Tool
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._render import render

Ids = list[int]


class Prompts:
    """Makes prompts for one tokenizer. `vocabulary`: how many tokens the model knows."""

    def __init__(self, tokenizer: Any, vocabulary: int):
        self.tokenizer, self.vocabulary = tokenizer, vocabulary

    def chat(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> tuple[Ids, Form | None]:
        """(token ids up to where the assistant speaks, how it writes calls where there are tools). ApiError (400)."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ApiError(400, "This model has no chat template. Use /v1/completions.", param="messages")
        turns = [_turn(m) for m in messages]
        offered = [t.model_dump(exclude_none=True) for t in tools or ()]
        form = None
        try:
            if offered:
                form = form_of(self.tokenizer)
                if form is None:
                    form, turns, offered = HERMES, _said(turns, told(offered)), []
            text = render(self.tokenizer, dialect_of(self.tokenizer).write(turns), tools=offered or None, prompt=True)
        except RowProblem as problem:
            raise ApiError(400, f"{problem.reason} ({problem.remedy})", param="messages") from problem
        except ModelError as error:
            raise ApiError(400, error.what, param="messages") from error
        return self._ids(text, special=False), form

    def plain(self, given: str | list[int] | list[str] | list[list[int]], param: str) -> list[Ids]:
        """The token ids of each of a request's texts, which may be token ids already. ApiError (400)."""
        texts: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
        if not texts:
            raise ApiError(400, f"There is nothing in '{param}'.", param=param)
        out = [self._ids(t, special=True) if isinstance(t, str) else list(t) for t in texts]
        for ids in out:
            if not ids:
                raise ApiError(400, f"A text of '{param}' has no tokens.", param=param)
            if bad := [i for i in ids if not 0 <= i < self.vocabulary]:
                raise ApiError(400, f"{bad[0]} is no token: there are {self.vocabulary}.", param=param)
        return out

    def _ids(self, text: str, *, special: bool) -> Ids:
        return [int(i) for i in self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]


def _turn(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": message.text}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "id": c.id, "function": {"name": c.function.name, "arguments": _arguments(c.function)}}
            for c in message.tool_calls
        ]
    return turn


def _arguments(call: Any) -> Any:
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        raise ApiError(400, f"The arguments of the call of '{call.name}' are no JSON.", param="messages") from None


def _said(turns: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """Turns in which the first one of the user begins with these words: some templates have no system turn."""
    first = next((i for i, t in enumerate(turns) if t["role"] == "user"), None)
    if first is None:
        raise ApiError(
            400, "The chat template shows no tools, and there is no user's turn to say them in.", param="tools"
        )
    said = {**turns[first], "content": f"{words}\n\n{turns[first]['content']}"}
    return [*turns[:first], said, *turns[first + 1 :]]
