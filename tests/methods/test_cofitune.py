"""CoFiTune: importances by finite differences, damped rows by a plain loop, and what stays."""

from __future__ import annotations

import random

import pytest
import torch
from pydantic import ValidationError

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, image_rows, logits, text_rows
from tests.methods.selecting import BASES, EPS, rows_for, stayed
from tunewright.errors import MethodError
from tunewright.methods.needs.unit_importance import UnitImportance
from tunewright.methods.parameter_selection.cofitune import CoFiTune, importance, of_rows
from tunewright.tasks import get_task

ALL = ("up", "down", "gate", "qkv", "o")
LLAMA = {
    "up": ["mlp.up_proj"],
    "down": ["mlp.down_proj"],
    "gate": ["mlp.gate_proj"],
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "o": ["self_attn.o_proj"],
}


def divergence(model, batch, task, share: float) -> float:
    """KL(p2 || p1) of two passes, a mean over targets; hooks drop what enters o_proj and what down_proj gives."""
    part = [0]

    def drop(y, name):
        g = torch.Generator().manual_seed(random.Random(f"0/unit_importance/0/{part[0]}/{name}").getrandbits(63))
        return y * ((torch.rand(y.shape, generator=g) >= share) / (1 - share)).to(y)

    hooks = []
    for i, layer in enumerate(model.model.layers):
        o, d = f"model.layers.{i}.self_attn.o_proj", f"model.layers.{i}.mlp.down_proj"
        hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(lambda _, x, n=o: (drop(x[0], n),)))
        hooks.append(layer.mlp.down_proj.register_forward_hook(lambda _, x, y, n=d: drop(y, n)))
    with torch.no_grad():
        p = task.forward(model, batch).logits.double().softmax(-1)
        part[0] = 1
        q = task.forward(model, batch).logits.double().softmax(-1)
    for h in hooks:
        h.remove()
    return float((q * (q / p).log()).sum(-1).mean())


def test_importances_are_slopes_of_the_divergence_by_finite_differences():
    rows, task = text_rows(6), get_task("text-generation")
    run = Run({}, sources={"new": rows})
    found = UnitImportance(samples=6, dropout=0.3).compute(run.provider.context)
    model = tiny.llama().double().eval()
    batches = list(run.provider.context.batches("train", 6))
    assert len(batches) == 1

    def slope(name: str, scaled) -> float:
        weight, values = model.get_submodule(name).weight, []
        for factor in (1 + 1e-4, 1 - 1e-4):
            held = weight.detach().clone()
            with torch.no_grad():
                weight[scaled] *= factor
            values.append(divergence(model, batches[0], task, 0.3))
            with torch.no_grad():
                weight.copy_(held)
        return (values[0] - values[1]) / 2e-4

    checked = [("model.layers.0.mlp.up_proj", 64, 1, 0), ("model.layers.1.mlp.down_proj", 32, 1, 0)]
    checked += [(f"model.layers.{i}.self_attn.o_proj", 4, 8, 1) for i in (0, 1)]
    for name, units, width, axis in checked:
        assert found[name].shape == (units,)
        for j in (0, 1, units - 1):
            place = slice(j * width, (j + 1) * width)
            expected = slope(name, place if axis == 0 else (slice(None), place))
            assert float(found[name][j]) == pytest.approx(expected, rel=2e-2, abs=2e-5), (name, j)
        assert float(found[name].abs().max()) > 1e-3
    assert len(found) == 6 and torch.equal(logits(run.adapted.model), logits(tiny.llama())), "nothing is left behind"


def test_the_damping_is_the_authors_and_of_the_units_own_rows():
    g = torch.tensor([1.0, 2.0, 3.0, 10.0])
    z = (g - 4.0) / torch.tensor([9.0 + 4.0 + 1.0 + 36.0]).div(3).sqrt()
    torch.testing.assert_close(importance(g), z.tanh().abs())
    assert not importance(torch.ones(5)).any() and not importance(torch.ones(1)).any()
    units = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert of_rows(units, 4).tolist() == units.tolist()
    assert of_rows(units, 8, 2).tolist() == units.repeat_interleave(2).tolist()
    torch.testing.assert_close(of_rows(units, 4, 2), torch.tensor([0.4, 0.4, 0.3, 0.3]))  # two heads share a key
    assert of_rows(units, 12, 1).tolist() == units.repeat(3).tolist()  # queries, keys and values in one


@pytest.mark.parametrize("damp", ["update", "gradient", "nothing"])
def test_three_steps_are_those_of_a_plain_loop_whose_rows_are_damped(damp):
    rows = text_rows()
    method = CoFiTune(layers=(0.5, 1.0), modules=("up", "down", "qkv", "gate"), damp=damp)
    run = Run({"cofitune": method}, sources={"new": rows}, steps=3, eps=EPS)
    found = UnitImportance().compute(run.provider.context)
    heads = importance(found["model.layers.1.self_attn.o_proj"])
    damped = {
        "mlp.up_proj": importance(found["model.layers.1.mlp.up_proj"]),
        "mlp.down_proj": importance(found["model.layers.1.mlp.down_proj"]),
        "self_attn.q_proj": heads.repeat_interleave(8),
        "self_attn.k_proj": heads.view(2, 2).max(1).values.repeat_interleave(8),
        "self_attn.v_proj": heads.view(2, 2).max(1).values.repeat_interleave(8),
        "mlp.gate_proj": torch.zeros(64),
    }
    model, task, cursor = tiny.llama(), get_task("text-generation"), Cursor({"new": rows})
    model.requires_grad_(False)
    weights = {n: model.get_submodule(f"model.layers.1.{n}").weight.requires_grad_(True) for n in damped}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2, eps=EPS, weight_decay=0.0)
    for _ in range(3):
        batch = task.collate([row for row, _ in cursor.next_batch()], False, seed=0)
        loss = task.loss(task.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        if damp == "gradient":
            for n, w in weights.items():
                w.grad *= (1 - damped[n])[:, None]
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        before = {n: w.detach().clone() for n, w in weights.items()}
        optimizer.step()
        optimizer.zero_grad()
        if damp == "update":
            with torch.no_grad():
                for n, w in weights.items():
                    w.copy_(before[n] + (1 - damped[n])[:, None] * (w - before[n]))
    run.train()
    for n, w in weights.items():
        tuned = run.adapted.model.get_submodule(f"model.layers.1.{n}").weight
        torch.testing.assert_close(tuned, w, atol=2e-5, rtol=1e-3, msg=n)
        assert not torch.equal(w, tiny.llama().get_submodule(f"model.layers.1.{n}").weight)


@pytest.mark.parametrize("modules", [*[(m,) for m in ALL], ("up", "o")], ids=str)
def test_what_is_not_named_stays_to_the_bit(modules):
    run = Run({"cofitune": CoFiTune(layers=(0.0, 0.5), modules=modules)}, steps=2)
    run.train()
    named = {f"model.layers.0.{n}.weight" for m in modules for n in LLAMA[m]}
    same = stayed(run.adapted.model, tiny.llama())
    assert {n for n, s in same.items() if not bool(s.all())} == named


@pytest.mark.parametrize("kind", BASES)
def test_every_base_has_the_modules_and_damps_their_rows_and_biases(kind):
    make, task = BASES[kind]
    changes = {}
    for damp in ("update", "nothing"):
        method = CoFiTune(layers=(0.5, 1.0), modules=ALL, damp=damp)
        run = Run({"cofitune": method}, model=make(), task=task, steps=1, sources={"new": rows_for(task)}, eps=EPS)
        run.train()
        base = dict(make().named_parameters())
        changes[damp] = {n: p.detach() - base[n].detach() for n, p in run.adapted.base_parameters().items()}
    # a key's bias has a gradient of rounding alone
    moved = {n for n, c in changes["nothing"].items() if float(c.abs().max()) > 1e-4 and n not in run.adapted.new}
    assert moved and all(".1." in n for n in moved)
    ratios = {}
    for n in moved:
        whole, some = changes["nothing"][n], changes["update"][n]
        ratios[n] = (some / whole)[whole.abs() > 1e-4]
        assert float(ratios[n].min()) > -1e-2 and float(ratios[n].max()) < 1.01
    # of rows that matter, and of biases as of weights; a layer that nothing damps moves whole
    weights = [n for n in moved if n.endswith("weight")]
    plain = [n for n in weights if float(ratios[n].min()) > 0.99]
    assert len(weights) == (4 if kind == "causal" else 6) and len(plain) == 1, "the attention's output alone"
    assert any(n.endswith("bias") and float(ratios[n].min()) < 0.9 for n in moved)


def test_ranges_are_shares_of_the_depth():
    def blocks(layers, count):
        run = Run(
            {"cofitune": CoFiTune(layers=layers, modules=("down",), damp="nothing")}, model=tiny.llama(layers=count)
        )
        return [int(n.split(".")[2]) for n in run.state("cofitune").data["sites"]]

    assert blocks((0.25, 0.5), 8) == [2, 3] and blocks((0.25, 0.75), 8) == [2, 3, 4, 5]
    assert blocks((0.25, 0.5), 6) == [1, 2] and blocks((0.25, 0.5), 2) == [0], "a block that is cut is inside"
    with pytest.raises(ValidationError, match="no range"):
        CoFiTune(layers=(0.5, 0.5))


OPTIONS = ({"layers": (0.0, 1.0)}, {"modules": ("qkv",)}, {"damp": "gradient"}, {"damp": "nothing"},
           {"source": "keep"}, {"samples": 1})  # fmt: skip


@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_every_option_changes_the_run(change):
    def tuned(**fields):
        run = Run({"cofitune": CoFiTune(**fields)}, steps=3)
        return logits(run.train().adapted.model)

    if "source" in change:
        with pytest.raises(MethodError, match="keep"):
            Run({"cofitune": CoFiTune(source="keep")})
        return
    assert not torch.equal(tuned(**change), tuned())


def test_what_has_no_such_modules_is_refused():
    with pytest.raises(MethodError, match="attention heads"):
        Run({"cofitune": CoFiTune()}, model=tiny.efficientnet(), task="image-classification",
            sources={"new": image_rows()})  # fmt: skip
    with pytest.raises(MethodError, match="no gate"):
        Run({"cofitune": CoFiTune(modules=("gate",))}, model=tiny.gpt2())


def test_resumes():
    assert_resumes(lambda listen: Run({"cofitune": CoFiTune(modules=("up", "qkv"))}, steps=4, listen=listen), 2)
