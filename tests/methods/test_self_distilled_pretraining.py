"""Self-distilled further pre-training: stage by stage, through the loop and whole runs."""

from __future__ import annotations

import json

import pytest
import torch

from tests import small
from tunewright.conformance.bench import Tiny
from tunewright.files import checkpoint
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.distillation.self_distilled_pretraining import SelfDistilledPretraining, apart
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.agreement import differing
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe

NAME = "self-distilled-pretraining"


def test_the_distance_is_a_mean_square_and_gives_the_teacher_no_gradient():
    student, teacher = torch.tensor([[1.0, 3.0]], requires_grad=True), torch.tensor([[0.0, 1.0]], requires_grad=True)
    gap = apart(student, teacher)
    assert gap.tolist() == [2.5]
    gap.sum().backward()
    assert teacher.grad is None and student.grad.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("layer", [-1, 1])
def test_the_second_stages_loss_is_by_hand_that_of_two_models(layer):
    method = SelfDistilledPretraining(distance=3.0, layer=layer)
    t = Tiny([("full", FullFineTuning()), (NAME, method)], steps=1, dropout=False)
    left = t.left.latest(NAME).values["weights"]
    assert left.keys() == t.adapted.base_parameters().keys()
    generator = torch.Generator().manual_seed(0)
    for p in t.adapted.base_parameters().values():
        p.data = p.data + 0.05 * torch.randn(p.shape, generator=generator)
    teacher = t.fresh()
    for name, p in teacher.named_parameters():
        p.data = left[name].clone()
    rows, _ = t.loop.take()
    plain, gaps = [], []
    for row, _ in rows:
        ids = torch.tensor([list(row.input_ids)])
        at = [i for i, w in enumerate(row.weights) if w > 0 and i]
        with torch.no_grad():
            ours, theirs = (m.eval()(ids, output_hidden_states=True) for m in (t.adapted.model, teacher))
        log_p = ours.logits[0].log_softmax(-1)
        states = [o.hidden_states[layer][0] for o in (ours, theirs)]
        for i in at:
            plain.append(-float(log_p[i - 1, ids[0, i]]))
            gaps.append(float((states[0][i - 1] - states[1][i - 1]).square().mean()))
    record = t.loop.gradients(rows)
    expected = sum(plain) / len(plain) + 3 * sum(gaps) / len(gaps)
    assert record["loss"] == pytest.approx(expected, rel=1e-4)
    assert record[f"apart/{NAME}"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-4) and min(gaps) > 1e-4


@pytest.mark.parametrize("beside", [{"full": FullFineTuning()}, {"lora": LoRA(rank=2)}])
def test_it_resumes_in_its_second_stage(beside):
    named = [*beside.items(), (NAME, SelfDistilledPretraining())]
    whole = Tiny(named, steps=3, keep=(1,)).run()
    again = whole.resumed(whole.saved[1])
    assert not differing(whole.tensors(), again.tensors())
    assert len([n for n, _ in whole.loop.methods.one("objective").state.named_buffers() if n.startswith("teacher")])


def test_a_student_begins_at_the_base_beside_the_teacher_that_the_stage_before_left(tmp_path):
    small.write_inputs(tmp_path)
    first = {}
    for distance in (0.0, 300.0):
        method = {NAME: {"distance": distance}}
        stages = [
            {"name": "teacher", "methods": ["full", method], "budget": {"steps": 8}},
            {"name": "student", "start": "base", "methods": ["full", method], "budget": {"steps": 8}},
        ]
        out = tmp_path / f"out-{distance}"
        run_recipe(Recipe.load(small.write_recipe(tmp_path, stages=stages, train__learning_rate=3e-3), out=out))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        told = {n: [x.get(f"apart/{NAME}") for x in lines if x["stage"] == n] for n in ("teacher", "student")}
        assert set(told["teacher"]) == {None} and len(told["student"]) == 8
        first[distance] = next(x for x in lines if x["stage"] == "student")
        assert first[distance]["learning_rate"] and told["student"][-1] != told["student"][0]
        trained, left = (checkpoint.read(out / "stages" / "teacher").tensors[k] for k in ("trained", "left"))
        for name, value in trained.items():
            if name.startswith("value:"):
                assert torch.equal(left[f"{NAME}|weights|{name.removeprefix('value:')}"], value)
    gap = first[0.0][f"apart/{NAME}"]
    assert first[300.0][f"apart/{NAME}"] == gap > 0, "both students begin at the base, apart from what teaches"
    assert first[300.0]["loss"] == pytest.approx(first[0.0]["loss"] + 300 * gap, rel=1e-4)
