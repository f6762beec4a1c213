"""LoFiT: heads are found as the authors find them, few vectors train, and the change is a bias that folders hold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.contract.needs import NeedContext
from tunewright.errors import MethodError
from tunewright.finished.export import check_inputs, export, logits_of
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.lofit import LoFiT, strongest
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.head_scales import HeadScales
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import InputEdit
from tunewright.runs.run import run
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def scales(model, rows, **fields):
    need = HeadScales(**{"steps": 4, "rows": len(rows), "l1": 1e-3, **fields})
    context = NeedContext(Adapted(model), TASK, 3, {"train": rows})
    need.check(context)
    with context.adapted.evaluating():
        return need.compute(context)


def by_hand(model, rows, steps: int, l1: float, rate: float, std: float, seed: int):
    """A per layer by a hook before the output projection, torch's Adam, every row in every step."""
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    A = []
    for block in model.model.layers:
        layer = block.self_attn.o_proj
        A.append((torch.randn(layer.in_features, generator=generator) * std).requires_grad_(True))
        layer.register_forward_pre_hook(lambda _, args, a=A[-1]: (args[0] * (1 + a),))
    optimizer = torch.optim.Adam(A, lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        total, count = 0.0, 0
        for row in rows:
            ids = torch.tensor([row.input_ids])
            out = torch.log_softmax(model(ids).logits[0, :-1], -1)
            for t in range(1, len(row.input_ids)):
                if row.weights[t]:
                    total, count = total - out[t - 1, ids[0, t]], count + 1
        loss = total / count + l1 * sum(a.abs().sum() for a in A)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [a.detach().view(4, -1) for a in A]


def test_scales_are_those_of_a_plain_loop():
    rows = text_rows(5)
    ours = scales(tiny.llama(), rows)
    theirs = by_hand(tiny.llama(), rows, 4, 1e-3, 5e-3, 1e-3, 3)
    assert list(ours) == [f"model.layers.{i}.self_attn.o_proj" for i in range(2)]
    for a, b in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
        assert float(b.abs().max()) > 5e-3, "nothing trained"


def test_the_model_is_as_it_was_after_scales_were_trained():
    model = tiny.llama()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    scales(model, text_rows(5))
    assert not any(".delta." in n for n in model.state_dict())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert type(model.model.layers[0].self_attn.o_proj) is torch.nn.Linear


def test_a_larger_penalty_leaves_smaller_scales_and_a_silent_head_scales_nothing():
    def silent():
        model = tiny.llama()
        with torch.no_grad():
            model.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0.0  # nobody hears head 1
        return model

    loose = scales(silent(), text_rows(6), l1=0.0, steps=10)
    tight = scales(silent(), text_rows(6), l1=0.3, steps=10)
    assert sum(float(a.abs().sum()) for a in tight.values()) < 0.5 * sum(float(a.abs().sum()) for a in loose.values())
    norms = loose["model.layers.1.self_attn.o_proj"].norm(dim=1)
    assert int(norms.argmin()) == 1 and float(norms[1]) < 0.2 * float(norms[[0, 2, 3]].min())


def test_the_strongest_heads_are_taken_over_all_layers():
    A = {"a": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "b": torch.tensor([[0.0, 2.0], [6.0, 0.0], [0.0, 2.0]])}
    assert strongest(A, 2) == {"b": [1], "a": [0]}
    assert strongest(A, 3) == {"b": [0, 1], "a": [0]}
    assert strongest(A, 5) == {"a": [0, 1], "b": [0, 1, 2]}


def test_only_the_found_heads_get_a_vector_and_others_stay_as_they_are():
    r = Run({"lofit": LoFiT(heads=3, scale_steps=3)}, steps=5)
    found = strongest(r.provider.statistics(next(iter(r.methods)))["head_scales"], 3)
    edits = {n: d["lofit"] for n, d in r.adapted.deltas().items()}
    assert set(edits) == set(found) and all(isinstance(e, InputEdit) and e.scale is None for e in edits.values())
    expected = {n: [h * 8 + i for h in heads for i in range(8)] for n, heads in found.items()}
    assert {n: e.places.tolist() for n, e in edits.items()} == expected
    starts = torch.cat([e.shift.detach().clone() for e in edits.values()])
    assert 5e-4 < float(starts.std()) < 2e-3
    loop = r.train()
    assert loop.trained.count() == 3 * 8, "K d parameters"
    r.adapted.fold()
    for n in edits:
        module, fresh = r.adapted.model.get_submodule(n), tiny.llama().get_submodule(n)
        assert torch.equal(module.weight, fresh.weight), "only the bias is another"
        torch.testing.assert_close(module.bias, fresh.weight[:, edits[n].places] @ edits[n].shift.detach())


def test_defaults_take_3_percent_and_one_head_at_least():
    r = Run({"lofit": LoFiT(scale_steps=1)}, steps=1)
    assert r.state("lofit").data == {"count": 1}
    scores = {n.replace("/", "."): t for n, t in r.state("lofit").named_buffers()}
    assert [t.shape for t in scores.values()] == [(4,), (4,)]


def test_too_many_heads_and_models_without_any_are_refused():
    with pytest.raises(MethodError, match="9 heads, and the model has 8"):
        Run({"lofit": LoFiT(heads=9, scale_steps=1)})
    with pytest.raises(MethodError, match="outputs of attention heads"):
        Run({"lofit": LoFiT()}, model=tiny.efficientnet(), task="image-classification")


def test_beside_lora_it_resumes_and_folds():
    def make(listen):
        return Run({"lofit": LoFiT(heads=2, scale_steps=2), "lora": LoRA(rank=2)}, steps=5, listen=listen)

    assert_resumes(make, 2)
    r = make(None)
    r.train()
    tuned = logits(r.adapted.model)
    with r.adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), tuned, atol=1e-5, rtol=1e-5)


def test_rows_of_the_scales_come_again_only_when_all_were_taken():
    need = HeadScales(rows=4, steps=5)
    rows = text_rows(10)
    context = NeedContext(Adapted(tiny.llama()), TASK, 0, {"train": rows})
    taken = [r.id for part in need._drawn(context) for r in part]
    assert len(taken) == 20 and len(set(taken[:10])) == 10
    assert taken[:10] == [r.id for r in random.Random("0/head_scales/train").sample(rows, 10)]


def test_an_exported_folder_holds_the_bias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 2, "few_shot": 0}
    recipe = small.write_recipe(
        tmp_path,
        "lofit",
        measurement=quick,
        stages__0__methods=[{"lofit": {"heads": 2, "scale_steps": 2, "start": 0.1}}],
    )
    folder = run(recipe, out=tmp_path / "out", quiet=True).folder
    made = export(folder)
    assert any("biases that the base does not have" in n for n in made.notes)
    tuned = open_run(folder)
    plain = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32).eval()
    inputs = check_inputs(tuned)
    ours = logits_of(tuned.adapted.model, inputs)
    torch.testing.assert_close(logits_of(plain, inputs), ours, atol=1e-4, rtol=1e-4)
    with tuned.adapted.base() as base:
        assert (logits_of(base, inputs) - ours).abs().max() > 1e-2
