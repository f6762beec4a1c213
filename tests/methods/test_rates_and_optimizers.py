"""Rates by parameter and optimizers, each through the loop against the rule written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.objectives.stablemax import StableMax, linear_exponential, log_stablemax
from tunewright.methods.optimization.galore import GaLore
from tunewright.methods.optimization.layerwise_decay import LayerwiseDecay, exponents
from tunewright.methods.optimization.lion import Lion
from tunewright.methods.optimization.lora_plus import LoRAPlus
from tunewright.methods.optimization.muon import Muon
from tunewright.methods.optimization.perp_grad import PerpGrad
from tunewright.methods.optimization.schedule_free import ScheduleFree, rising, share
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.sites import discover

RATE = 1e-2


class Recorded(Run):
    """A run whose leaves and gradients are kept before every optimizer step."""

    def __init__(self, methods, **options):
        super().__init__(methods, max_grad_norm=None, **options)
        self.gradients, self.values = [], []

    def train(self, resume=None):
        from tunewright.training import train as module

        real, run = module.apply, self

        def apply(loop, factor, record):
            run.gradients.append({n: g.clone() for n, g in loop.trained.gradients().items()})
            run.values.append({n: p.detach().clone() for n, p in loop.trained.parameters().items()})
            real(loop, factor, record)

        module.apply = apply
        try:
            loop = super().train(resume)
        finally:
            module.apply = real
        self.values.append({n: p.detach().clone() for n, p in loop.trained.parameters().items()})
        return loop


def test_lora_plus_moves_b_alone_faster():
    def first(**more):
        run = Recorded({"x": LoRA(rank=2), **more}, steps=1)
        run.train()
        return {n: run.values[1][n] - run.values[0][n] for n in run.values[0]}

    plain, faster = first(), first(plus=LoRAPlus(loraplus_lr_ratio=8.0))
    for name, move in plain.items():
        torch.testing.assert_close(faster[name], move * (8.0 if name.endswith("lora_B") else 1.0), atol=1e-8, rtol=1e-4)
    assert LoRAPlus().lr_ratio == 16.0 and any(n.endswith("lora_B") for n in plain)


def test_layerwise_rates_are_a_ladder_from_the_top_down():
    llama = discover(tiny.llama(layers=3))
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.delta.x.lora_A"]
    names += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    assert exponents(names, llama) == {names[0]: 3, names[1]: 1, names[2]: 4}
    bert = discover(tiny.bert())
    blocks = len(bert.blocks)
    low = ["bert.embeddings.LayerNorm.weight", "bert.embeddings.position_embeddings.weight"]
    assert exponents([*low, "cls.predictions.bias"], bert) == dict.fromkeys(low, blocks + 1)
    run = Run({"f": FullFineTuning(), "d": LayerwiseDecay(decay=0.5)}, steps=1, model=tiny.llama(layers=2))
    loop = run.train()
    group_of = {id(p): g["lr"] for o in loop.optimizers.optimizers for g in o.param_groups for p in g["params"]}
    rates = {n: group_of[id(p)] for n, p in loop.trained.parameters().items()}
    assert rates["model.layers.1.mlp.up_proj.weight"] == RATE * 0.5
    assert rates["model.layers.0.mlp.up_proj.weight"] == RATE * 0.25
    assert rates["model.embed_tokens.weight"] == RATE * 0.125 and rates["model.norm.weight"] == RATE


def test_perp_grad_steps_at_right_angles_to_the_weights_as_far_as_before():
    def change(matrices_only):
        method = PerpGrad(matrices_only=matrices_only)
        run = Recorded({"f": FullFineTuning(), "p": method}, steps=1, momentum=0.0)
        run.stage.spec.optimizer.name = "sgd"
        run.train()
        start = run.values[0]
        return start, {n: v - start[n] for n, v in run.values[1].items()}, run.gradients[0]

    start, moved, gradients = change(True)
    for name, d in moved.items():
        if d.dim() < 2:
            torch.testing.assert_close(d, -RATE * gradients[name], atol=1e-7, rtol=1e-3)
            continue
        assert abs(float((d.double() * start[name].double()).sum())) < 1e-5 * float(d.norm() * start[name].norm())
        torch.testing.assert_close(d.norm(), RATE * gradients[name].norm(), atol=1e-7, rtol=1e-3)
    along = [float((gradients[n] * start[n]).sum().abs()) for n in moved if moved[n].dim() > 1]
    assert max(along) > 1e-3  # there was something to take out
    _, all_moved, _ = change(False)
    assert any(not torch.equal(all_moved[n], moved[n]) for n in moved if moved[n].dim() < 2)


def test_stablemax_is_its_formula_and_keeps_a_gradient_where_the_softmax_has_none():
    z = torch.tensor([[2.0, -3.0, 0.0], [40.0, 200.0, -50.0]])
    s = torch.tensor([[3.0, 0.25, 1.0], [41.0, 201.0, 1 / 51.0]], dtype=torch.float64)
    torch.testing.assert_close(log_stablemax(z).exp(), s / s.sum(1, keepdim=True))
    assert bool((linear_exponential(torch.linspace(-5, 5, 101)).diff() > 0).all())
    fitted = torch.tensor([[200.0, 0.0]], requires_grad=True)
    fitted.log_softmax(-1)[0, 0].backward()
    assert float(fitted.grad.abs().max()) == 0.0
    fitted.grad = None
    log_stablemax(fitted)[0, 0].backward()
    assert float(fitted.grad.abs().max()) > 1e-6
    run = Run({"f": FullFineTuning(), "s": StableMax()}, steps=1, model=tiny.llama())
    rows = run.cursor
    place = rows.state()
    batch = run.task.collate([r for r, _ in rows.next_batch()])
    rows.restore(place)
    with torch.no_grad():
        logits = run.task.forward(run.adapted.model, batch).logits.double()
    s = torch.where(logits < 0, 1 / (1 - logits), logits + 1)
    shares = (s.gather(1, batch.labels[:, None])[:, 0] / s.sum(1)).log()
    expected = -(shares * batch.weights).sum() / batch.weights.sum()
    run.train()
    assert run.records[0]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_lion_is_its_rule():
    run = Recorded({"x": LoRA(rank=2), "lion": Lion(beta1=0.8, beta2=0.6)}, steps=3, weight_decay=0.1)
    run.train()
    for name in run.values[0]:
        m, w = torch.zeros_like(run.values[0][name]), run.values[0][name].clone()
        for k in range(3):
            g = run.gradients[k][name]
            w = w * (1 - RATE * 0.1) - RATE * torch.sign(0.8 * m + 0.2 * g)
            m = 0.6 * m + 0.4 * g
            torch.testing.assert_close(run.values[k + 1][name], w, atol=1e-6, rtol=1e-5)


def test_muon_moves_every_direction_of_a_matrix_as_far_and_leaves_the_rest_to_adamw():
    run = Recorded({"f": FullFineTuning(), "m": Muon()}, steps=1, model=tiny.llama())
    run.train()
    adam = Recorded({"f": FullFineTuning()}, steps=1, model=tiny.llama())
    adam.train()
    name = "model.layers.0.mlp.up_proj.weight"
    d = run.values[1][name] - run.values[0][name]
    spread = torch.linalg.svdvals(d / (RATE * 0.2 * math.sqrt(max(d.shape))))
    assert float(spread.min()) > 0.5 and float(spread.max()) < 1.3
    for other in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"):
        torch.testing.assert_close(run.values[1][other], adam.values[1][other], atol=1e-6, rtol=1e-5)


def test_muons_steps_are_as_large_as_adamws():
    """Beside five Newton-Schulz iterations written out: torch's run in bfloat16, hence the three per cent."""
    run = Recorded({"f": FullFineTuning(), "m": Muon()}, steps=1, model=tiny.llama())
    run.train()
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        name = f"model.layers.0.{name}.weight"
        g = run.gradients[0][name]
        x = (g if g.shape[0] <= g.shape[1] else g.T) / g.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        step = run.values[1][name] - run.values[0][name]
        assert float(step.norm() / x.norm()) == pytest.approx(RATE * 0.2 * math.sqrt(max(g.shape)), rel=0.03), name


def test_muons_rest_has_a_rate_and_moments_of_its_own():
    plain, slow = (
        Recorded({"f": FullFineTuning(), "m": m}, steps=2, model=tiny.llama())
        for m in (Muon(), Muon(rest=0.5, betas=(0.5, 0.6)))
    )
    for run in (plain, slow):
        run.train()
    matrix, rest = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    assert torch.equal(slow.values[1][matrix], plain.values[1][matrix])
    first = slow.values[0][rest]  # AdamW's first step knows no betas
    torch.testing.assert_close(
        slow.values[1][rest] - first, 0.5 * (plain.values[1][rest] - first), atol=1e-7, rtol=1e-4
    )
    g = [r[rest] for r in slow.gradients[:2]]
    m, v = 0.5 * g[0] * 0.5 + 0.5 * g[1], 0.6 * 0.4 * g[0] ** 2 + 0.4 * g[1] ** 2
    step = (m / (1 - 0.25)) / ((v / (1 - 0.36)).sqrt() + 1e-8)
    moved = slow.values[2][rest] - slow.values[1][rest]
    torch.testing.assert_close(moved, -0.5 * RATE * step, atol=1e-6, rtol=1e-3)


def test_galore_moves_within_the_view_and_keeps_moments_of_its_size():
    run = Recorded({"f": FullFineTuning(), "g": GaLore(rank=3, update_proj_gap=2, scale=0.5)}, steps=4)
    loop = run.train()
    name = "model.layers.0.mlp.up_proj.weight"
    state = loop.optimizers.state()
    rows, columns = run.values[0][name].shape
    assert rows > columns and state[f"{name}|exp_avg"].shape == (rows, 3)
    m = v = torch.zeros(rows, 3)
    for k in range(4):
        g = run.gradients[k][name]
        if k % 2 == 0:
            view = torch.linalg.svd(g, full_matrices=False)[2][:3]
        m, v = 0.9 * m + 0.1 * (g @ view.t()), 0.999 * v + 0.001 * (g @ view.t()) ** 2
        step = (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8)
        moved = run.values[k + 1][name] - run.values[k][name]
        torch.testing.assert_close(moved, -RATE * 0.5 * step @ view, atol=1e-6, rtol=1e-3)
        assert int(torch.linalg.matrix_rank(moved, rtol=1e-4)) == 3


def test_galore_of_full_rank_is_adamw():
    view = Recorded({"f": FullFineTuning(), "g": GaLore(rank=10_000)}, steps=3)
    plain = Recorded({"f": FullFineTuning()}, steps=3)
    view.train(), plain.train()
    for name, value in plain.values[-1].items():
        torch.testing.assert_close(view.values[-1][name], value, atol=1e-5, rtol=1e-4)


def test_schedule_free_keeps_the_average_of_its_three_sequences():
    options = {"steps": 5, "weight_decay": 0.1, "plan": {"warmup_steps": 2}}
    run = Recorded({"x": LoRA(rank=2), "s": ScheduleFree(beta=0.8, beta2=0.9)}, **options)
    loop = run.train()
    total = 0.0
    sequences = {n: (v.clone(), v.clone(), torch.zeros_like(v)) for n, v in run.values[0].items()}
    for k in range(5):
        rate = RATE * min(1.0, (k + 1) / 2)
        total += rate**2
        for n, (z, x, v) in sequences.items():
            y, g = run.values[k][n], run.gradients[k][n]
            torch.testing.assert_close(y, 0.2 * z + 0.8 * x, atol=1e-6, rtol=1e-4)
            v = 0.9 * v + 0.1 * g * g
            z = z - rate * (g / ((v / (1 - 0.9 ** (k + 1))).sqrt() + 1e-8) + 0.1 * y)
            x = (1 - rate**2 / total) * x + rate**2 / total * z
            sequences[n] = z, x, v
    for n, (_, x, _) in sequences.items():
        torch.testing.assert_close(run.values[-1][n], x, atol=1e-5, rtol=1e-4)  # what is kept at the stage's end
        torch.testing.assert_close(loop.averaged[n], x, atol=1e-5, rtol=1e-4)
    assert [rising(k, 2) for k in range(3)] == [0.5, 1.0, 1.0] and share(0, 7) == 1.0


@pytest.mark.parametrize("method", [GaLore(rank=2, update_proj_gap=2), Muon(), Lion(), ScheduleFree()])
def test_optimizers_resume_in_every_bit(method):
    assert_resumes(lambda listen: Run({"f": FullFineTuning(), "o": method}, steps=5, listen=listen), 3)
