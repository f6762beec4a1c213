"""A folder for `ollama create`: a GGUF file and a Modelfile with the chat template and parameters.

A Modelfile's template is Go's and a model's own is Jinja. The pieces that stand around each turn are read off what the
Jinja template writes, and a template that is not made of such pieces is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.errors import MethodError

MOST_CONTEXT = 8192
"""Tokens of context that the Modelfile asks for at most: the memory of a larger one is the user's to spend."""
SYSTEM, USER, REPLY, AGAIN = "Twsystem", "Twuser", "Twreply", "Twagain"


@dataclass(frozen=True)
class Turns:
    """What stands around a turn's text. `begin`: before everything where there is no system turn; `system` (None: the
    template takes none), `user` and `assistant`: before and after the text. `answer`: what opens the answer that is
    asked for."""

    begin: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str

    def written(self, messages: list[dict[str, str]]) -> str:
        """Messages as the Modelfile's template writes them, up to where the answer begins."""
        first = messages[0]["role"] == "system" and self.system is not None
        out = "" if first else self.begin
        for message in messages:
            before, after = getattr(self, message["role"]) or ("", "")
            out += before + message["content"] + after
        return out + self.answer


def turns_of(tokenizer: Any, where: str) -> Turns:
    """The pieces of a tokenizer's chat template. MethodError for one that is not made of pieces around turns."""

    def rendered(*said: tuple[str, str], answer: bool = False) -> str:
        messages = [{"role": r, "content": c} for r, c in said]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))

    one, two, three = ("user", USER), ("assistant", REPLY), ("user", AGAIN)
    try:
        begun, ended = _split(rendered(one, answer=True), USER)
        first, more = _split(rendered(one, two, three, answer=True), USER)
        between, rest = _split(more, REPLY)
        joined, last = _split(rest, AGAIN)
        if first != begun or last != ended:
            raise ValueError("a turn is written otherwise after an answer")
        after_user = _end(between, ended)
        after_reply = _after_reply(joined, begun, rendered(one, two), USER)
        before_user = joined[len(after_reply) :]
        if not begun.endswith(before_user):
            raise ValueError("the first turn is written otherwise than later ones")
        begin = begun[: len(begun) - len(before_user)]
        system = _system(rendered, before_user, one)
        reply = between[len(after_user) :], after_reply
        turns = Turns(begin, system, (before_user, after_user), reply, ended[len(after_user) :])
        _verify(turns, rendered)
    except (ValueError, TypeError) as error:
        raise MethodError(
            f"its chat template is not made of pieces around turns, which is all that a Modelfile can say ({error})",
            where=where,
            remedy="write the GGUF file alone, which holds the template itself: --to gguf",
        ) from error
    return turns


def _split(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.partition(mark)
    if not found:
        raise ValueError("a turn's text is not in what it writes")
    return before, after


def _end(between: str, ended: str) -> str:
    """What ends a user's turn, of the text up to a given answer and up to one that is asked for: what both begin with,
    up to the second mark. Where it is cut does not matter to what is written: the two always follow one another."""
    both = os.path.commonprefix([between, ended])
    return next((both[:i] for i in range(1, len(both)) if both[i] in "<[#"), both)


def _after_reply(joined: str, begun: str, closed: str, mark: str) -> str:
    """What ends an answer: what the template writes after one that nothing follows, where the next turn goes on so."""
    end = closed.partition(REPLY)[2]
    return end if joined.startswith(end) else _longest(joined, begun)


def _longest(joined: str, begun: str) -> str:
    for i in range(len(joined)):
        if begun.endswith(joined[i:]):
            return joined[:i]
    return joined


def _system(rendered: Any, before_user: str, one: tuple[str, str]) -> tuple[str, str] | None:
    try:
        text = rendered(("system", SYSTEM), one)
    except Exception:  # whatever a template raises for a turn that it does not take
        return None
    before, found, after = text.partition(SYSTEM)
    if not found:
        return None
    after = after.partition(USER)[0]
    if not after.endswith(before_user):
        raise ValueError("a system turn is written into the user's")
    return before, after[: len(after) - len(before_user)]


def _verify(turns: Turns, rendered: Any) -> None:
    """Hold the pieces to the template on conversations that they were not read off."""
    talks = [
        [("user", "a b"), ("assistant", "c"), ("user", "d\ne"), ("assistant", "f"), ("user", "g")],
        [("user", "What is 2 + 2?")],
    ]
    if turns.system is not None:
        talks += [[("system", "Be brief."), *talk] for talk in talks]
    for talk in talks:
        if turns.written([{"role": r, "content": c} for r, c in talk]) != rendered(*talk, answer=True):
            raise ValueError("its turns depend on one another")


def template(turns: Turns) -> str:
    """The pieces as Go's template, on one line: text stands in quotes, so that no blank is trimmed."""

    def text(piece: str) -> str:
        return "{{ " + json.dumps(piece, ensure_ascii=False) + " }}" if piece else ""

    system = ""
    if turns.system is not None:
        before, after = (text(p) for p in turns.system)
        system = "{{ if .System }}" + before + "{{ .System }}" + after + "{{ else }}" + text(turns.begin) + "{{ end }}"
    else:
        system = text(turns.begin)
    (user, after_user), (reply, after_reply) = (map(text, p) for p in (turns.user, turns.assistant))
    return (
        system
        + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + '{{ if eq .Role "user" }}'
        + f"{user}{{{{ .Content }}}}{after_user}"
        + '{{ else if eq .Role "assistant" }}'
        + f"{reply}{{{{ .Content }}}}{{{{ if not $last }}}}{after_reply}{{{{ end }}}}{{{{ end }}}}"
        + '{{ if and (ne .Role "assistant") $last }}'
        + f"{text(turns.answer)}{{{{ end }}}}{{{{ end }}}}"
    )


def modelfile(folder: Path, file: str, tokenizer: Any, config: Any, system: str | None, where: str) -> tuple[str, bool]:
    """(the Modelfile, whether it has the model's chat template). `folder`: the model's; `file`: the GGUF's name."""
    from transformers import GenerationConfig

    lines, talks = [f"FROM ./{file}"], bool(tokenizer.chat_template)
    if talks:
        turns = turns_of(tokenizer, where)
        bos = tokenizer.bos_token
        if bos and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]:  # the runtime writes it by itself
            system_turn = turns.system and (turns.system[0].removeprefix(bos), turns.system[1])
            turns = replace(turns, begin=turns.begin.removeprefix(bos), system=system_turn)
        lines.append(f'TEMPLATE """{template(turns)}"""')
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    if system:
        lines.append(f'SYSTEM """{system}"""')
    try:
        own = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        own = GenerationConfig()
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    stops = dict.fromkeys(
        tokenizer.convert_ids_to_tokens([i for i in [tokenizer.eos_token_id, *ends] if i is not None])
    )
    lines += [f"PARAMETER stop {json.dumps(s, ensure_ascii=False)}" for s in stops if s]
    lines.append(f"PARAMETER num_ctx {min(int(config.max_position_embeddings), MOST_CONTEXT)}")
    values = {"temperature": own.temperature if own.do_sample else 0, "top_p": own.top_p, "top_k": own.top_k,
              "repeat_penalty": own.repetition_penalty}  # fmt: skip
    lines += [f"PARAMETER {name} {value}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n", talks
