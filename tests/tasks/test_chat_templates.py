"""What the families' chat templates train: nothing that a row says is lost without a word."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers.utils import chat_template_utils

from tests.tasks import chat_templates as stock
from tunewright.contract.batch import Row
from tunewright.contract.records import RowProblem
from tunewright.measure.text import answer_text, exact_match
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._render import DATE
from tunewright.tasks._turns import checked

NAMES = sorted(stock.TABLE)
BY_DESIGN = {"hermes-3": "made for tools alone"}


def test_every_template_has_its_line_and_there_are_fifty_at_least():
    assert sorted(p.stem for p in stock.FOLDER.glob("*.jinja")) == NAMES and len(NAMES) >= 50
    assert all(about["models"] and about["stock"] and about["licence"] for about in stock.TABLE.values())


def test_the_page_says_what_the_templates_do():
    assert stock.PAGE.read_text(encoding="utf-8") == stock.page(), "run `python -m tests.tasks.chat_templates`"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_says_is_trained_or_the_row_is_bad(name):
    """The oracle knows nothing of how spans are found: the words of the answer are in the trained text, or a reason."""
    for kind, (values, said) in stock.ROWS.items():
        row = stock.encode(name, kind)
        if isinstance(row, RowProblem):
            assert row.field and row.remedy and kind not in ("one", "two", "parts") or name in BY_DESIGN, (
                kind,
                str(row),
            )
            continue
        text = stock.trained(name, row)
        assert all(word in text for word in said), (kind, text)
        whole = stock.tokenizer(name).decode(row.input_ids)
        asked = [t for t in values["messages"] if t["role"] != "assistant" and isinstance(t["content"], str)]
        assert all(t["content"] in whole and t["content"] not in text for t in asked), (kind, whole)
        assert kind not in ("call", "loop", "said and called") or "weather" in whole


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_is_what_generation_sees_and_the_reference_what_a_perfect_model_says(name, monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: DATE))
    t = stock.tokenizer(name)
    for kind, (values, _) in stock.ROWS.items():
        row = stock.encode(name, kind)
        if not isinstance(row, Row) or kind == "parts":
            continue
        turns = dialect_of(t).write(checked(values["messages"])[0][:-1])
        asked = t.apply_chat_template(turns, tools=values.get("tools"), tokenize=False, add_generation_prompt=True)
        prompt = t.decode(row.fields["prompt_ids"])
        # a template that gives its models no reasoning by default closes the block at once: the row goes on inside it
        assert prompt == asked or kind in ("reasoning", "inline") and asked.startswith(prompt), (kind, prompt, asked)
        last = range(len(row.fields["prompt_ids"]), len(row.input_ids))
        perfect = [row.input_ids[i] for i in last if row.weights[i] > 0]
        assert exact_match(answer_text(t, perfect), row.fields["reference"]) == 1, (kind, row.fields["reference"])


@pytest.mark.parametrize("name", NAMES)
def test_several_answers_train_all_or_the_last_and_say_so(name):
    row = stock.encode(name, "two")
    if name in BY_DESIGN:
        return
    text = stock.trained(name, row)
    assert text.count("Oslo.") == 1 and text.count("Ann.") == 1 - row.fields.get("untrained", 0), text


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_may_be_used_alone_may_be_used_in_a_longer_conversation(name):
    """Templates move the system turn to the last question, and take the thoughts of earlier answers out."""
    for longer, alone in (("system, two", "system"), ("inline, two", "one")):
        assert isinstance(stock.encode(name, longer), Row) == isinstance(stock.encode(name, alone), Row), longer
