"""Telly: what is below block K keeps its bits and its states; K read off similarities that numpy finds too."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes
from tests.methods.selecting import BASES, gradient_numbers, rows_for, state_numbers, stayed
from tunewright.contract.left import Earlier, Left, left_of
from tunewright.contract.method import Candidates
from tunewright.errors import MethodError
from tunewright.files import checkpoint
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.layer_similarity import LayerSimilarity, alike
from tunewright.methods.parameter_selection.telly import Telly, embeddings, unchanged
from tunewright.models.adapted import Adapted
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe


@pytest.mark.parametrize("kind", BASES)
def test_what_lies_below_keeps_bits_and_states(kind):
    make, task = BASES[kind]
    rows = rows_for(task)
    r = Run({"telly": Telly(layers=1)}, model=make(), task=task, sources={"new": rows}, steps=3)
    loop = r.train()
    below = ("layer.0.", "layers.0.", "h.0.", "embeddings.", "wte", "wpe")
    moved = set()
    for name, same in stayed(r.adapted.model, make()).items():
        if any(part in name for part in below):
            assert bool(same.all()), name
        elif not bool(same.all()):
            moved.add(name)
    count = sum(p.numel() for n, p in make().named_parameters() if not any(part in n for part in below))
    assert moved and loop.trained.count() == count == gradient_numbers(loop) and state_numbers(loop) == 2 * count
    batch = r.task.collate(rows[:3], False, seed=0)
    with torch.no_grad():
        now, then = (r.task.forward(m.eval(), batch, hidden=True).hidden for m in (r.adapted.model, make()))
    assert torch.equal(now[0], then[0]) and torch.equal(now[1], then[1]) and not torch.equal(now[2], then[2])


def test_zero_keeps_the_embeddings_alone():
    adapted = Adapted(tiny.bert_classifier())
    method, candidates = Telly(layers=0), Candidates(adapted)
    state = Run({"telly": method}, model=adapted, task="text-classification",
                sources={"new": rows_for("text-classification")}).state("telly")  # fmt: skip
    own = {n for n, _ in tiny.bert_classifier().named_parameters() if n.startswith("bert.embeddings.")}
    assert embeddings(candidates) == own and any("LayerNorm" in n for n in own)
    assert set(method.choose(candidates, state).names) == set(candidates.base) - own
    assert embeddings(Candidates(Adapted(tiny.llama()))) == {"model.embed_tokens.weight"}


@pytest.mark.parametrize("kind", BASES)
def test_similarities_are_those_of_numpy(kind):
    make, task = BASES[kind]
    rows = rows_for(task)
    r = Run({"telly": Telly()}, model=make(), task=task, sources={"new": rows}, steps=4)
    context = r.provider.context
    torch.testing.assert_close(LayerSimilarity(rows=20).compute(context), torch.ones(3))
    r.train()
    found = LayerSimilarity(rows=20).compute(context)
    picked = random.Random("0/layer_similarity/train").sample(rows, 20)
    grams = []
    for model in (make(), r.adapted.model):
        layers = [[] for _ in range(3)]
        for row in picked:  # alone: no padding
            batch = r.task.collate([row], False, seed=0)
            with torch.no_grad():
                hidden = r.task.forward(model.eval(), batch, hidden=True).hidden
            for k, h in enumerate(hidden):
                v = h[0].mean(0).double().numpy()
                layers[k].append(v / np.linalg.norm(v))
        grams.append([np.array(x) @ np.array(x).T for x in layers])
    upper = np.triu_indices(20)
    wanted = [np.corrcoef(a[upper], b[upper])[0, 1] for a, b in zip(*grams, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-4)
    assert found[0] == pytest.approx(1.0, abs=1e-5) and float(found[2]) < 0.999, "the embeddings stay"


def test_blocks_are_kept_up_to_the_first_that_changed():
    s = torch.tensor([1.0, 0.98, 0.93, 0.7, 0.95])
    assert [unchanged(s, t) for t in (0.99, 0.95, 0.9, 0.5, -1.0)] == [0, 1, 2, 3, 3]
    assert unchanged(torch.tensor([1.0, float("nan"), 1.0]), 0.9) == 0, "what cannot be told has changed"
    assert float(alike(torch.eye(3), torch.eye(3) * 5)) == pytest.approx(1.0)


def test_a_first_stage_measures_and_the_second_freezes(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    method = {"telly": {"similarity": 0.2, "rows": 6}}
    stages = [
        {"name": "search", "methods": [method], "budget": {"steps": 3}},
        {"name": "frozen", "start": "base", "methods": [method], "budget": {"steps": 2}},
    ]
    out = tmp_path / "out"
    run_recipe(Recipe.load(small.write_recipe(tmp_path, stages=stages), out=out))
    search, frozen = (checkpoint.read(out / "stages" / n) for n in ("search", "frozen"))
    left = search.state["left"]["telly"]
    assert left["phase"] == "search" and frozen.state["left"]["telly"]["layers"] == left["layers"] >= 1
    changed = {n.split(":", 1)[1] for n in frozen.tensors["trained"] if ":" in n}
    assert changed and not any("layers.0." in n or "embed" in n for n in changed)
    assert any("embed" not in n and "layers.0." in n for n in search.tensors["trained"])


def test_the_second_stage_takes_what_was_left_and_a_third_measures_again():
    similar = torch.tensor([1.0, 0.95, 0.4])
    for phase, layers in (("search", 1), ("frozen", 0)):
        left = Earlier((Left("one", "telly", {"phase": phase, "layers": 1, "similarities": similar}),))
        data = Run({"telly": Telly()}, earlier=left).state("telly").data
        assert (data["phase"], data["layers"]) == ("frozen" if phase == "search" else "search", layers)
    assert Run({"telly": Telly(layers=0)}, earlier=left).state("telly").data["phase"] == "frozen"


def test_deltas_on_frozen_blocks_do_not_train():
    r = Run({"lora": LoRA(rank=2), "telly": Telly(layers=1)}, steps=1)
    deltas = [n for n in r.train().trained.leaves if ".delta." in n]
    assert deltas and all("layers.1." in n for n in deltas)


def test_refusals():
    with pytest.raises(MethodError, match="2 blocks are to stay, and the model has 2"):
        Run({"telly": Telly(layers=2)})
    r = Run({"telly": Telly()})
    r.state("telly").data["blocks"] = 5
    with pytest.raises(MethodError, match="5 blocks and gives 3 hidden states"):
        r.methods.bound[0].method.end_task(_Found(torch.ones(3)), r.state("telly"))


class _Found:
    def __init__(self, layer_similarity):
        self.layer_similarity = layer_similarity


def test_resumes():
    assert_resumes(lambda listen: Run({"telly": Telly(layers=1)}, steps=4, listen=listen), 2)


def test_a_number_of_layers_leaves_no_similarities():
    state = Run({"telly": Telly(layers=1)}).state("telly")
    assert left_of("one", "telly", Telly.leaves, state, state.data).values["similarities"].numel() == 0


def test_states_that_tell_no_two_rows_apart_are_alike_where_they_are_the_same():
    same, told = torch.ones(4, 3), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert alike(same, 2 * same).item() == 1.0 and alike(same, told).item() == 0.0 == alike(told, same).item()
