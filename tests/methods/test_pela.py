"""PELA through the slots: best approximation, parameters that are left, what pulls at features and weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, snapshot, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.surgery.pela import Pela, deviation, rank_for
from tunewright.models.agreement import differing
from tunewright.models.factored import Factored, Factors, halves

ROWS = text_rows(6)


def make(listen=None, beside=None, steps=6, **fields) -> Run:
    return Run({"pela": Pela(**fields), **(beside or {})}, listen=listen, steps=steps, sources={"new": ROWS})


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0])
def test_every_layer_is_its_best_approximation_with_at_most_its_share_of_parameters(ratio):
    run, small = make(ratio=ratio), dict(tiny.llama().named_parameters())
    factored = {n: m for n, m in run.adapted.model.named_modules() if isinstance(m, Factors)}
    assert len(factored) == 14
    for name, layer in factored.items():
        weight = small[f"{name}.weight"].detach().numpy()
        out, inputs = weight.shape
        k = layer.reduce.out_features
        assert k == int(inputs * out / (ratio * (inputs + out))) and k * (inputs + out) <= inputs * out / ratio
        left, values, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
        best = (left[:, :k] * values[:k]) @ right[:k]
        assert np.allclose(layer.product().detach().numpy(), best, atol=1e-5)
        for half in (layer.reduce.weight @ layer.reduce.weight.T, layer.expand.weight.T @ layer.expand.weight):
            assert torch.allclose(half, torch.diag(torch.tensor(values[:k]).float()), atol=1e-4)
    assert rank_for(32, 32, 2) == 8 and rank_for(4096, 4096, 1) == 2048


def test_a_full_rank_says_the_same_and_too_much_is_refused():
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    thin, tall = halves(weight, 4)
    assert torch.allclose(tall @ thin, weight, atol=1e-5)
    assert (tall.gather(0, tall.abs().argmax(0, keepdim=True)) > 0).all()
    for ranks, said in (({"model.layers.0.mlp.up_proj": 33}, "has no rank 33"), ({"x": 1}, "'x' is no plain linear")):
        with pytest.raises(MethodError, match=said):
            Factored(ranks).apply(tiny.llama())
    with pytest.raises(MethodError, match="finds no plain linear layer"):
        Run({"pela": Pela()}, model=tiny.gpt2())
    with pytest.raises(MethodError, match="finds no plain linear layer"):
        make(ratio=1e6)


def test_biases_stay_with_the_second_layer():
    model = tiny.vit()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "layers.0" in n]
    body = Factored(dict.fromkeys(names, 4)).apply(model)
    for n in names:
        assert torch.equal(body.get_submodule(n).expand.bias, model.get_submodule(n).bias)


def test_the_loss_is_the_tasks_and_the_features_gap_and_the_largest_gaps_of_weights():
    run = make(steps=1, perturbation=0.5, bound=0.01, distillation=2.0)
    rows = [ROWS[i] for i in range(4)]
    from tunewright.training.train import Loop

    loop = Loop(run.stage)
    record = loop.gradients([(r, 0) for r in rows])
    student, teacher = run.adapted.model, tiny.llama()
    task, gap, count = 0.0, 0.0, 0
    for row in rows:
        ids = torch.tensor([list(row.input_ids)])
        with torch.no_grad():
            s, t = (m(ids, output_hidden_states=True) for m in (student, teacher))
        for at in range(2, len(row.input_ids)):
            count += 1
            task -= float(torch.log_softmax(s.logits[0, at - 1], -1)[row.input_ids[at]])
            gaps = [
                (a[0, at - 1] - b[0, at - 1]).pow(2).mean()
                for a, b in zip(s.hidden_states[1:], t.hidden_states[1:], strict=True)
            ]
            gap += float(torch.stack(gaps).mean())
    largest, old = [], dict(teacher.named_parameters())
    for name, layer in student.named_modules():
        if isinstance(layer, Factors):
            w = layer.expand.weight.detach() @ layer.reduce.weight.detach()
            largest.append(float((w - old[f"{name}.weight"].detach()).abs().max()))
    bound = 0.5 * sum((g - 0.01) ** 2 for g in largest) / len(largest)
    assert record["penalty/pela"] == pytest.approx(bound, rel=1e-3)
    assert record["loss/pela"] == pytest.approx((task + 2 * gap) / count, rel=1e-3)
    assert record["feature_gap/pela"] == pytest.approx(gap / count, rel=1e-3)


def test_the_penaltys_gradient_reaches_one_entry_of_a_layer():
    w = torch.zeros(3, 2)
    product = torch.tensor([[0.1, -0.5], [0.2, 0.0], [0.3, 0.4]], requires_grad=True)
    deviation([product], [w], 0.1).backward()
    assert product.grad.nonzero().tolist() == [[0, 1]] and product.grad[0, 1] == pytest.approx(-2 * 0.4)


def test_training_brings_features_back_to_the_originals():
    gaps = {}
    for weight in (1e-3, 100.0):
        run = make(steps=20, distillation=weight, perturbation=0.0)
        run.train()
        gaps[weight] = [r["feature_gap/pela"] for r in run.records]
    assert gaps[100.0][-1] < gaps[100.0][0] / 4 and gaps[100.0][-1] < gaps[1e-3][-1] / 2


def test_the_base_is_had_back_and_the_product_says_what_the_factors_say():
    run = make()
    run.train()
    adapted, base = run.adapted, dict(tiny.llama().state_dict())
    tuned = logits(adapted.model)
    with adapted.base() as own:
        assert not differing(dict(own.state_dict()), base)
    (told,) = adapted.plain()
    assert told.startswith("14 linear layers factored") and not adapted.operated
    assert {n: t.shape for n, t in adapted.model.state_dict().items()} == {n: t.shape for n, t in base.items()}
    assert torch.allclose(logits(adapted.model), tuned, atol=1e-4)
    plain = tiny.llama()
    plain.load_state_dict(adapted.model.state_dict(), strict=True)
    assert torch.allclose(logits(plain), tuned, atol=1e-4)
    adapted.forget_changes()
    assert not differing(dict(adapted.model.state_dict()), base)


def test_factors_are_saved_whole_since_other_machines_may_decompose_otherwise():
    run = make(beside={"lora": LoRA(rank=2)})
    kept = snapshot(run.train())[1]["trained"]
    names = {n for n, m in run.adapted.model.named_modules() if isinstance(m, Factors)}
    assert {f"value:{n}.{half}.weight" for n in names for half in ("reduce", "expand")} <= set(kept)


@pytest.mark.parametrize("beside", [{}, {"lora": LoRA(rank=2)}], ids=["alone", "lora"])
def test_resumes_bit_for_bit(beside):
    assert_resumes(lambda listen: make(listen, beside=beside), 3)
