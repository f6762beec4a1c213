from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests import small, tiny
from tunewright.errors import MethodError
from tunewright.finished.chat import Chat, chat
from tunewright.finished.finished import open_run
from tunewright.machine.terminal import AskedToEnd
from tunewright.measure.generate import greedy
from tunewright.runs import run as runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("chat")
    small.write_inputs(folder)
    evaluation = {
        "drift_sequences": 2,
        "drift_tokens": 4,
        "max_new_tokens": 2,
        "strengths": [1.0],
        "rows": 2,
        "few_shot": 0,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield runs.run(
            small.write_recipe(folder, measurement=evaluation, data__template="Topic? {text}"),
            out=folder / "out",
            quiet=True,
        ).folder


def talk(run: Path, *lines: str) -> str:
    out = io.StringIO()
    chat(run, lines=io.StringIO("\n".join(lines) + "\n"), console=Console(file=out, width=100, highlight=False))
    return out.getvalue()


def test_greedy_answers_are_those_of_base_and_tuned(run: Path) -> None:
    made = open_run(run)
    said = Chat(made, tokens=6).answer("card lost")
    prompt = made.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Topic? card lost"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    with made.adapted.base() as model:
        base = greedy(model, made.tokenizer, [prompt], 6)[0]
    with made.adapted.at_strength(1.0) as model:
        tuned = greedy(model, made.tokenizer, [prompt], 6)[0]
    expected = {
        side: made.tokenizer.decode(ids, skip_special_tokens=True).strip()
        for side, ids in (("base", base), ("tuned", tuned))
    }
    assert said == expected and said["base"] != said["tuned"]


def test_each_side_remembers_its_own_answers(run: Path) -> None:
    made = Chat(open_run(run), tokens=4)
    first = made.answer("card lost")
    text = made.run.tokenizer.decode(made._prompt(made.turns["tuned"], "and now"))
    assert first["tuned"] in text and text.count("Topic?") == 2 and text.endswith("assistant\n")
    assert [t["content"] for t in made.turns["base"]] == ["Topic? card lost", first["base"]]


def test_the_oldest_turns_go_where_there_is_no_room(run: Path) -> None:
    made = Chat(open_run(run), tokens=100)
    for i in range(12):
        made.turns["base"] += [{"role": "user", "content": f"message {i}"}, {"role": "assistant", "content": "yes"}]
    assert len(made._fitting("base", "now")) + 100 <= 256
    assert 0 < len(made.turns["base"]) < 24 and made.turns["base"][-2]["content"] == "message 11"


def test_a_message_without_room_is_not_answered_and_an_answer_ends_where_the_room_does(run: Path) -> None:
    said = talk(run, "/tokens 3", "word " * 400, "card")
    assert re.search(r"takes [\d,]+ tokens, and the model has room for 256 with the answer -> shorten it\n", said)
    assert said.count("tuned") == 2, "one in the heading, and one answer: to the line after it"
    made = Chat(open_run(run), tokens=200)
    prompt = made._prompt([], "word " * 40)
    assert made._most(prompt) == 256 - len(prompt) < 200 and made._most(prompt[:10]) == 200
    made.run.loaded.model.config.max_position_embeddings = -1  # a model without an end
    assert made._most(prompt * 9) == 200


def test_bytes_that_are_no_text_are_told_as_that_and_the_next_line_is_answered(run: Path) -> None:
    said = talk(run, "/tokens 3", "bad \udcff\udcfe", "card")
    assert "the line is no UTF-8 -> write it in UTF-8" in said and said.count("tuned") == 2


def test_being_asked_to_end_is_no_end_of_one_answer(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(self: Chat, text: str) -> dict[str, str]:
        asked.append(text)
        raise {"one": KeyboardInterrupt, "two": AskedToEnd}[text]

    monkeypatch.setattr(Chat, "answer", answer)
    with pytest.raises(AskedToEnd):
        talk(run, "one", "two", "three")
    assert asked == ["one", "two"]


def test_json_has_the_strength_at_which_it_was_answered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = io.StringIO("/tokens 2\ncard\n/strength 0\n/new\ncard\n")
    chat(run, lines=lines, console=Console(file=io.StringIO()), as_json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["strength"], second["strength"]) == (1.0, 0.0) and second["tuned"] == second["base"]


def test_strength_zero_is_the_base_and_temperature_draws(run: Path) -> None:
    made = Chat(open_run(run), strength=0.0, tokens=8)
    same = made.answer("fee")
    assert same["base"] == same["tuned"]
    state = torch.get_rng_state()
    drawn = [Chat(made.run, temperature=t, tokens=12).answer("fee")["base"] for t in (0.0, 1.5, 1.5)]
    assert drawn[0] != drawn[1] == drawn[2] and torch.equal(torch.get_rng_state(), state)


def test_the_terminal(run: Path) -> None:
    text = talk(run, "/tokens 3", "card", "", "/temp 0.7", "/strength 0.5", "card", "/new", "/quit", "never read")
    for said in (
        "> card",
        "base",
        "tuned",
        "temperature 0.7",
        "tuned at strength 0.5",
        "at most 3 tokens",
        "a new conversation",
    ):
        assert said in text, said
    assert "never read" not in text


def test_commands_that_are_wrong_say_what_is_right(run: Path) -> None:
    text = talk(run, "/temp warm", "/temp -1", "/tokens 0", "/tempo 1", "/help")
    for said in ("as in /temp 0.7", "at least 0", "at least 1", "no command /tempo", "/quit "):
        assert said in text, said


def test_a_classifier_has_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.bert_classifier(labels=2).save_pretrained(tmp_path / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(tmp_path / "base")
    rows = [{"text": f"card {w}", "label": ["no", "yes"][i % 2]} for i, w in enumerate(small.WORDS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    file = small.write_recipe(tmp_path, task="text-classification", keep=[], data={"train": "rows.jsonl"})
    folder = runs.run(file, out=tmp_path / "out", quiet=True).folder
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(MethodError, match="writes no text"):
        chat(folder)
