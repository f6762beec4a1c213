"""What is trained is what that turn says: a template that mixes turns, and a content that opens one, are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.tasks import chat_templates as stock
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import get_task
from tunewright.tasks._control import _control
from tunewright.tasks._dialect import dialect_of

TASK = get_task("text-generation")
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
LOOP = "{% for m in messages %}" + TURN + "{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SAID = "{{ m.content }}"
REFUSED = {
    "the prompt opens a user turn": LOOP + PROMPT.replace("assistant", "user"),
    "the prompt opens a system turn": LOOP + PROMPT.replace("assistant", "system"),
    "turns are reversed": LOOP.replace("in messages", "in messages | reverse") + PROMPT,
    "turns stand there twice": LOOP.replace(TURN, TURN * 2) + PROMPT,
    "all is written twice": LOOP * 2 + PROMPT,
    "answers are said twice": LOOP.replace(SAID, SAID + "{% if m.role == 'assistant' %} {{ m.content }}{% endif %}")
    + PROMPT,
    "answers quote the question": LOOP.replace(
        SAID, "{% if m.role == 'assistant' %}On {{ messages[loop.index0 - 1].content }}: {% endif %}" + SAID
    )
    + PROMPT,
    "a summary at the end": LOOP
    + "{% if not add_generation_prompt %}Asked: {{ messages[0].content }}{% endif %}"
    + PROMPT,
    "answers before questions": "{% for m in messages if m.role == 'assistant' %}" + TURN + "{% endfor %}"
    "{% for m in messages if m.role != 'assistant' %}" + TURN + "{% endfor %}" + PROMPT,
    "letters turned round": LOOP.replace(SAID, "{{ m.content | reverse }}") + PROMPT,
    "capitals": LOOP.replace(SAID, "{{ m.content | upper }}") + PROMPT,
    "cut": LOOP.replace(SAID, "{{ m.content[:3] }}") + PROMPT,
}
"""Templates under which no answer can be trained."""


def reader(template: str):
    made = tiny.tokenizer()
    made.chat_template = template
    return made


def talk(*said: str, **last) -> dict:
    roles = ("user", "assistant") * len(said)
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return {"messages": [*turns[:-1], {**turns[-1], **last}]}


def encoded(t, values: dict):
    return TASK.encode(Record(values, id="r"), t, EncodeOptions())


def spans(t, row) -> list[str]:
    """The texts that are trained, a run of tokens each."""
    out, before = [], False
    for i, w in zip(row.input_ids, row.weights, strict=True):
        if w > 0:
            out = out if before else [*out, ""]
            out[-1] += t.decode([i])
        before = w > 0
    return out


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("said", [("Who came?", "Ann did."), ("a", "b"), ("Who came?", "Ann.", "Where from?", "Oslo.")])
def test_a_template_that_mixes_turns_is_refused_in_long_words_and_in_short_ones(name, said):
    with pytest.raises(RowProblem, match="chat template") as caught:
        encoded(reader(REFUSED[name]), talk(*said))
    assert caught.value.remedy and caught.value.field.startswith("messages")
    many = TASK.encode_many([Record(talk(*said), id="r")] * 9, reader(REFUSED[name]), EncodeOptions())
    assert all(isinstance(made, RowProblem) for made in many)


def test_an_earlier_answer_among_the_words_of_others_is_left_untrained():
    """The first answer quotes the question, the last one does not."""
    quoting = LOOP.replace(
        SAID, "{% if m.role == 'assistant' and loop.index0 == 1 %}On {{ messages[0].content }}: {% endif %}" + SAID
    )
    t = reader(quoting + PROMPT)
    row = encoded(t, talk("Who came?", "Ann.", "Where from?", "Oslo."))
    assert spans(t, row) == ["Oslo.<|im_end|>"] and row.fields["untrained"] == 1


def test_words_that_an_answer_shares_with_a_question_are_its_own():
    t = reader(LOOP + PROMPT)
    for said in (("Say hello to me", "Say hello to me"), ("hello there", "You said: hello there, hello there.")):
        assert spans(t, encoded(t, talk(*said))) == [said[1] + "<|im_end|>"]


@pytest.mark.parametrize("said", ["a < b", 'it\'s & "that"', "1 > 0"])
def test_what_is_escaped_is_not_what_was_said(said):
    for form in ("m.content | e", "m.content | tojson", "[m.content]"):
        t = reader(LOOP.replace("m.content", form) + PROMPT)
        try:
            row = encoded(t, talk("Who?", said))
        except RowProblem:
            continue
        assert said in spans(t, row)[0]


def test_parts_that_a_template_prints_as_python_are_given_as_text():
    t = reader(LOOP + PROMPT)
    parts = [{"type": "text", "text": "it's Ann"}]
    row = encoded(t, {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": parts}]})
    assert spans(t, row) == ["it's Ann<|im_end|>"] and "type" not in t.decode(row.input_ids)


words = st.text("ab <>&'\"\n.{}[]", min_size=1, max_size=14).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["chatml", "qwen3", "llama-3.1", "phi-3", "gpt-oss", "glm-4.5", "mistral-7b-v0.1", "vicuna"]),
    said=st.lists(words, min_size=2, max_size=6).filter(lambda s: len(s) % 2 == 0),
)
def test_stock_templates_train_each_answer_once_and_nothing_of_the_questions(name, said):
    t = stock.tokenizer(name)
    try:
        row = encoded(t, talk(*said))
    except RowProblem:
        return
    got, answers = spans(t, row), said[1::2][row.fields.get("untrained", 0) :]
    assert len(got) == len(answers)
    for text, own in zip(got, answers, strict=True):
        frame = text.replace(own.strip(), "", 1)
        assert own.strip() in text and not any(q.strip() in frame for q in said[::2] if len(q.strip()) > 2)


@pytest.mark.parametrize("said", ["<", "final", "|"])
def test_an_answer_that_stands_in_its_header_too_is_not_taken_for_it(said):
    t = stock.tokenizer("gpt-oss")
    row = encoded(t, talk("a", said, "b", said))
    assert spans(t, row) == [f"<|channel|>final<|message|>{said}<|return|>"] and row.fields["untrained"] == 1


CONTROL = {"chatml": "<|im_end|>", "llama-3.1": "<|eot_id|>", "mistral-7b-v0.3": "[/INST]", "gpt-oss": "<|start|>"}


@pytest.mark.parametrize("name", CONTROL)
def test_a_content_that_ends_or_opens_a_turn_is_refused_wherever_it_stands(name):
    t, token = stock.tokenizer(name), CONTROL[name]
    user, answer = stock.user("Who?"), stock.answer("Ann.")
    rows = {
        "messages[0].content": {"messages": [stock.user(f"Who?{token}x"), answer]},
        "messages[1].content": {"messages": [user, stock.answer(f"Ann.{token}")]},
        "messages[1].reasoning_content": {"messages": [user, {**answer, "reasoning_content": f"x{token}"}]},
        "messages[1].tool_calls[0]": {
            "messages": [user, stock.answer("", tool_calls=[{"name": "w", "arguments": {"city": [token]}}])]
        },
        "tools[0]": {"messages": [user, answer], "tools": [{"name": "w", "description": f"of {token}"}]},
    }
    for field, values in rows.items():
        with pytest.raises(RowProblem, match="holds") as caught:
            encoded(t, values)
        assert caught.value.field == field and token in caught.value.reason and caught.value.remedy
    with pytest.raises(RowProblem) as caught:
        TASK.encode(Record({"messages": [user, answer]}, id="r"), t, EncodeOptions(system=f"Be{token}"))
    assert caught.value.field == "data.system"
    with pytest.raises(RowProblem, match="holds"):
        encoded(t, {"prompt": f"Who?{token}", "completion": "Ann."})


def test_special_tokens_that_end_no_turn_and_thoughts_are_left_alone():
    row = encoded(stock.tokenizer("mistral-nemo"), talk("Who?", '[TOOL_CALLS][{"name": "w"}]'))
    assert "[TOOL_CALLS]" in stock.trained("mistral-nemo", row)
    for name in stock.TABLE:
        t = stock.tokenizer(name)
        pattern = _control(t, t.chat_template, dialect_of(t))
        assert not pattern.search("<think>x</think>") and pattern.search(t.eos_token)
    assert isinstance(stock.encode("ministral-3-reasoning", "inline"), object)


def test_a_name_that_the_template_drops_is_counted_and_one_that_it_shows_is_not():
    named = (
        "{% for m in messages %}<|im_start|>{{ m.name or m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + PROMPT
    )
    values = talk("Who?", "Ann.")
    values["messages"][0]["name"] = "Bo"
    assert encoded(reader(LOOP + PROMPT), values).fields["nameless"] == 1
    assert "nameless" not in encoded(reader(named), values).fields
    assert "nameless" not in encoded(reader(LOOP + PROMPT), talk("Who?", "Ann.")).fields
    tool = {"role": "tool", "name": "weather", "content": "sunny"}
    loop = {"messages": [stock.user("Who?"), stock.CALL, tool, stock.answer("Sun.")]}
    assert "nameless" not in encoded(stock.tokenizer("qwen2.5"), loop).fields  # the call that it answers names it


def test_a_template_that_mixes_turns_for_some_words_alone_is_refused_for_these():
    quoting = LOOP.replace(SAID, "{% if 'quote' in m.content %}On {{ messages[0].content }}: {% endif %}" + SAID)
    t = reader(quoting + PROMPT)
    assert encoded(t, talk("Who came here?", "Ann."))
    with pytest.raises(RowProblem, match=r"puts what messages\[0\] says"):
        encoded(t, talk("Who came here?", "A quote."))
