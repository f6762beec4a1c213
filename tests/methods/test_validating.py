"""Methods that look at validation rows or at a copy of themselves while they train, against rules written by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests import small
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.conformance.bench import Dataset
from tunewright.contract.batch import Outputs
from tunewright.errors import MethodError
from tunewright.methods.adapters.flexora import Flexora, alpha_gradient, gates
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs.skill_it import SkillIt, mirrored
from tunewright.methods.objectives.mean_teacher import MeanTeacher, divergence
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe
from tunewright.training.carry import earlier_of


def held(name: str = "held") -> Dataset:
    return Dataset(name, list(text_rows())[::-1][:5])


def with_validation(methods, listen=None, **options):
    run = Run(methods, listen=listen, **options)
    run.stage.validation = held()
    return run


# -- flexora -----------------------------------------------------------------------------------------------------------


def test_gates_have_mean_one_and_their_gradient_is_that_of_the_softmax():
    alpha = torch.tensor([0.3, -1.0, 0.2, 0.0], requires_grad=True)
    assert float(gates(alpha.detach()).mean()) == pytest.approx(1.0)
    torch.testing.assert_close(gates(alpha.detach() + 3.0), gates(alpha.detach()))
    by_gate = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (gates(alpha) * by_gate).sum().backward()
    ours = alpha_gradient(gates(alpha).detach(), by_gate)
    torch.testing.assert_close(ours, alpha.grad)
    assert float(ours.sum()) == pytest.approx(0.0, abs=1e-6)


def test_alpha_follows_the_validation_loss_of_the_gated_changes():
    """The first step of alpha against finite differences of the validation loss in each block's gate."""
    run = with_validation({"flexora": Flexora(rank=2, gate_rate=0.05, validation_batches=1)}, steps=2)
    state, structure = run.state("flexora"), run.adapted.structure
    generator = torch.Generator().manual_seed(0)
    deltas = {s.block: [] for s in structure.sites if s.block is not None}
    for site in structure.sites:
        for delta in run.adapted.deltas().get(site.name, {}).values():
            delta.lora_B.data = 0.3 * torch.randn(delta.lora_B.shape, generator=generator)  # nothing to gate at B = 0
            deltas[site.block].append(delta)
    batch = run.task.collate(held().rows)

    def loss() -> float:
        with torch.no_grad():
            value = run.task.loss(run.task.forward(run.adapted.model, batch), batch).value
        return float((value.double() * batch.weights).sum() / batch.weights.sum())

    by_gate = []
    for of in deltas.values():
        found = []
        for h in (1e-2, -1e-2):
            for delta in of:
                delta.strength = 1 + h
            found.append(loss())
        for delta in of:
            delta.strength = 1.0
        by_gate.append((found[0] - found[1]) / 2e-2)
    expected = alpha_gradient(torch.ones(len(by_gate)), torch.tensor(by_gate))
    loop = run.train()
    assert loop.step_number == 2 and state.data["steps"] == 2
    # Adam's first step goes by the sign alone: both steps here go the same way
    clear = expected.abs() > 0.2 * expected.abs().max()
    assert bool(clear.any()) and torch.equal(torch.sign(state.get("alpha"))[clear], -torch.sign(expected)[clear])
    strengths = {b: {d.strength for d in of} for b, of in deltas.items()}
    assert [s.pop() for s in strengths.values()] == pytest.approx(gates(state.get("alpha")).tolist())


def test_flexora_resumes_and_needs_validation_rows():
    options = {"flexora": Flexora(rank=2, validation_batches=2)}
    assert_resumes(lambda listen: with_validation(options, listen, steps=4), 2)
    with pytest.raises(MethodError, match="data.validation|validation rows"):
        Run(options, steps=1).train()


def test_the_stage_after_a_search_tunes_the_kept_blocks_alone(tmp_path):
    small.write_inputs(tmp_path)
    flexora = {"flexora": {"rank": 2, "validation_batches": 1, "gate_rate": 0.1}}
    stages = [{"name": "search", "methods": [flexora], "budget": {"steps": 3}}]
    stages += [{"name": "tune", "start": "base", "methods": [flexora], "budget": {"steps": 2}}]
    file = small.write_recipe(tmp_path, stages=stages, data__validation=0.2)
    out = tmp_path / "out"
    run_recipe(Recipe.load(file, out=out))
    (searched, tuned) = earlier_of({n: out / "stages" / n for n in ("search", "tune")})
    kept = searched.values["kept"]
    assert kept and tuned.values["kept"] == kept
    told = json.loads((out / "report.json").read_text())["probes"]
    assert [n for n in told if n.endswith("flexora")] == ["search: flexora"]
    rows = told["search: flexora"]["rows"]
    assert [b for b, alpha, _, _ in rows if alpha > 0] == [b for b, _, _, stays in rows if stays] == kept
    assert sum(gate for _, _, gate, _ in rows) == pytest.approx(len(rows), abs=1e-3)
    described = json.loads((out / "stages" / "tune" / "state.json").read_text())["deltas"]
    assert described and {int(name.split(".layers.")[1].split(".")[0]) for name in described} == set(kept)


# -- skill-it ----------------------------------------------------------------------------------------------------------


def test_shares_follow_what_is_helped():
    start = {"a": 0.25, "b": 0.25, "c": 0.3}
    got = mirrored(start, {"a": {"b": 2.0}, "c": {"c": 0.0}}, {"a": 1.0, "b": 3.0, "c": 9.0}, 0.5)
    raw = {"a": 0.25 * math.exp(0.5 * 7.0), "b": 0.25 * math.exp(0.5 * 3.0), "c": 0.3}
    assert got == pytest.approx({n: v / sum(raw.values()) * 0.8 for n, v in raw.items()})


def test_skill_it_samples_by_the_last_looks(tmp_path):
    """Through a whole run: the shares that the cursor ends with are those of the losses that were noted."""
    sources = {"one": list(text_rows())[:8], "two": list(text_rows())[8:]}
    method = SkillIt(edges={"one": {"held": 0.7}}, eta=0.4, update_steps=2, window=2)
    run = Run(
        {"x": LoRA(rank=2), "s": method},
        steps=5,
        sources=sources,
        plan={"sources": {"one": 100, "two": 100}, "measured": ("held",)},
    )
    run.stage.validation = held()
    before = dict(run.cursor.weights)
    run.train()
    looks = run.state("s").data["losses"]
    assert len(looks) == 2 and looks[0] != looks[1]
    total = sum(look["held"] for look in looks)
    raw = {"one": before["one"] * math.exp(0.4 * 0.7 * total), "two": before["two"]}
    expected = {n: v / sum(raw.values()) for n, v in raw.items()}
    now = run.cursor.weights
    assert {n: w / sum(now.values()) for n, w in now.items()} == pytest.approx(expected, rel=1e-6)


def test_skill_it_refuses_what_is_no_graph():
    plan = {"sources": {"one": 100, "two": 100}, "measured": ("held",)}
    for edges, words in (
        ({"nosuch": {"one": 1.0}}, "no source is called 'nosuch'"),
        ({"one": {"heldd": 1.0}}, "no skill is called 'heldd'.*\n.*did you mean 'held'"),
        ({"one": {"two": -1.0}}, "0 or more"),
    ):
        with pytest.raises(MethodError, match=words):
            Run({"x": LoRA(rank=2), "s": SkillIt(edges=edges)}, plan=plan)
    with pytest.raises(MethodError, match="only"):
        Run({"x": LoRA(rank=2), "s": SkillIt()}, plan={"sources": {"one": 100}})


# -- mean teacher ------------------------------------------------------------------------------------------------------


def test_the_teacher_is_the_average_of_the_weights_after_each_step():
    values = []

    def note(loop):
        values.append({n: p.detach().clone() for n, p in loop.trained.parameters().items()})

    run = Run({"f": FullFineTuning(), "t": MeanTeacher(decay=0.6)}, steps=4, listen=note)
    run.train()
    name = "model.layers.0.mlp.up_proj.weight"
    average = values[0][name].clone() * 0
    for t, now in enumerate(values, start=1):
        m = min(0.6, 1 - 1 / (t + 1))
        average = now[name] if t == 1 else m * average + (1 - m) * now[name]
    torch.testing.assert_close(run.state("t").copies()[name], average, atol=1e-6, rtol=1e-5)


def test_agreement_is_with_that_average():
    run = Run({"f": FullFineTuning(), "t": MeanTeacher(decay=0.5, consistency=2.0)}, steps=3)
    seen = []
    kind = type(run.methods.bound[1].method)
    plain = kind.objective

    def watched(self, outputs: Outputs, batch, forward, state):
        loss = plain(self, outputs, batch, forward, state)
        held_now = {n: t.clone() for n, t in state.copies().items()}
        parameters = run.adapted.base_parameters()
        kept = {n: p.data for n, p in parameters.items()}
        for n, t in held_now.items():
            parameters[n].data = t
        with torch.no_grad():
            teacher = run.task.forward(run.adapted.model, batch).logits
        for n, t in kept.items():
            parameters[n].data = t
        apart = divergence(teacher, outputs.logits)
        seen.append(float((loss.value - (-outputs.log_probs() + 2.0 * apart)).detach().abs().max()))
        return loss

    kind.objective = watched
    try:
        run.train()
    finally:
        kind.objective = plain
    assert len(seen) == 3 and max(seen) < 1e-5
    assert run.records[0]["apart/t"] == pytest.approx(0.0, abs=1e-6) and run.records[2]["apart/t"] > 1e-6


def test_mean_teacher_resumes():
    assert_resumes(lambda listen: Run({"x": LoRA(rank=2, dropout=0.3), "t": MeanTeacher()}, steps=4, listen=listen), 2)
