"""Special tokens that a template puts around turns, where a row writes them into what a turn says.

A tokenizer reads them in a content as it reads the template's own: the turn ends early there, or another speaks. Chat
servers either read them so too or never see them, so that such a row is refused instead of being encoded in some way.
Special tokens that open or end no turn (a tool's, a picture's) are left alone, and think tags are read as thoughts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from tunewright.contract.records import RowProblem
from tunewright.tasks._dialect import Dialect
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._found import THINK
from tunewright.tasks._render import render
from tunewright.tasks._turns import REASONING, Turn


def check_control(tokenizer: Any, dialect: Dialect, turns: Sequence[Turn], tools: Any, shift: int) -> None:
    """RowProblem where a turn, or a tool's description, holds a token that ends or opens turns."""
    pattern = _control(tokenizer, str(tokenizer.chat_template), dialect)
    for field, text in _texts(turns, tools, shift):
        if found := pattern.search(text):
            reason = f"it holds {found.group()}, which the model reads as the end of a turn or as the start of another"
            raise RowProblem(field, reason, "take it out (the chat template writes it), or write it otherwise")


def _texts(turns: Sequence[Turn], tools: Any, shift: int) -> Iterator[tuple[str, str]]:
    for i, turn in enumerate(turns, -shift):
        field = f"messages[{i}]" if i >= 0 else "data.system"
        yield f"{field}.content" if i >= 0 else field, turn["content"]
        yield f"{field}.{REASONING[0]}", turn.get(REASONING[0], "")
        for k, call in enumerate(turn.get("tool_calls", ())):
            yield f"{field}.tool_calls[{k}]", json.dumps(call["function"], ensure_ascii=False)
    for k, tool in enumerate(tools or ()):
        yield f"tools[{k}]", json.dumps(tool, ensure_ascii=False)


@lru_cache(maxsize=8)
def _control(tokenizer: Any, template: str, dialect: Dialect) -> re.Pattern[str]:
    """The special tokens that stand around turns of plain text, with the tokenizer's own first and last one."""
    special, tokens = end_tokens(tokenizer).pattern, {tokenizer.bos_token, tokenizer.eos_token}
    user, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    for turns in ([user, said, user], [{"role": "system", "content": "c"}, user, said]):
        for prompt in (False, True):
            try:
                tokens |= set(special.findall(render(tokenizer, dialect.write(turns), prompt=prompt)))
            except RowProblem:  # no system turn, or another order
                continue
    texts = sorted((t for t in tokens if t and len(t) > 2 and not THINK.fullmatch(t)), key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")
