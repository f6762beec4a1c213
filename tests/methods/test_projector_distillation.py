"""projector-distillation: the loss, its zero, and who trains."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import text_rows
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Outputs
from tunewright.contract.combining import bind
from tunewright.contract.method import Needs, State
from tunewright.contract.needs import NeedContext, Provider
from tunewright.errors import MethodError
from tunewright.methods.distillation.projector_distillation import ProjectorDistillation, projector
from tunewright.methods.needs.hidden_widths import HiddenWidths
from tunewright.methods.needs.teacher_hidden_states import TeacherHiddenStates
from tunewright.models.adapted import Adapted
from tunewright.pieces.features import feature_loss, states_at
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def context(student, teacher) -> NeedContext:
    held = Adapted(teacher)
    return NeedContext(
        Adapted(student), TASK, 0, {"train": text_rows(6)}, other_names=("teacher",), other=lambda name: held
    )


def begun(method: ProjectorDistillation, run: NeedContext) -> State:
    (bound,) = methods = bind([("projector-distillation", method)], 0, "main")
    bound.stage_needs = Provider(run).statistics(bound)
    bound.state = method.setup(None)  # type: ignore[arg-type]
    methods.event("begin_task", stage="main", adapted=run.adapted)
    return bound.state


def told(method: ProjectorDistillation, run: NeedContext, state: State, outputs: Outputs | None = None):
    batch = TASK.collate(text_rows(6))
    outputs = outputs or TASK.forward(run.adapted.model, batch, hidden=True)
    read = next(n for n in method.needs() if isinstance(n, TeacherHiddenStates)).compute(run, batch)
    return method.objective(outputs, batch, Needs({"teacher_hidden_states": read}), state).value


@pytest.mark.parametrize("cosine", [0.2, 1.0])
def test_pairs_of_layers_are_averaged_by_the_methods_own_share_of_the_cosine(cosine):
    run = context(tiny.llama(), tiny.llama(seed=1))
    method = ProjectorDistillation(layers=((1, 2), (-1, -1)), cosine=cosine)
    found = told(method, run, begun(method, run))
    batch = TASK.collate(text_rows(6))
    with torch.no_grad():
        mine, theirs = (TASK.forward(m, batch, hidden=True) for m in (run.adapted.model, run.other("teacher").model))
    pairs = [(states_at(mine, batch, s), states_at(theirs, batch, t)) for s, t in ((1, 2), (-1, -1))]
    away = [(s - t).abs() for s, t in pairs]
    smooth = [torch.where(a < 1, a**2 / 2, a - 0.5).mean(-1) for a in away]
    turned = [1 - (s * t).sum(-1) / (s.norm(dim=-1) * t.norm(dim=-1)) for s, t in pairs]
    expected = sum(cosine * c + (1 - cosine) * d for c, d in zip(turned, smooth, strict=True)) / 2
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_formula():
    rng = torch.Generator().manual_seed(0)
    s, t = (2 * torch.randn(4, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    cosine = (s * t).sum(-1) / (s.norm(dim=-1) * t.norm(dim=-1))
    away = (s - t).abs()
    smooth = torch.where(away < 1, away**2 / 2, away - 0.5).mean(-1)
    for a in (0.0, 0.3, 1.0):
        assert feature_loss(s, t, a).tolist() == pytest.approx((a * (1 - cosine) + (1 - a) * smooth).tolist(), abs=1e-6)


def test_a_student_equal_to_its_teacher_has_loss_zero():
    method = ProjectorDistillation(layers=((-1, -1), (1, 1)))
    run = context(tiny.llama(), tiny.llama())
    assert told(method, run, begun(method, run)).abs().max() < 1e-6
    other = context(tiny.llama(), tiny.llama(seed=1))
    assert told(method, other, begun(method, other)).min() > 0.1


def test_widths_that_differ_are_projected_and_gradient_reaches_student_and_projector_only():
    student, teacher = tiny.llama(), tiny.llama(seed=1, hidden=48, layers=3)
    method, run = ProjectorDistillation(layers=((1, 2), (-1, -1))), context(student, teacher)
    state = begun(method, run)
    assert [tuple(p[0].weight.shape) for p in state.projectors] == [(48, 32)] * 2
    student.requires_grad_(True)
    told(method, run, state).mean().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in state.parameters())
    assert float(student.model.layers[0].mlp.up_proj.weight.grad.abs().max()) > 0
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_the_teacher_never_trains_and_the_student_comes_nearer():
    t = Tiny([("projector-distillation", ProjectorDistillation())], steps=12)
    teacher = t.loop.stage.signals.__self__.context.other("teacher")
    before = {n: p.clone() for n, p in teacher.model.state_dict().items()}
    t.run()
    assert all(torch.equal(p, before[n]) for n, p in teacher.model.state_dict().items())
    assert t.records[-1]["loss"] < 0.8 * t.records[0]["loss"]
    assert not any("project" in n for n in t.adapted.tuned_state()), "projectors are dropped"
    assert any("projectors" in n for n in t.loop.trained.leaves), "they trained"


def test_states_are_read_where_targets_are_predicted():
    batch, model = TASK.collate(text_rows(3)), tiny.llama()
    outputs = TASK.forward(model, batch, hidden=True)
    states = states_at(outputs, batch, -1)
    assert states.shape == (len(batch.labels), 32)
    torch.testing.assert_close(model.lm_head(states), outputs.logits)


def test_where_a_row_has_one_target_real_tokens_are_averaged():
    task, model = get_task("text-classification"), tiny.bert_classifier()
    from tunewright.contract.batch import Row

    rows = [Row(f"c{i}", "c", [5, 6, 7, 8, 9][: 3 + i], [1.0], i) for i in range(3)]
    batch = task.collate(rows)
    together = states_at(task.forward(model, batch, hidden=True), batch, 1)
    for i, row in enumerate(rows):
        one = task.collate([row])
        torch.testing.assert_close(
            together[i], states_at(task.forward(model, one, hidden=True), one, 1)[0], atol=1e-5, rtol=1e-4
        )


def test_projectors_start_as_the_identity_where_they_can():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(projector(8, 8, None, random.Random(0))(x), x)
    deep = projector(8, 6, 16, random.Random(0))
    assert [type(m) for m in deep] == [nn.Linear, nn.GELU, nn.Linear] and deep(x).shape == (3, 6)
    assert torch.equal(deep(x), projector(8, 6, 16, random.Random(0))(x))


def test_what_cannot_be_served_is_one_clear_error():
    run = context(tiny.llama(), tiny.llama())
    with pytest.raises(MethodError, match="has no layer 9.*") as error:
        begun(ProjectorDistillation(layers=((9, -1),)), run)
    assert "0 to 2" in str(error.value)
    none = NeedContext(run.adapted, TASK, 0, {"train": text_rows(2)})
    for need in (TeacherHiddenStates(), HiddenWidths()):
        with pytest.raises(MethodError, match="teacher"):
            need.check(none)
    outputs = Outputs(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(MethodError, match="not kept"):
        states_at(outputs, TASK.collate(text_rows(1)), -1)


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path):
    from tunewright.loading.load import load
    from tunewright.runs.vocabulary import same_tokenizer

    for name, tokenizer in (("a", tiny.tokenizer(chat=False)), ("b", tiny.tokenizer(chat=False))):
        if name == "b":
            tokenizer.add_tokens(["<extra>"])
        tiny.llama(vocabulary=len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    a, b = (load(str(tmp_path / n), "text-generation") for n in ("a", "b"))
    with pytest.raises(MethodError, match="another tokenizer.*extra") as error:
        same_tokenizer(a, b, "teacher")
    assert "models.teacher" in str(error.value)
    same_tokenizer(a, a, "teacher")
