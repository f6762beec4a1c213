"""iCaRL over tasks: the loss on new and kept rows, which rows are kept, and nearest means, by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, end, logits, model, rows
from tests.methods.driving import changed, snapshot
from tests.methods.prompt_tasks import follow, learnt
from tunewright.contract.combining import check_conflicts
from tunewright.contract.method import Needs
from tunewright.errors import MethodError
from tunewright.methods.continual.icarl import ICaRL
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.agreement import agrees
from tunewright.pieces.rehearsal import unpacked
from tunewright.runs.stages import end_stage
from tunewright.tasks import get_task
from tunewright.training import carry

MADE = {"icarl": ICaRL(buffer_size=9, minibatch_size=9, scale=6.0), "full": FullFineTuning()}


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """A run's folder with two tasks done, the second one's run, and the task."""
    folder = tmp_path_factory.mktemp("run")
    return folder, learnt(folder, MADE, 2, request.param), request.param


def kept(run):
    state = run.state("icarl")
    return [unpacked(state.get(f"rows.{i}")) for i in range(len(state.data["memory"]["slots"]))]


def unit(run, given) -> np.ndarray:
    with torch.no_grad():
        read = run.task.forward(run.adapted.model.eval(), run.task.collate(given)).features.double().numpy()
    return read / np.linalg.norm(read, axis=1, keepdims=True)


def test_rows_nearest_the_mean_are_kept_of_each_class_and_the_first_ones_stay(two):
    folder, run, task = two
    held = kept(run)
    assert [r.label for r in held] == [0, 0, 1, 1, 2, 2, 3, 3]  # 9 // 4 of each
    own = [r for r in rows(TASKS[1], task) if r.label == 2]
    features, chosen = unit(run, own), []
    for _ in range(2):  # the paper's algorithm 4
        gaps = [
            np.inf if i in chosen else np.linalg.norm(features.mean(0) - features[[*chosen, i]].mean(0))
            for i in range(len(own))
        ]
        chosen.append(int(np.argmin(gaps)))
    assert [r.id for r in held if r.label == 2] == [own[i].id for i in chosen]
    run = follow(folder, "two", MADE, TASKS[2], task)
    run.train()
    end_stage(run.stage, "three")
    assert [r.label for r in kept(run)] == list(range(6))  # 9 // 6: the first of the two that were there
    assert [r.id for r in kept(run)[:4]] == [r.id for r in held[::2]]


def test_the_nearest_mean_of_kept_rows_answers(two):
    _, run, task = two
    given, held = [r for classes in TASKS for r in rows(classes, task, 3)], kept(run)
    features = unit(run, held)
    means = [np.mean([f for f, r in zip(features, held, strict=True) if r.label == c], axis=0) for c in range(4)]
    means = np.stack([m / np.linalg.norm(m) for m in means])
    read = unit(run, given)
    said = logits(run, run.task.collate(given))
    nearest = np.argmin(((read[:, None] - means) ** 2).sum(-1), axis=1)
    assert said.argmax(-1).tolist() == nearest.tolist()
    wanted = torch.tensor(6.0 * read @ means.T).log_softmax(-1)
    torch.testing.assert_close(said[:, :4].double(), wanted, atol=1e-4, rtol=1e-4)
    assert bool((said[:, 4:] < -18).all())


def test_means_are_of_features_of_length_one(two):
    folder, _, task = two
    run = follow(folder, "two", MADE, TASKS[2], task)
    own, state = rows(TASKS[2], task), run.state("icarl")
    g = torch.Generator().manual_seed(0)
    lengths: dict[str, torch.Tensor] = {}

    def read(given=None):
        given = own if given is None else given
        for r in given:
            lengths.setdefault(r.id, torch.randn(5, generator=g) * 10 ** (len(lengths) % 3))
        return torch.stack([lengths[r.id] for r in given]), torch.tensor([r.label for r in given])

    method = ICaRL(buffer_size=18)
    method.end_task(Needs({"row_features": read, "stage_rows": own}), state)
    read_again = [(r.label, lengths[r.id] / lengths[r.id].norm()) for r in kept(run)]
    wanted = torch.stack([torch.stack([f for c, f in read_again if c == label]).mean(0) for label in range(6)])
    torch.testing.assert_close(state.get("means"), wanted)


def test_a_step_learns_new_classes_and_holds_to_the_answers_that_the_stage_began_with(two):
    """The second step's loss, when the network has moved: new rows and all that are kept, class by class."""
    folder, _, task = two
    nets: list = []
    run = follow(
        folder, "two", MADE, TASKS[2], task, listen=lambda loop: nets.append(copy.deepcopy(loop.adapted.model))
    )
    begun, held = copy.deepcopy(run.adapted.model), kept(run)
    by_id = {r.id: r for r in rows(TASKS[2], task)}
    run.train()
    joined = [by_id[i] for i in run.cursor.seen[4:8]] + held
    batch = run.task.collate(joined)
    with torch.no_grad():
        now, then = (run.task.forward(n.eval(), batch).logits.double().numpy() for n in (nets[0], begun))
    total = 0.0
    for z, before, row in zip(now, then, joined, strict=True):
        for c in range(6):
            wanted = float(row.label == c) if c in TASKS[2] else 1 / (1 + np.exp(-before[c]))
            p = 1 / (1 + np.exp(-z[c]))
            total -= wanted * np.log(p) + (1 - wanted) * np.log(1 - p)
    assert len(joined) == 12 and np.abs(now - then).max() > 1e-3
    assert run.records[1]["loss"] == pytest.approx(total / 12, rel=1e-4)


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    folder, _, task = two
    saved: list = []
    whole = follow(folder, "two", MADE, TASKS[2], task, listen=lambda loop: saved.append(snapshot(loop)))
    outcomes = []
    for run, at in ((whole, None), (follow(folder, "two", MADE, TASKS[2], task), 0)):
        loop = run.train(None if at is None else saved[0])
        end(run, folder, "three")
        outcomes.append({**changed(loop), "means": run.state("icarl").get("means")})
    wanted, got = outcomes
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)
    batch = whole.task.collate(rows(TASKS[0], task))
    fresh = model(task)
    carry.begin(fresh, "stages.three", "frozen", folder, "recipe.yaml")
    with torch.no_grad():
        assert agrees(whole.task.forward(fresh.outer, batch).logits, logits(whole, batch))


def test_what_it_cannot_do_is_refused(two):
    folder, _, task = two
    with pytest.raises(MethodError, match="does not serve the task text-generation"):
        check_conflicts([("icarl", ICaRL())], stage="main", task=get_task("text-generation"))
    with pytest.raises(MethodError, match="left 8 rows, and buffer_size is 5"):
        follow(folder, "two", {"icarl": ICaRL(buffer_size=5), "full": FullFineTuning()}, TASKS[2], task)
