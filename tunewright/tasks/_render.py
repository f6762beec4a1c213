"""A tokenizer's chat template, asked for text. Templates are programs of strangers: whatever one does, the answer is
text or one RowProblem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from tunewright.contract.records import RowProblem
from tunewright.errors import ModelError
from tunewright.machine.limits import within
from tunewright.tasks._turns import Turn

SECONDS = 10.0
"""Longest time that a template may take over one conversation; usual ones take under a millisecond."""
PAGE = "docs/templates.md"
LARGEST = 1_000_000
"""Most characters of a template; the largest of `docs/templates.md` has about 20,000."""
DATE = datetime(2024, 7, 26)
"""What templates print as today: rows of two days must be equal. Llama's own template says this day without a clock."""
CLOCK = "strftime_now"
_DIRECTIVES = "aAbBcdDeFHIjmMpRSTuUwWxXyY"
_OTHER = "give the model folder another chat_template.jinja"
_late: set[str] = set()  # templates that were late once: no row waits for them again


def render(tokenizer: Any, turns: Sequence[Turn], *, tools: Any = None, prompt: bool = False) -> str:
    """The chat template's text; with `prompt`, up to where the assistant speaks.

    RowProblem when the template refuses, ModelError when it is too large or does not end.
    """
    template = str(tokenizer.chat_template)
    if len(template) > LARGEST:
        what = f"the chat template has {len(template):,} characters, and at most {LARGEST:,} are read"
        raise ModelError(what, where="chat_template", remedy=_OTHER)
    if template in _late:
        raise _endless()
    try:
        text = within(
            SECONDS,
            lambda: tokenizer.apply_chat_template(
                list(turns), tools=tools, tokenize=False, add_generation_prompt=prompt, **_still(tokenizer)
            ),
        )
    except TimeoutError:
        _late.add(template)
        raise _endless() from None
    except MemoryError:
        what = "the chat template asks for more memory than there is for one conversation"
        raise ModelError(what, where="chat_template", remedy=_OTHER) from None
    except TemplateSyntaxError as error:
        what = f"the chat template cannot be read: {error.message}"
        raise ModelError(what, where=f"chat_template:{error.lineno}", remedy=_OTHER) from None
    except RowProblem:  # what shows pictures to the template says itself what is wrong
        raise
    except Exception as error:  # templates raise whatever their author chose
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RowProblem(
            "messages", f"the tokenizer's chat template refuses the conversation: {said}", _remedy(said)
        ) from None
    if not isinstance(text, str):
        raise RowProblem("messages", "the tokenizer's chat template gives no text", "use a chat model's tokenizer")
    return text


def render_many(tokenizer: Any, talks: Sequence[Sequence[Turn]]) -> list[str | None]:
    """The texts of several conversations; None for one that is refused, and for all where one takes too long."""
    try:
        texts = within(SECONDS, lambda: [*map(_plainly(tokenizer), talks)])
    except TimeoutError:
        return [None] * len(talks)
    except Exception:  # why one is refused is found by rendering it alone; here, which one
        half = len(talks) // 2
        return [*render_many(tokenizer, talks[:half]), *render_many(tokenizer, talks[half:])] if half else [None]
    return [text if isinstance(text, str) else None for text in texts]


def _plainly(tokenizer: Any) -> Callable[[Sequence[Turn]], str]:
    """What renders turns that are made of texts, lists and mappings alone.

    Transformers first rebuilds each conversation of plain values and without nulls; to those it changes nothing, and
    takes as long as the rendering.
    """
    compiled = getattr(chat_template_utils, "_compile_jinja_template", None)
    usual = getattr(type(tokenizer), "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template
    clock = _still(tokenizer)
    if compiled is None or not usual or not isinstance(tokenizer.chat_template, str):
        return lambda turns: tokenizer.apply_chat_template(list(turns), tokenize=False, **clock)
    template = compiled(clock.get("chat_template", tokenizer.chat_template))
    given = {"tools": None, "documents": None, "add_generation_prompt": False, **tokenizer.special_tokens_map}
    names = {**template.globals, **given}  # put together once: `Template.render` does it for every conversation

    def rendered(turns: Sequence[Turn]) -> str:
        context = template.new_context({**names, "messages": list(turns)}, shared=True)
        return str(template.environment.concat(template.root_render_func(context)))

    return rendered


def _still(tokenizer: Any) -> dict[str, str]:
    """`_clock` of the tokenizer's template; none where it has several by name, or none."""
    template = getattr(tokenizer, "chat_template", None)
    return _clock(template) if isinstance(template, str) else {}


@lru_cache(maxsize=8)
def _clock(template: str) -> dict[str, str]:
    """The template with a clock that stands still, as the argument of a rendering; none for one that looks at no clock.

    A macro stands before it: transformers puts its own clock among the globals and hands on data alone.
    """
    if CLOCK not in template:
        return {}
    says = {d: DATE.strftime(f"%{d}") for d in _DIRECTIVES}
    says |= {f"-{d}": said.lstrip("0") or "0" for d, said in says.items()}  # without leading zeros
    forms = "".join(f" | replace('%{d}', '{said}')" for d, said in says.items())
    return {"chat_template": f"{{%- macro {CLOCK}(form) %}}{{{{ form{forms} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"}


def dated(tokenizer: Any) -> str | None:
    """What to say of a template that prints today's date, None of any other."""
    if not _still(tokenizer):
        return None
    day = f"{DATE:%d %B %Y}"
    return f"the chat template prints today's date: in rows and prompts here it is always {day}, whatever the day"


def _endless() -> ModelError:
    return ModelError(
        f"the chat template does not end within {SECONDS:g} s on one conversation",
        where="chat_template",
        remedy=f"look for a loop in it, or {_OTHER}",
    )


def _remedy(said: str) -> str:
    """What to do about a template's refusal, by the words that its author chose."""
    words = said.lower()
    if "system" in words:
        return "put the system turn's text in front of the first user turn"
    if "tool" in words and "id" in words:
        return "give each call and each tool turn the id that the template asks for"
    return "write turns in the order that the template asks for (often user, assistant, user ...)"


def default_turn(tokenizer: Any) -> str:
    """The system turn that a template inserts by itself, "" where it does not or where that cannot be told."""
    return _default_turn(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=4)
def _default_turn(tokenizer: Any, template: str) -> str:
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    try:
        one, two, three = (render(tokenizer, turns) for turns in ([user], [user, answer], [user, answer, user]))
    except RowProblem:  # a template that refuses these has no default to take out
        return ""
    if not three.startswith(two):
        return ""
    turn = three[len(two) :]
    if not turn or not one.endswith(turn):
        return ""
    before = one[: len(one) - len(turn)]
    bos = tokenizer.bos_token or ""
    # where the start token also opens every turn, the one in front belongs to the turn that is taken out
    alone = bos and before.startswith(bos) and not turn.startswith(bos)
    return before[len(bos) :] if alone else before
