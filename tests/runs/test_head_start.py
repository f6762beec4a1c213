"""A new head starts from a linear probe, and what the frozen base gives stands beside base and tuned."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from tests import classifying, small
from tests.options import session_of
from tunewright import open_run
from tunewright.finished.export import export
from tunewright.measure import linear_probe
from tunewright.pieces.heads import classifier_head, classifier_head_name
from tunewright.report import sentences, summary, terminal
from tunewright.runs import head_start
from tunewright.runs.head_start import start_head, starts_from_probe, steadied
from tunewright.runs.run import resume, run

TASKS = (classifying.TEXT, classifying.PICTURES)


@pytest.fixture(scope="module", params=TASKS)
def inputs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    classifying.write_inputs(folder, request.param)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder, request.param
    torch.set_num_threads(threads)


def hits(session) -> float:
    rows = list(session.stages[0].rows.rows)
    with torch.no_grad():
        out = session.task.forward(session.adapted.model.eval(), session.task.collate(rows))
    return float((out.logits.argmax(-1) == torch.tensor([r.label for r in rows])).double().mean())


def test_the_head_starts_from_the_probe_and_the_base_is_had_back(inputs):
    folder, task = inputs
    session = session_of(folder, **classifying.recipe(task))
    head = classifier_head(session.adapted.model)
    drawn, chance = head.weight.clone(), hits(session)
    assert starts_from_probe(session, session.stages[0])
    start_head(session, session.stages[0])
    assert hits(session) > max(0.8, chance) and not torch.equal(head.weight, drawn)
    with session.adapted.base():
        assert torch.equal(head.weight, drawn)
    set_first = head.weight.clone()
    session.adapted.forget_changes()
    assert torch.equal(head.weight, drawn)
    start_head(session, session.stages[0])  # from the cache
    assert torch.equal(head.weight, set_first)


@pytest.mark.parametrize("regression", [True, False], ids=["numbers", "classes"])
def test_a_head_does_not_start_where_a_step_of_the_body_drowns_it(regression):
    """Features of the lab's encoder on tables are like this: far from zero, and a tenth of that apart."""
    generator = torch.Generator().manual_seed(1)
    told = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    score = told.sum(1) / told.sum(1).std()
    labels = (score > 0).long().tolist()

    def fitted(features, penalty=None):
        if regression:
            return linear_probe.fit_targets(features, score[:, None].tolist(), regression=True, penalty=penalty)
        return linear_probe.fit(features, labels, 2, penalty=penalty)

    def loss(logits):
        right = torch.tensor(labels)
        return float(cross_entropy(logits, right) if not regression else mse_loss(logits[:, 0], score))

    times = 1.0 if regression else 10.0
    alike, apart = 1 + (0.03 if regression else 0.001) * told, told
    first = fitted(alike)
    steady = steadied(first, partial(fitted, alike), loss, alike, times)
    noise = torch.randn(alike.shape, generator=generator, dtype=torch.float64) / 3
    constant = loss(fitted(alike, 1e-12).logits(alike))
    assert loss(first.logits(alike)) < 0.5 * constant < 2 * times * constant < loss(first.logits(alike + noise))
    assert loss(steady.logits(alike)) < constant and loss(steady.logits(alike + noise)) < 1.1 * times * constant
    assert steady.weight.abs().sum() > 0.01 and steady.c > 10 * head_start.WEAKEST, "nothing of the probe is left"
    whole = fitted(apart)  # features that differ keep the probe as it is
    assert steadied(whole, partial(fitted, apart), loss, apart, times) is whole


def test_the_recipe_may_say_random(inputs):
    folder, task = inputs
    session = session_of(folder, **classifying.recipe(task, train__head="random"))
    assert not starts_from_probe(session, session.stages[0])


def test_a_stage_that_does_not_begin_at_the_base_goes_on_with_the_head_that_it_has(inputs):
    folder, task = inputs
    stages = [{"name": n, "methods": ["lora"], "budget": {"steps": 1}} for n in "ab"]
    first, second = session_of(folder, **classifying.recipe(task, stages=stages)).stages
    session = session_of(folder, **classifying.recipe(task, stages=stages))
    assert starts_from_probe(session, first) and not starts_from_probe(session, second)


def test_a_head_that_came_with_the_checkpoint_is_kept(tmp_path):
    classifying.write_inputs(tmp_path, head=3)
    session = session_of(tmp_path, **classifying.recipe())
    assert session.adapted.new == () and not starts_from_probe(session, session.stages[0])
    done = run(small.write_recipe(tmp_path, **classifying.recipe()), tmp_path / "out", quiet=True)
    target = done.report.target
    assert not target.fresh_head and target.linear_probe.difference is not None
    assert sentences.headline(done.report)[1].startswith("A linear probe on the base's frozen features has")


@pytest.fixture(scope="module")
def finished(inputs):
    folder, task = inputs
    file = small.write_recipe(folder, **classifying.recipe(task))
    return run(file, folder / "out", quiet=True), folder


def test_every_report_has_the_probe_and_the_commonest_class(finished):
    report = finished[0].report
    target = report.target
    assert (
        target.fresh_head and target.metric == target.linear_probe.metric == "accuracy" and target.linear_probe.n == 15
    )
    assert target.linear_probe.before.value > 0.6 and target.linear_probe.after == target.after
    assert target.linear_probe.difference.value == pytest.approx(target.after.value - target.linear_probe.before.value)
    assert target.commonest.value == pytest.approx(1 / 3) and target.commonest.known
    for interval in (target.linear_probe.before, target.linear_probe.difference, target.commonest):
        assert interval.low <= interval.value <= interval.high
    names = [line.name for line in summary.lines(report)]
    assert names[:3] == ["accuracy", "linear probe of the base", "always the commonest class"]
    text = " ".join(terminal.text(report).split())
    page = (finished[0].folder / "report.html").read_text()
    for said in ("linear probe", "commonest class"):
        assert said in text and said in page
    assert "linear probe of the base" in repr(finished[0])
    assert "a linear probe on the base's frozen features has" in sentences.headline(report)[0]


def test_a_tuned_model_that_is_not_above_the_probe_is_cautioned_about(finished):
    report = finished[0].report
    told = sentences.beneath_probe(report)
    assert bool(told) == (report.target.linear_probe.difference.low <= 0)
    assert told == "" or told in sentences.cautions(report)[0]


def test_what_was_started_so_is_saved_and_served(finished, tmp_path):
    """The head's start is part of the change: the run's folder and its export hold it."""
    done, _ = finished
    opened = open_run(done.folder)
    model, base = opened.model(), opened.base()
    name = classifier_head_name(base)
    assert not torch.equal(model.get_submodule(name).weight, base.get_submodule(name).weight)
    assert export(done.folder, tmp_path / "model").reloaded < 1e-4
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| linear probe of the base |" in card and "| always the commonest class |" in card


def test_a_resume_starts_from_the_same_head(inputs, monkeypatch):
    from tunewright.errors import Interrupted
    from tunewright.runs.stages import TrainingCallback

    folder, task = inputs
    file = small.write_recipe(folder, "s", **classifying.recipe(task, train__save_steps=2))
    whole = run(file, folder / "whole", quiet=True)
    seen = TrainingCallback.__call__

    def stop(self, loop, record):
        seen(self, loop, record)
        if record.get("step") == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingCallback, "__call__", stop)
    with pytest.raises(Interrupted):
        run(file, folder / "stopped", quiet=True)
    monkeypatch.undo()
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(folder / "other-cache"))  # the probe is fitted again
    again = resume(folder / "stopped", quiet=True)
    assert again.report.target.after == whole.report.target.after
    a, b = (sorted((d.folder / "stages" / "main").glob("*.safetensors")) for d in (whole, again))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


def test_a_trial_measures_no_probe_and_starts_from_one_all_the_same(inputs):
    folder, task = inputs
    file = small.write_recipe(folder, "t", **classifying.recipe(task))
    bare = run(file, folder / "bare", quiet=True, figures_only=True).report.target
    assert bare.linear_probe is None and bare.commonest is None
    whole = run(file, folder / "again", quiet=True).report.target
    assert bare.after == whole.after


def test_a_head_that_starts_from_a_probe_is_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    classifying.write_inputs(tmp_path)
    for name, more in (("whole", {}), ("saved", {"train__save_steps": 1})):
        run(small.write_recipe(tmp_path, name, **classifying.recipe(**more)), out=tmp_path / name, quiet=True)
        resume(tmp_path / name, verify=True, quiet=True)
