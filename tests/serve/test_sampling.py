"""Choosing tokens and showing their text: shares as asked, seeds that repeat, stop texts that are never seen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tunewright.serve.sampling import Drawer, Sampling
from tunewright.serve.text import Writing

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])


def shares(n: int = 20000, **how: Any) -> dict[int, float]:
    drawer = Drawer(Sampling(1, seed=5, **how))
    drawn = Counter(drawer.choose(LOGITS).token for _ in range(n))
    return {t: c / n for t, c in drawn.items()}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_by_their_shares(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, -1)
    got = shares(temperature=temperature)
    assert all(abs(got.get(t, 0.0) - float(p)) < 0.02 for t, p in enumerate(expected))


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    expected = torch.softmax(LOGITS, -1)
    got = shares(top_p=0.7)
    assert set(got) == {0, 1}  # 0.58 + 0.21 reaches it
    assert abs(got[0] - float(expected[0] / (expected[0] + expected[1]))) < 0.02
    assert set(shares(2000, top_p=0.01)) == {0}


def test_a_wide_nucleus_is_looked_for_among_all() -> None:
    logits = torch.zeros(2000)
    drawer = Drawer(Sampling(1, seed=1, top_p=0.9))
    drawn = {drawer.choose(logits).token for _ in range(6000)}
    assert 1600 < len(drawn) <= 1800


def test_penalties_and_biases_move_the_greedy_token() -> None:
    assert Drawer(Sampling(1, temperature=0.0)).choose(LOGITS).token == 0
    assert Drawer(Sampling(1, temperature=0.0, logit_bias={3: 9.0})).choose(LOGITS).token == 3
    for how in ({"presence_penalty": 1.5}, {"frequency_penalty": 1.5}):
        drawer = Drawer(Sampling(1, temperature=0.0, **how))  # type: ignore[arg-type]
        assert [drawer.choose(LOGITS).token for _ in range(2)] == [0, 1]
    once, often = (Drawer(Sampling(1, temperature=0.0, **{k: 0.6})) for k in ("presence_penalty", "frequency_penalty"))  # type: ignore[arg-type]
    assert [once.choose(LOGITS).token for _ in range(4)] == [0, 0, 0, 0]
    assert [often.choose(LOGITS).token for _ in range(4)] == [0, 0, 1, 0]


def test_seeds_repeat_and_answers_of_one_request_differ() -> None:
    def drawn(seed: int | None, number: int = 0) -> list[int]:
        drawer = Drawer(Sampling(1, seed=seed), number)
        return [drawer.choose(torch.zeros(1000)).token for _ in range(5)]

    assert drawn(3) == drawn(3) != drawn(4) and drawn(3) != drawn(3, 1) and drawn(None) != drawn(None)


def test_logprobs_are_the_models_own_whatever_is_drawn() -> None:
    said = Drawer(Sampling(1, temperature=0.0, logprobs=2, logit_bias={3: 9.0})).choose(LOGITS)
    expected = torch.log_softmax(LOGITS, -1)
    assert said.token == 3 and said.logprob == pytest.approx(float(expected[3]))
    assert [t for t, _ in said.top] == [0, 1] and said.top[0][1] == pytest.approx(float(expected[0]))
    assert Drawer(Sampling(1, logprobs=0)).choose(LOGITS).top == ()


TEXTS = st.text(max_size=40) | st.sampled_from(["naïve café", "日本語のテキスト", "🙂🙃", "a\ufffdb"])


@settings(max_examples=200)
@given(TEXTS)
def test_pieces_are_the_whole_text(text: str) -> None:
    tokenizer = tiny.tokenizer()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    writing = Writing(tokenizer)
    pieces = [writing.add(t) for t in tokens] + [writing.end()]
    assert "".join(pieces) == writing.text == tokenizer.decode(tokens, skip_special_tokens=True)


@settings(max_examples=200)
@given(st.text("abc ", max_size=30), st.lists(st.text("abc ", min_size=1, max_size=4), max_size=3))
def test_a_stop_text_is_never_seen(text: str, stop: list[str]) -> None:
    tokenizer = tiny.tokenizer()
    writing, told = Writing(tokenizer, stop), ""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    for token in tokens:
        told += writing.add(token)
        if writing.stopped:
            break
    told += writing.end()
    assert not any(s in told for s in stop)
    for n in range(len(tokens) + 1):  # the first token that makes one whole ends it
        there = tokenizer.decode(tokens[:n])
        if met := [there.find(s) for s in stop if s in there]:
            assert told == there[: min(met)] and writing.stopped
            return
    assert told == text and not writing.stopped


def test_tokens_that_are_no_text_are_shown_where_asked() -> None:
    tokenizer = tiny.tokenizer()
    for special in (True, False):
        writing = Writing(tokenizer, special=special)
        told = "".join(writing.add(t) for t in (tiny.START, *tokenizer("hi", add_special_tokens=False)["input_ids"]))
        assert told + writing.end() == ("<|im_start|>hi" if special else "hi")
