"""The lab's bases are made by recipes in the ordinary loop: rows, shapes, and a whole make on a few documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests import tiny
from tunewright.claims.lab import corpus, make, pretraining, ship, tokenizer
from tunewright.claims.lab.corpus import Document
from tunewright.claims.lab.overlay import merged
from tunewright.contract.task import EncodeOptions
from tunewright.data.dataset import build
from tunewright.errors import Interrupted
from tunewright.loading import builtin
from tunewright.loading.new_tokenizer import train_tokenizer
from tunewright.recipe import Recipe
from tunewright.recipe.source import Source
from tunewright.runs import stages
from tunewright.tasks import get_task

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
DOCUMENTS = [Document(corpus.SOURCES[0].name, f"{w} card lost {w} fee. " * 20) for w in "abcdefghij" for _ in range(8)]


@pytest.mark.parametrize("name", make.NAMES)
def test_a_bases_config_is_the_shipped_ones_shape(name):
    shipped = json.loads((builtin.shipped()[name] / "config.json").read_text())
    mine = pretraining.CONFIGS[name]
    same = {k: v for k, v in mine.items() if k in shipped}
    assert same == {k: shipped[k] for k in same} and len(same) >= len(mine) - 1
    assert Recipe(**pretraining.recipe(name)).model.fresh


def test_windows_overlap_by_one_token_and_every_token_is_a_target_once(tmp_path):
    pretraining.write_texts(DOCUMENTS, tmp_path / "train.jsonl")
    reads = train_tokenizer([d.text for d in DOCUMENTS], 300)
    options = EncodeOptions(max_length=tokenizer.LENGTH + 1)
    rows = build(
        [Source(path=str(tmp_path / "train.jsonl"))], get_task("text-generation"), reads, options, tmp_path
    ).rows
    whole = [i for row in rows for i in row.input_ids[1:]]
    stream = tokenizer.stream(reads, [d.text for d in DOCUMENTS]).tolist()
    ends = [i for i in whole if i != reads.eos_token_id]  # the end of each of the file's rows
    firsts = {rows[0].input_ids[0], *(r.input_ids[0] for r in rows if r.id.endswith("#0"))}
    assert sum(map(len, (r.input_ids[1:] for r in rows))) == len(whole) and len(stream) == len(ends) + 2
    assert firsts <= set(stream) and max(len(r.input_ids) for r in rows) == tokenizer.LENGTH + 1


def test_the_held_out_loss_is_that_of_windows():
    model, tokens = tiny.llama(), (8 + np.arange(1200) ** 2 % 200).astype(np.uint16)
    expected = []
    for i in range(4):
        ids = torch.tensor(tokens[i * 256 : (i + 1) * 256 + 1].astype(np.int64))
        with torch.no_grad():
            expected.append(float(cross_entropy(model(input_ids=ids[None, :-1]).logits[0], ids[1:])))
    assert tokenizer.held_out(model, tokens) == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert tokenizer.held_out(model, tokens, 1) == pytest.approx(expected[0], rel=1e-5)


def test_pictures_move_by_two_pixels_at_most_and_anew_in_each_pass(tmp_path):
    x = np.zeros((6, 28, 28), np.uint8)
    x[:, 10:18, 10:18] = 200
    pretraining.write_pictures(x, np.arange(6), tmp_path / "p.npz", passes=3)
    made = np.load(tmp_path / "p.npz")
    assert made["x"].shape == (18, 28, 28) and made["y"].tolist() == [*range(6)] * 3
    assert (made["x"].sum((1, 2)) == x[0].sum()).all(), "nothing of the middle falls out"
    corners = {(int(p.any(1).argmax()), int(p.any(0).argmax())) for p in made["x"]}
    assert len(corners) > 5 and all(8 <= a <= 12 and 8 <= b <= 12 for a, b in corners)
    pretraining.write_pictures(x, np.arange(6), tmp_path / "q.npz", passes=0)
    assert np.array_equal(np.load(tmp_path / "q.npz")["x"], x)


@pytest.fixture
def small(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Makes a base of a tiny shape from few documents in few steps."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ship, "BASES", tmp_path / "bases")
    whole = pretraining.recipe

    def few(name: str, tokens: int | None = None) -> dict[str, Any]:
        config = {**SMALL, **({"num_key_value_heads": 2} if "encoder" not in name and "vit" not in name else {})}
        over: dict[str, Any] = {"model": {"config": config}, "measurement": {"rows": 8}, "budget": {"tokens": 4_000}}
        if "vit" not in name:
            over["model"]["vocab_size"] = 320
        over["train"] = {"eval_steps": 2, "save_steps": 1, "batch_tokens": 8 if "vit" in name else 514, "threads": 1}
        over["train"] |= {"logging_steps": 1}
        return merged(whole(name), over | ({"budget": {"tokens": 48}} if "vit" in name else {}))

    monkeypatch.setattr(make, "recipe", few)
    train, held = DOCUMENTS[::2], DOCUMENTS[1::9]
    monkeypatch.setattr(corpus, "build", lambda folder=None: corpus.Corpus(train, held, {"repeated": 0}))
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    for part, n in (("train", 30), ("test", 20)):
        y = np.arange(n) % 10
        x = (25 * y[:, None, None] + rng.integers(0, 20, (n, 28, 28))).astype(np.uint8)
        np.savez(tmp_path / "data" / "mnist" / f"{part}.npz", x=x, y=y)
    monkeypatch.setenv("TUNEWRIGHT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(make, "PICTURES", 30)
    threads = torch.get_num_threads()
    yield lambda name: ship.BASES / name if make.main([name, "--work", str(tmp_path / name)]) is None else ship.BASES
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["nano", "nano-encoder", "nano-vit"])
def test_a_base_is_made_and_shipped_with_its_card(name, small):
    folder = small(name)
    measured = ship.read(folder)
    assert measured["sha256"] == ship.digest(folder) and (folder / "README.md").read_text() == ship.card(measured)
    losses = [loss for _, loss in measured["curve"]]
    assert len(losses) >= 2 and losses[-1] < losses[0] and measured["seen"] >= 40
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_size"] == 16 and (folder / "tokenizer.json").exists() == (name != "nano-vit")


@pytest.mark.slow
def test_an_interrupted_make_goes_on_to_the_same_bits(tmp_path, small, monkeypatch):
    whole = (small("nano") / "model.safetensors").read_bytes()
    (tmp_path / "nano").rename(tmp_path / "whole")
    write, written = stages.TrainingCallback.write, []

    def stopping(self: Any, loop: Any) -> None:
        write(self, loop)
        written.append(loop.step_number)
        if len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as once, pytest.raises(Interrupted):
        once.setattr(stages.TrainingCallback, "write", stopping)
        small("nano")
    assert len(written) == 3
    assert (small("nano") / "model.safetensors").read_bytes() == whole
