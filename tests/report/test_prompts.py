from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.report.prompts import middle_cut, shown

QUESTION = "Which topic is this?\nMy card was lost.\nuser error?"


@pytest.mark.parametrize(
    "prompt",
    [
        QUESTION,
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n",
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|><|start_header_id|>assistant"
        "<|end_header_id|>\n\n",
        f"<s>[INST] {QUESTION} [/INST]",
        f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{QUESTION} [/INST]",
        f"<bos><start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        f"[CLS] {QUESTION} [SEP]",
    ],
)
def test_the_question_is_left_of_every_template(prompt):
    assert shown(prompt) == QUESTION


def test_several_turns_keep_their_roles():
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    assert shown(text + "<|im_start|>assistant\n") == "user: Hi\nassistant: Hello\nuser: Bye"


def test_a_system_turn_alone_is_shown():
    assert shown("<|im_start|>system\nBe brief.<|im_end|>\n") == "Be brief."


def test_text_without_markers_is_left_as_it_is():
    assert shown("user\nx < y | z > w") == "user\nx < y | z > w"


@given(st.text(max_size=400), st.integers(20, 200))
def test_a_long_text_is_cut_in_the_middle(text, most):
    cut = middle_cut(text, most)
    assert len(cut) <= most and (cut == text or "\u2026" in cut)
    if len(text) > most and not text[-10:].isspace():
        assert cut.endswith(text[-10:])
        assert cut.split(" \u2026 ")[0].strip() in text
