"""The families' chat templates as fixtures, and what each trains: `python -m tests.tasks.chat_templates` writes
docs/templates.md.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import get_task
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._ends import end_tokens
from tunewright.tasks._render import DATE

FOLDER = Path(__file__).parent / "templates"
PAGE = Path(__file__).parents[2] / "docs" / "templates.md"
TABLE: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "table.toml").read_text(encoding="utf-8"))
SPECIAL = re.compile(
    r"<\|[\w ]+\|>|<｜[\w▁]+｜>|\[\|\w+\|\]|\[/?[A-Z_]{3,}\]|<(?:start|end|beginning|begin)_of_\w+>|<seed:[be]os>|<sep>"
    r"|<\|?(?:turn|channel|tool|tool_call|tool_response)\|?>"
)
"""Special tokens of the templates, as their texts name them. Think tags are ordinary added tokens, and left out."""

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Which."}}},
    },
}
CALLED = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


_TWO = [user("Who?"), answer("Ann."), user("Where?"), answer("Oslo.")]
CALL = answer("", tool_calls=[CALLED])
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "abcdefghi", "content": "sunny, 20"}
ROWS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "one": ({"messages": [user("Who?"), answer("Ann.")]}, ("Ann.",)),
    "two": ({"messages": _TWO}, ("Oslo.",)),
    "parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Ann "}, {"type": "text", "text": "Lee."}]},
            ]
        },
        ("Ann Lee.",),
    ),
    "system": ({"messages": [{"role": "system", "content": "Be brief."}, user("Who?"), answer("Ann.")]}, ("Ann.",)),
    "reasoning": (
        {"messages": [user("Who?"), answer("Ann.", reasoning_content="Look it up.")]},
        ("Look it up.", "Ann."),
    ),
    "inline": (
        {"messages": [user("Who?"), answer("<think>\nLook it up.\n</think>\n\nAnn.")]},
        ("Look it up.", "Ann."),
    ),
    "system, two": (
        {"messages": [{"role": "system", "content": "Be brief."}, *_TWO]},
        ("Oslo.",),
    ),
    "inline, two": (
        {"messages": [user("Who?"), answer("<think>\nGuess.\n</think>\n\nAnn."), *_TWO[2:]]},
        ("Oslo.",),
    ),
    "call": ({"tools": [TOOL], "messages": [user("Who?"), CALL]}, ("weather", "Rome")),
    "loop": ({"tools": [TOOL], "messages": [user("Who?"), CALL, RESULT, answer("Sun.")]}, ("Sun.",)),
    "said and called": (
        {"tools": [TOOL], "messages": [user("Who?"), answer("I look.", tool_calls=[CALLED])]},
        ("I look.", "weather", "Rome"),
    ),
    "bare call": ({"messages": [user("Who?"), CALL]}, ("weather", "Rome")),
}
"""What each row asks for: the record, and what its trained text must hold."""


@cache
def tokenizer(name: str) -> Any:
    """A byte-level tokenizer with a template and its special tokens."""
    made, text = tiny.tokenizer(), (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    about = TABLE[name]
    named = (about[k] for k in ("bos", "eos") if k in about)
    tokens = sorted({*SPECIAL.findall(text), *about.get("special", ()), *named})
    made.add_tokens(tokens, special_tokens=True)
    made.bos_token, made.eos_token = about.get("bos"), about.get("eos", "<|im_end|>")
    made.chat_template = text
    return made


@cache
def encode(name: str, kind: str) -> Row | RowProblem:
    """A row under a template, or why it cannot be used."""
    try:
        return get_task("text-generation").encode(Record(ROWS[kind][0], id=kind), tokenizer(name), EncodeOptions())
    except RowProblem as problem:
        return problem


def trained(name: str, row: Row) -> str:
    """The text of a row's trained tokens."""
    return str(tokenizer(name).decode([i for i, w in zip(row.input_ids, row.weights, strict=True) if w > 0]))


def _code(text: str) -> str:
    shown = text.replace("\n", "\\n").replace("|", "\\|")
    return f"`{shown}`" if shown.strip() else "nothing"


def _line(name: str) -> str:
    got = {kind: encode(name, kind) for kind in ROWS}
    about, one = TABLE[name], got["one"]
    one = one if isinstance(one, Row) else got["loop"]  # made for tools alone
    assert isinstance(one, Row), (name, str(one))
    prompt, ends = tokenizer(name).decode(one.fields["prompt_ids"]), end_tokens(tokenizer(name))
    after, said = prompt[ends.begin(prompt) or -12 :], trained(name, one)
    open_ = not ends.ends(said)
    two = got["two"]
    several = "-" if isinstance(two, RowProblem) else "the last" if two.fields.get("untrained") else "all"
    system = "yes" if isinstance(got["system"], Row) else "no"
    reasoning = (
        "field" if isinstance(got["reasoning"], Row) else "in content" if isinstance(got["inline"], Row) else "no"
    )
    calls = "no" if not any(isinstance(got[k], Row) for k in ("call", "bare call")) else "yes"
    if calls == "yes" and isinstance(got["call"], RowProblem):
        calls = "without descriptions"
    elif calls == "yes" and isinstance(got["said and called"], RowProblem):
        calls = "without content"
    content = "parts" if dialect_of(tokenizer(name)).parts else "text"
    said = _code(said) + " *no end*" * open_
    cells = (name, about["models"], _code(after), said, several, system, content, reasoning, calls)
    return "| " + " | ".join(cells) + " |"


INTRO = """\
# Chat templates

<!-- made by `python -m tests.tasks.chat_templates`: change that, not this page -->

A chat template decides what a model is trained on, and templates differ: some write an empty think block into the last
answer, some drop tool calls without a word, some take the system turn only at the front. So nothing is taken on trust.
Every turn's content, every tool's name, every call and its arguments are looked for in the rendered text, in their own
turn; a row of which something is missing is a bad row, with the field and what to do, in `check` and in `run` alike.

- **What is trained** begins where the prompt before the answer ends, as generation will see that prompt, and ends with
  the answer's end. Where the prompt opens a think block (`<think>`), a row without reasoning closes it at once, and a
  row with reasoning goes on in it.
- **Nobody else's words**: a template that puts what another turn says into the text of an answer (a generation prompt
  that opens the user's turn, turns in another order or twice, answers that quote the question) is found out once for
  each shape of conversation, with words that stand nowhere else. Such a row is refused where it is the last answer; an
  earlier one is left untrained, and `check` says so.
- **Special tokens in what is said** (`<|im_end|>` in a question) are refused where they end or open turns: tokenizers
  read them as the template's own, chat servers differ in whether they do, and a model that is trained on one reading
  meets the other. Those that end no turn (a tool's, a picture's) are encoded as they stand, and `check` names the rows.
- **Which answers are trained**: all, unless a turn says otherwise: `weight` (a number, 0 for not), or `train`,
  `training`, `train_on_turn` or `loss` with false, or `masked` with true. `train_detail` (parts of a turn) is refused.
- **Names**: a turn's `name` that the template does not show is said by `check`; a tool's is in the call it answers.
- **ShareGPT**'s `function_call` is read as JSON (an object or a list, after `<think>...</think>` if there is any) and
  becomes tool calls, an `observation` the result of the call before it; calls are numbered `call00000`, ...
- **Today's date**: where a template prints it, it is always {day}, so that rows of two days are equal; `check`, `plan`
  and the report say so.
- **Several answers**: where a template writes earlier answers otherwise than they were said (without their think block,
  with another end), only the last one is trained; `check` says at which rows. One row for each answer trains them all.
- **Content** may be text or a list of parts, which are joined; the template is given the form that it reads. Arguments
  may be an object or JSON text. Nulls that Arrow fills into objects are taken out; a null that is meant stays in
  arguments that are given as JSON text.
- **Reasoning** stands in `reasoning_content`, `reasoning` or `thinking`, or between think tags in the content; the
  template is given the field that it reads.
- **The reference** of exact match is the answer as it is trained, with its think block and calls.
- **Limits**: a template has at most 1,000,000 characters, and 10 seconds and 2 GiB for a conversation.

## What each trains

Each line was made by encoding the same rows under a template written after the family's own (the same turns, markers
and rules in other words: [tests/tasks/templates](../tests/tasks/templates/table.toml)). The answer is `Ann.`, or a call
and `Sun.` for a template that is made for tools alone. *System*: whether a system turn is shown
(else the row is refused).
*No end*: the template writes nothing that ends an answer, so that generation goes on; `check` says so.
*Reasoning*: *field* (and in content), only *in content* as plain text, or *no*, the row is refused. *Calls*: *without
content*, where an answer that says something and calls is refused; *without descriptions*, where `tools` are refused
since the template does not show them.

| template | models | prompt ends | answer trains | answers | system | content | reasoning | calls |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

SOURCES = """
## Where they come from

| template | stock template read | its licence |
| --- | --- | --- |
"""


def page() -> str:
    """docs/templates.md as it should be."""
    sources = "".join(f"| {n} | {about['stock']} | {about['licence']} |\n" for n, about in TABLE.items())
    return (
        INTRO.replace("{day}", f"{DATE:%d %B %Y}") + "".join(_line(name) + "\n" for name in TABLE) + SOURCES + sources
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
