"""A model in this process as a writer: what it is shown, what its draws are keyed by, what it cannot be asked."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.contract.writer import Continue, Journal, Prompt
from tunewright.errors import FolderError, MethodError
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task
from tunewright.training.writing import LocalWriter

MODEL, TOKENIZER, TASK = tiny.llama(), tiny.tokenizer(), get_task("text-generation")


def writer(tokenizer: Any = TOKENIZER, model: Any = MODEL, journal: Journal | None = None, **more: Any) -> LocalWriter:
    adapted = Adapted(model, tokenizer)
    given = {"options": EncodeOptions(), "stage": "s", **more}
    return LocalWriter(
        "start", bring=lambda: adapted, task=TASK, tokenizer=tokenizer, journal=journal or Journal(), **given
    )


def prompt_of(one: LocalWriter, prompt: Prompt) -> str:
    return one.tokenizer.decode(one._row(prompt).fields["prompt_ids"])  # type: ignore[no-any-return]


def test_what_each_kind_of_prompt_looks_like_to_the_model() -> None:
    one = writer(options=EncodeOptions(template="Say: {text}", system="Be kind."))
    record = Record({"prompt": "card", "completion": "gold"}, id="r")
    said = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(one, record) == said.format("Say: card"), "a record is asked as it is trained on"
    assert prompt_of(one, "card") == said.format("card"), "and nothing else is put into the recipe's template"
    assert prompt_of(one, Continue("card")) == "card"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert prompt_of(one, turns).endswith("<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")
    plain = writer(tiny.tokenizer(chat=False))
    assert prompt_of(plain, "card") == "card" and prompt_of(plain, turns) == "a\n\nb\n\nc\n\n"
    asks = Record({"prompt": "card"}, id="r")  # it needs no answer to be asked
    assert prompt_of(plain, asks) == "card"
    assert "gold" not in str(one.shown(record))


def test_a_draw_depends_on_its_own_prompt_alone() -> None:
    prompts: list[Prompt] = ["one card", "two fees", Continue("three"), "four"]
    together = writer().generate(prompts, count=2, max_new_tokens=6)
    shuffled = writer(batch=1).generate(prompts[::-1], count=2, max_new_tokens=6)
    assert [[w.text for w in some] for some in together] == [[w.text for w in some] for some in shuffled[::-1]]
    assert together[0][0].draw != together[0][1].draw
    assert {w.text for some in together for w in some} != {together[0][0].text}
    again = writer()
    first, second = (again.generate(["one card"], max_new_tokens=6)[0][0] for _ in range(2))
    assert first.text == together[0][0].text and first.draw != second.draw, "asked again, it is drawn anew"
    others = [writer(seed=1), writer(stage="t")]
    assert all(o.generate(["one card"], max_new_tokens=6)[0][0].draw != first.draw for o in others)


def test_temperature_0_is_the_most_likely_answer_and_log_probabilities_are_the_models() -> None:
    a, b = (writer(seed=s).generate(["card"], max_new_tokens=5, temperature=0)[0][0] for s in (0, 1))
    assert a.text == b.text and a.log_prob is None
    model = tiny.llama()
    ids = model.generate(
        torch.tensor([writer()._row("card").fields["prompt_ids"]]), max_new_tokens=5, do_sample=False, pad_token_id=0
    )
    said = TOKENIZER.decode(ids[0, len(writer()._row("card").fields["prompt_ids"]) :], skip_special_tokens=True)
    assert a.text == said
    drawn = writer().generate(["card"], max_new_tokens=1, temperature=2.0)[0][0]
    prompt = writer()._row("card").fields["prompt_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / 2.0
    shares = logits.softmax(-1).cumsum(-1)
    token = int((shares < random.Random(drawn.draw).random()).sum())
    assert drawn.log_prob == pytest.approx(float(logits.log_softmax(-1)[token]), rel=1e-4)


def test_prompts_that_are_too_long_are_refused_one_by_one() -> None:
    room = MODEL.config.max_position_embeddings
    one = writer()
    long, short = one.generate(["card " * room, "card"], count=2, max_new_tokens=4)
    assert all(f"it reads {room}" in w.nothing and not w.text for w in long) and not any(w.refused for w in short)
    assert one.counts["refused"] == 2 and one.counts["replies"] == 4


def test_what_cannot_be_asked_is_named(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="asks nothing"):
        writer().generate([Record({"text": "plain"}, id="r:1", where="rows.jsonl:1")])
    with pytest.raises(MethodError, match="0 answers"):
        writer().generate(["a"], count=0)
    with pytest.raises(MethodError, match="temperature -1"):
        writer().generate(["a"], temperature=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be kept"):
        writer(journal=Journal(tmp_path / "file" / "j.jsonl")).generate(["a"], max_new_tokens=1)


def test_other_weights_do_not_take_what_the_journal_has(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    first = writer(journal=Journal(file)).generate(["card"], max_new_tokens=6)
    assert writer(journal=Journal(file)).generate(["card"], max_new_tokens=6) == first
    assert len(file.read_text().splitlines()) == 1
    other = writer(model=tiny.llama(seed=1), journal=Journal(file)).generate(["card"], max_new_tokens=6)
    assert other[0][0].text != first[0][0].text and len(file.read_text().splitlines()) == 2
