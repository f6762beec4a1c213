"""BitFit: biases move as in a plain loop over them, nothing else does, and a model without any is given some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes, logits
from tests.methods.selecting import BASES, EPS, gradient_numbers, plainly, rows_for, state_numbers, stayed
from tunewright.contract.method import Candidates
from tunewright.errors import MethodError
from tunewright.finished.export import check_inputs, export, logits_of
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.bitfit import BitFit
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, differing
from tunewright.runs.run import run


@pytest.mark.parametrize("kind", BASES)
def test_three_steps_are_those_of_a_plain_loop_over_the_biases(kind):
    make, task = BASES[kind]
    rows = rows_for(task)
    r = Run({"bitfit": BitFit()}, model=make(), task=task, sources={"new": rows}, steps=3, eps=EPS)
    loop = r.train()
    wanted = plainly(make(), lambda n: n.endswith("bias"), rows, task)
    for name, p in wanted.named_parameters():
        torch.testing.assert_close(r.adapted.base_parameters()[name], p, atol=1e-5, rtol=1e-4)
    for name, same in stayed(r.adapted.model, make()).items():
        assert bool(same.all()) != name.endswith("bias"), name
    count = sum(p.numel() for n, p in make().named_parameters() if n.endswith("bias"))
    assert loop.trained.count() == count == gradient_numbers(loop)
    assert state_numbers(loop) == 2 * count
    assert sum(t.numel() for t in loop.trained.changed().values()) == count, "a saved change holds them and no more"


def test_a_batch_norms_shift_is_a_bias_too():
    r = Run({"bitfit": BitFit()}, model=tiny.efficientnet(), task="image-classification", steps=1)
    chosen = set(r.train().trained.leaves)
    assert chosen == {n for n, _ in tiny.efficientnet().named_parameters() if n.endswith("bias")}
    assert any("bn" in n or "norm" in n for n in chosen)


def test_some_modules_biases_and_a_new_head():
    adapted = Adapted(tiny.bert_classifier())
    adapted.new = ("classifier.weight", "classifier.bias")
    chosen = BitFit(target_modules=["query", "intermediate.dense"]).choose(Candidates(adapted)).names
    parts = [f"bert.encoder.layer.{i}.{m}.bias" for i in (0, 1) for m in ("attention.self.query", "intermediate.dense")]
    assert set(chosen) == {*parts, *adapted.new}
    with pytest.raises(MethodError, match="'quary' is no module"):
        BitFit(target_modules=["quary"]).choose(Candidates(adapted))


def test_a_model_without_biases_is_refused_and_told_how_to_get_some():
    with pytest.raises(MethodError, match="new_biases: all-linear"):
        Run({"bitfit": BitFit()})
    with pytest.raises(MethodError, match="no module that is named has a bias"):
        Run({"bitfit": BitFit(target_modules=["input_layernorm"], new_biases=["q_proj"])})


def test_new_biases_start_at_zero_go_away_with_the_base_and_resume():
    def make(listen=None):
        return Run({"bitfit": BitFit(new_biases=["q_proj", "down_proj"])}, steps=4, listen=listen)

    r = make()
    before = logits(r.adapted.model)
    loop = r.train()
    assert agrees(before, logits(tiny.llama())) and not agrees(logits(r.adapted.model), before)
    names = {f"model.layers.{i}.{m}.bias" for i in (0, 1) for m in ("self_attn.q_proj", "mlp.down_proj")}
    assert set(loop.trained.leaves) == names == r.adapted.added
    assert loop.trained.count() == 4 * 32
    with r.adapted.base() as model:
        assert agrees(logits(model), before)
    tuned = logits(r.adapted.model)
    with r.adapted.at_strength(1.0) as model:
        assert agrees(logits(model), tuned)
    assert_resumes(make, 2)
    r.adapted.forget_changes()
    assert not differing(r.adapted.model.state_dict(), tiny.llama().state_dict())


def test_new_biases_are_given_to_named_layers_alone_and_narrowed_by_the_targets():
    r = Run({"bitfit": BitFit(target_modules=["q_proj", "v_proj"], new_biases="all-linear")}, steps=1)
    assert {n.split(".")[-2] for n in r.train().trained.leaves} == {"q_proj", "v_proj"}
    same = Run({"bitfit": BitFit(new_biases="all-linear")}, model=tiny.gpt2(), steps=1)
    same.train()
    assert not same.adapted.added, "where all layers have biases none is added"


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.bert_classifier])
def test_a_bias_beside_lora_gets_its_gradient(make):
    """The fused product of a low-rank layer knows no gradient of a bias: it must not be taken then."""
    task = "text-generation" if make is tiny.gpt2 else "text-classification"
    sources = {"new": rows_for(task)}
    gradients = []
    for fused in (True, False):
        r = Run({"lora": LoRA(rank=2), "bitfit": BitFit()}, model=make(), task=task, sources=sources, steps=1)
        for by_name in r.adapted.deltas().values():
            by_name["lora"].fused = fused
        loop = r.train()
        rows, _ = loop.take()
        loop.gradients(rows)
        gradients.append({n: g for n, g in loop.trained.gradients().items() if n.endswith("bias")})
    assert gradients[0].keys() == gradients[1].keys() == {n for n, _ in make().named_parameters() if n.endswith("bias")}
    for name, g in gradients[0].items():
        torch.testing.assert_close(g, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_a_folder_holds_new_biases_where_the_architecture_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 2, "few_shot": 0}
    method = {"bitfit": {"new_biases": ["o_proj"]}}
    recipe = small.write_recipe(tmp_path, "r", measurement=quick, stages__0__methods=[method])
    done = run(recipe, out=tmp_path / "out", quiet=True).folder
    folder = export(done).folder
    tuned = open_run(done)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = check_inputs(tuned)
    torch.testing.assert_close(logits_of(plain, inputs), logits_of(tuned.adapted.model, inputs), atol=1e-4, rtol=1e-4)
    assert "model.layers.0.self_attn.o_proj.bias" in dict(plain.named_parameters())


def test_a_layer_that_is_none_is_said_of_the_parameter_that_names_it():
    with pytest.raises(MethodError, match="'nope' is no module") as refused:
        Run({"bitfit": BitFit(new_biases="nope")}, model=tiny.llama(), steps=1)
    assert refused.value.where == "new_biases" and "all-linear" in refused.value.remedy
