from __future__ import annotations

import pytest

from tests import tiny
from tests.measure.making import answer_rows
from tests.tasks import chat_templates as stock
from tunewright.errors import DataError
from tunewright.measure.few_shot import few_shot, opening

WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n{% endif %}" + tiny.CHAT_TEMPLATE
)


def test_chat_examples_are_earlier_turns():
    tokenizer = tiny.tokenizer()
    rows, train = answer_rows(4), answer_rows(30, seed=9, name="train")
    got = few_shot(tokenizer, rows, train, k=3, seed=1)
    prompt = tokenizer.decode(got[0].fields["prompt_ids"])
    turns = prompt.split("<|im_start|>")[1:]
    assert [t.split("\n")[0] for t in turns] == ["user", "assistant"] * 4 and all(
        t.endswith("<|im_end|>\n") for t in turns[:-1]
    )
    assert (
        prompt.endswith(tokenizer.decode(rows[0].fields["prompt_ids"]))
        and got[0].fields["reference"] == rows[0].fields["reference"]
    )
    answers = [t.split("\n")[1].removesuffix("<|im_end|>") for t in turns[1:-1:2]]
    assert len(set(answers)) == 3
    assert list(got[0].input_ids[: len(got[0].fields["prompt_ids"])]) == got[0].fields["prompt_ids"]
    assert len(got[0].weights) == len(got[0].input_ids) and sum(got[0].weights) == sum(rows[0].weights)


def test_drawing_depends_on_the_seed_and_leaves_rows_alone():
    rows, train, tokenizer = answer_rows(2), answer_rows(30, seed=9, name="train"), tiny.tokenizer()
    before = list(rows[0].input_ids)
    a, b, c = (few_shot(tokenizer, rows, train, seed=s)[0].input_ids for s in (1, 1, 2))
    assert a == b != c and rows[0].input_ids == before and few_shot(tokenizer, rows, train, k=0)[0].input_ids == before


def test_bare_text_has_one_bos_and_blank_lines():
    tokenizer = tiny.tokenizer(chat=False, bos_first=True)
    rows, train = answer_rows(2, tokenizer=tokenizer), answer_rows(9, seed=9, tokenizer=tokenizer, name="train")
    got = few_shot(tokenizer, rows, train, k=2)[0].fields["prompt_ids"]
    assert (
        got.count(tiny.BOS) == 1
        and got[0] == tiny.BOS
        and tiny.EOS not in got
        and tokenizer.decode(got).count("\n\n") == 2
    )


def test_a_default_system_turn_stands_once():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = WITH_SYSTEM
    assert tokenizer.decode(opening(tokenizer)) == "<|im_start|>system\nBe kind<|im_end|>\n"
    rows, train = answer_rows(2, tokenizer=tokenizer), answer_rows(9, seed=9, tokenizer=tokenizer, name="train")
    text = tokenizer.decode(few_shot(tokenizer, rows, train, k=2)[1].fields["prompt_ids"])
    assert text.count("Be kind") == 1 and text.startswith("<|im_start|>system") and text.count("<|im_start|>user") == 3


@pytest.mark.parametrize(
    "name, head",
    [
        ("chatml", ""),
        ("qwen2.5", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
        ("qwen3", ""),  # writes the last answer otherwise than those before it
        ("llama-3", "<|begin_of_text|>"),
        ("deepseek-r1", "<｜begin▁of▁sentence｜>"),
        ("mistral-7b-v0.3", "<s>"),
        ("gemma", "<bos>"),
        ("phi-3", ""),
        ("idefics3", "<|begin_of_text|>"),
        ("vicuna", "<s>"),
        ("hermes-3", ""),  # refuses every conversation without tools
    ],
)
def test_what_opens_a_conversation_is_told_under_every_template(name, head):
    assert stock.tokenizer(name).decode(opening(stock.tokenizer(name))) == head


def test_too_few_examples_are_refused():
    rows = answer_rows(5)
    with pytest.raises(DataError, match="0 training rows"):
        few_shot(tiny.tokenizer(), rows, rows, k=3)
