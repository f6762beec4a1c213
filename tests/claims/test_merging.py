"""Claims of merges, driven whole on a tiny classifier and pictures made up here: what they measure is what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import tiny
from tests.claims.stand_in import Engine, reading, record
from tunewright.claims import claim, merging
from tunewright.claims.claim_run import ClaimRun
from tunewright.claims.lab import corpus
from tunewright.claims.papers import _marks
from tunewright.errors import ClaimError
from tunewright.trials.trial import Store, run_trial
from tunewright.weights.blocks import state_of

VISION = ("ties", "model-breadcrumbs", "pleas", "atlas", "bang", "diverse-model-zoo", "fusing-finetuned-models")


class Real(Engine):
    """Runs every recipe in this process, in a store of its own; artefacts are kept where they are asked for."""

    def __init__(self, folder):
        super().__init__(None)
        self.trials = Store(folder)

    def run_one(self, recipe, keep_artefacts):
        self.ran.append(recipe)
        return run_trial(recipe, self.trials, keep_artefacts=keep_artefacts, threads=1)


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count)
    x = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for i, k in enumerate(y):
        x[i, 6 + 2 * k : 8 + 2 * k if k < 9 else 26, 4:20] += 150
    return {"x": x, "y": y}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A data folder with pictures, a tiny base, and a maker of claim runs on them."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNEWRIGHT_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    for part, count in (("train", 9000), ("test", 2700)):
        np.savez(tmp_path / "data" / "mnist" / f"{part}.npz", **pictures(count, len(part)))
    for module in (merging, _marks):
        monkeypatch.setattr(module, "HELD", 100)
    for cached in (merging.rows_of, _marks.files):
        cached.cache_clear()
    base = tmp_path / "base"
    tiny.vit(labels=10, channels=1).save_pretrained(base)
    task = {
        "model": str(base),
        "task": "image-classification",
        "data": {"train": "x", "validation": "x", "eval": "x"},
        "train": {"batch_tokens": 64, "precision": "float32"},
        "budget": {"steps": 4},
        "evaluation": {"rows": 60, "drift_sequences": 4, "few_shot": 0},
    }

    def run(name):
        declared = claim.load(name)
        return declared, ClaimRun(
            declared.claim,
            "nano",
            task,
            Real(tmp_path / "trials"),
            tmp_path / "own",
            {a.name: 3e-3 for a in declared.claim.arms},
        )

    yield run
    for cached in (merging.rows_of, _marks.files):
        cached.cache_clear()


def test_tasks_have_pictures_of_their_own_and_marks_follow_the_class_in_training_alone(lab):
    files = {t: merging.rows_of(t, 300) for t in merging.CHANGES}
    loaded = {t: {p: np.load(f) for p, f in parts.items()} for t, parts in files.items()}
    assert len({f for parts in files.values() for f in parts.values()}) == 3 * len(files)
    assert all(len(parts["train"]["y"]) == 300 and len(parts["eval"]["y"]) == 400 for parts in loaded.values())
    x = pictures(5, 1)["x"]
    assert all(change(x).shape == x.shape and change(x).dtype == np.uint8 for change in merging.CHANGES.values())
    assert len({change(x).tobytes() for change in merging.CHANGES.values()}) == len(merging.CHANGES)
    y = np.arange(10).repeat(200)
    for follows, least, most in ((0.9, 0.87, 0.95), (0.0, 0.07, 0.13)):
        out = _marks.marked(np.zeros((2000, 28, 28), np.uint8), y, follows, 0)
        told = (out[:, 0].argmax(1) - 4) // 2
        assert least < (told == y).mean() < most


@pytest.mark.slow
def test_a_bench_scores_weights_and_merges_as_the_methods_do(lab):
    _, run = lab("ties")
    bench = merging.Bench(run, 0, "ties", ("turned", "inverted"))
    assert len(run.engine.ran) == 2 and set(bench.alone) == {"turned", "inverted"}
    mean = bench.merge("linear")
    first = next(n for n in mean if n.endswith("q_proj.weight"))
    assert torch.allclose(mean[first], (bench.models[0][first] + bench.models[1][first]) / 2, atol=1e-6)
    assert bench.scores(bench.base) == bench.at_base  # whatever was weighed before
    score, chosen = bench.best("task-arithmetic", [{"lambda": 0.0}, {"lambda": 0.5}])
    validation = {f: bench.mean(bench.merge("task-arithmetic", **{"lambda": f}), "validation") for f in (0.0, 0.5)}
    assert chosen["lambda"] == max(validation, key=validation.get)
    assert score == bench.mean(bench.merge("task-arithmetic", **chosen))
    again = merging.Bench(run, 0, "ties", ("turned", "inverted"))
    assert all(torch.equal(a[n], b[n]) for a, b in zip(bench.models, again.models, strict=True) for n in a)


@pytest.mark.slow
def test_a_folder_of_merged_weights_loads_as_what_was_merged(lab):
    _, run = lab("ties")
    bench = merging.Bench(run, 0, "ties", ("turned",))
    record = merging.finished(run, merging.task_recipe(run, "ties", 0, "turned"))
    half = bench.merge("task-arithmetic", **{"lambda": 0.5})
    folder = merging.folder_of(record.folder, half, "half")
    assert folder == merging.folder_of(record.folder, half, "half")
    found = state_of(type(bench.module).from_pretrained(folder))
    assert all(torch.equal(found[n], t) for n, t in half.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_every_claim_measures_a_figure_for_each_arm(name, lab):
    declared, run = lab(name)
    found = declared.measure(run, 0)
    assert {a.name for a in declared.claim.arms} <= found.keys()
    assert all(0 <= v <= 1 for v in found.values())


class Fake(Engine):
    """Gives a record made up from the recipe."""

    def run_one(self, recipe, keep_artefacts):
        self.ran.append(recipe)
        return self.run(recipe)


def fake(name, make):
    declared = claim.load(name)
    task = {
        "model": "nano",
        "task": "text-generation",
        "data": {"train": "quickstart:train"},
        "budget": {"steps": 4},
        "keep": [{"data": "quickstart:keep"}],
    }
    return declared, ClaimRun(
        declared.claim, "nano", task, Fake(make), None, {a.name: 1e-3 for a in declared.claim.arms}
    )


def test_what_is_won_back_less_what_is_given_up():
    def made(half, whole):
        return lambda recipe: record(
            "k",
            "merged",
            0,
            base=reading(0.0, 0.1, {"general": 3.0}),
            strengths=[reading(0.5, *half), reading(1.0, *whole)],
        )

    declared, run = fake("financial-merging", made((0.7, {"general": 3.1}), (0.9, {"general": 3.5})))
    assert declared.measure(run, 0) == pytest.approx({"merged": 0.8 - 0.25, "won back": 0.8, "gain kept": 0.75})
    declared, run = fake("financial-merging", made((0.7, {"general": 3.0}), (0.9, {"general": 2.9})))
    with pytest.raises(ClaimError, match="no shares"):
        declared.measure(run, 0)


def test_the_chain_is_merged_with_what_it_began_from(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path))
    monkeypatch.setattr(corpus, "rows", lambda name: [{"text": "My card is lost."}])
    declared, run = fake(
        "cpt-sft-dpo-merging",
        lambda recipe: record("k", "x", 0, strengths=[reading(1.0, len(recipe.stages) / 10 + len(recipe.after))]),
    )
    assert declared.measure(run, 2) == {"slerp": 1.3, "chain": 0.3, "instruct": 0.1}
    slerp, chain, instruct = run.engine.ran
    assert [s.start for s in slerp.stages] == [
        "base",
        "stages.instruct",
        "stages.domain",
    ] and slerp.stages == chain.stages
    assert slerp.after[0].name == "slerp" and slerp.after[0].params == {"of": ["stages.instruct"], "t": 0.5}
    assert slerp.train_for(slerp.stages[2]).seed == 102 and instruct.stages[0] == chain.stages[0]
    assert all(s.budget.steps == 4 for s in slerp.stages) and slerp.data_for(slerp.stages[1]).train[0].path.endswith(
        "train.jsonl"
    )
