"""Hypter: adapters are what the paper's network writes, the network alone trains, and what it wrote is kept plain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.finished.export import check_inputs, export, logits_of
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.hypter import Hypter, description_vector
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Bottleneck, LowRank
from tunewright.models.generated import settle
from tunewright.models.peft_format import obstacle
from tunewright.models.per_task import PerTask
from tunewright.runs.run import run
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
PLAN = {"plan": {"sources": {"a": 100, "b": 100}}}
WORDS = {"a": "say yes", "b": "count upwards", "unseen": "say no"}


def sources(names: str = "ab", count: int = 12) -> dict[str, list[Row]]:
    return {n: [Row(r.id, n, r.input_ids, r.weights) for r in text_rows(count, n)] for n in names}


def make(listen=None, steps: int = 5, **fields) -> Run:
    method = Hypter(**{"width": 3, "hidden": 6, "descriptions": WORDS, **fields})
    return Run({"hypter": method}, sources=sources(), steps=steps, listen=listen, **PLAN)


def by_hand(run: Run, rows: list[Row]) -> torch.Tensor:
    """Logits of each row alone: the paper's formula from the state's networks, on hooks of a fresh model."""
    state = run.state("hypter")
    out = []
    for row in rows:
        fresh = tiny.llama()
        e = state.get_buffer("vectors")[list(WORDS).index(row.source)]
        for i, block in enumerate(fresh.model.layers):
            w = state.get_submodule(f"writers.{i}")
            p = w.second.weight @ nn.functional.gelu(w.first.weight @ e + w.first.bias) + w.second.bias
            d, a = 32, 3
            down, up = p[: a * d].view(a, d), p[a * d : 2 * a * d].view(d, a)
            b, c = p[2 * a * d : 2 * a * d + a], p[2 * a * d + a :]
            assert c.numel() == d

            def after(_, args, h, down=down, up=up, b=b, c=c):
                return h + nn.functional.gelu(h @ down.T + b) @ up.T + c

            block.self_attn.o_proj.register_forward_hook(after)
        with torch.no_grad():
            out.append(TASK.forward(fresh, TASK.collate([row])).logits)
    return torch.cat(out)


def said(adapted: Adapted, rows: list[Row]) -> torch.Tensor:
    with torch.no_grad():
        return TASK.forward(adapted.model.eval(), TASK.collate(rows, True)).logits


def test_a_trained_network_writes_the_papers_adapters_row_by_row():
    run = make()
    start = {n: p.detach().clone() for n, p in run.state("hypter").named_parameters()}
    base = {n: t.clone() for n, t in run.adapted.model.state_dict().items()}
    loop = run.train()
    assert set(loop.trained.leaves) == {f"hypter.{n}" for n in start}, "the networks alone train"
    assert all(not torch.equal(p, start[n]) for n, p in run.state("hypter").named_parameters())
    assert all(torch.equal(t, base[n]) for n, t in run.adapted.model.state_dict().items())
    rows = [sources()["a"][0], sources()["b"][0], sources()["a"][1]]
    ours = said(run.adapted, rows)
    torch.testing.assert_close(ours, by_hand(run, rows), atol=1e-5, rtol=1e-5)
    swapped = said(run.adapted, [Row(r.id, "b" if r.source == "a" else "a", r.input_ids, r.weights) for r in rows])
    assert float((ours - swapped).abs().max()) > 1e-3, "the description says nothing"


def test_it_starts_as_the_base_and_resumes():
    run = make()
    rows = [r for part in sources().values() for r in part][:5]
    torch.testing.assert_close(said(run.adapted, rows), said(Adapted(tiny.llama()), rows), atol=1e-6, rtol=0)
    assert_resumes(lambda listen: make(listen), 3)


def test_a_row_of_no_task_and_one_of_which_nothing_is_known_are_the_bases():
    run = make(steps=8)
    run.train()
    strange = [Row("x", "elsewhere", [9, 8, 7, 6], [0.0, 0.0, 1.0, 1.0])]
    torch.testing.assert_close(said(run.adapted, strange), said(Adapted(tiny.llama()), strange), atol=1e-6, rtol=0)
    ids = torch.tensor([[9, 8, 7, 6]])
    with torch.no_grad(), context.reading(context.whole(ids, context.rows_of_prompts([2]))):
        unknown = run.adapted.model(ids).logits
    torch.testing.assert_close(unknown, tiny.llama().eval()(ids).logits.detach(), atol=1e-6, rtol=0)


def test_rows_of_other_sources_may_get_a_tasks_change():
    run = make(steps=8, others="b")
    run.train()
    row = sources()["b"][0]
    strange = Row(row.id, "elsewhere", row.input_ids, row.weights)
    torch.testing.assert_close(said(run.adapted, [strange]), said(run.adapted, [row]))


def test_what_it_wrote_is_kept_for_every_description_and_read_back(tmp_path: Path):
    run = make(steps=8)
    run.train()
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    deltas = [d["hypter"] for d in run.adapted.deltas().values()]
    assert all(isinstance(d, PerTask) and not d.made and len(d.plain) == 3 for d in deltas)
    assert all(isinstance(p, Bottleneck) and not p.down.requires_grad for d in deltas for p in d.plain)
    unseen = [Row(r.id, "unseen", r.input_ids, r.weights) for r in sources()["a"][:3]]
    torch.testing.assert_close(said(run.adapted, unseen), by_hand(run, unseen), atol=1e-5, rtol=1e-5)
    carry.save_stage(tmp_path / "stage", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.load_stage(tmp_path / "stage", again)
    rows = [*unseen, *sources()["b"][:2]]
    assert torch.equal(said(again, rows), said(run.adapted, rows))


def test_one_tasks_low_rank_change_folds_and_is_an_adapter_of_peft():
    run = make(steps=8, form="low-rank")
    run.train()
    run.methods.event("end_task", stage="main", adapted=run.adapted)
    row = sources()["b"][0]
    expected = said(run.adapted, [row])
    assert not run.adapted.foldable and "per-task" in str(obstacle(run.adapted))
    with pytest.raises(MethodError, match="no change was made for a task 'c'"):
        settle(run.adapted, "c")
    assert settle(run.adapted, "b") == 2
    assert run.adapted.foldable and obstacle(run.adapted) is None
    assert all(isinstance(d["hypter"], LowRank) for d in run.adapted.deltas().values())
    with run.adapted.at_strength(1.0):
        torch.testing.assert_close(said(run.adapted, [row]), expected, atol=1e-5, rtol=1e-5)
    assert float((logits(run.adapted.model) - logits(tiny.llama())).abs().max()) > 1e-3
    with pytest.raises(MethodError, match="no change here is one of several tasks"):
        settle(run.adapted, "b")


def test_a_description_is_the_frozen_bases_mean_state():
    adapted = Adapted(tiny.llama())
    vector = description_vector(adapted, "ab")
    with torch.no_grad():
        hidden = tiny.llama().eval().model(torch.tensor([[97, 98]])).last_hidden_state[0].mean(0)
    torch.testing.assert_close(vector, hidden / hidden.pow(2).mean().sqrt())
    assert float(vector.pow(2).mean()) == pytest.approx(1.0, rel=1e-4)


def test_what_cannot_be_is_refused():
    with pytest.raises(MethodError, match="no source of this stage is described"):
        make(descriptions={"elsewhere": "x"})
    with pytest.raises(MethodError, match="the adapter of 'c', which is no task"):
        make(others="c")
    with pytest.raises(MethodError, match="there is no task"):
        Run({"hypter": Hypter()})


def test_a_whole_run_of_one_task_acts_on_what_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "rows": 2, "few_shot": 0}
    method = {"hypter": {"width": 2, "descriptions": {"train.jsonl": "Which topic is this?"}}}
    recipe = small.write_recipe(tmp_path, "hypter", measurement=quick, stages__0__methods=[method])
    result = run(recipe, out=tmp_path / "out", quiet=True)
    finished = open_run(result.folder)
    deltas = [d for by_name in finished.adapted.deltas().values() for d in by_name.values()]
    assert deltas and all(isinstance(d, PerTask) and not d.made and d.others == "train.jsonl" for d in deltas)
    kept = result.report.kept[0]
    assert kept.after.value != kept.before.value, "rows of other sources are left alone"
    assert any(bool(p.up.any()) for d in deltas for p in d.plain), "nothing was learnt"


def test_one_tasks_low_rank_change_is_exported_as_a_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "rows": 2, "few_shot": 0}
    method = {"hypter": {"width": 2, "form": "low-rank"}}
    recipe = small.write_recipe(tmp_path, "hypter", measurement=quick, stages__0__methods=[method])
    folder = run(recipe, out=tmp_path / "out", quiet=True).folder
    with pytest.raises(MethodError, match=r"--task \(train.jsonl\)"):
        export(folder)
    made = export(folder, task="train.jsonl")
    tuned = open_run(folder)
    settle(tuned.adapted, "train.jsonl")
    plain = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32).eval()
    inputs = check_inputs(tuned)
    ours = logits_of(tuned.adapted.model, inputs)
    torch.testing.assert_close(logits_of(plain, inputs), ours, atol=1e-4, rtol=1e-4)
    with tuned.adapted.base() as base:
        assert (logits_of(base, inputs) - ours).abs().max() > 1e-5
