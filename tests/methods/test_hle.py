"""Labels that a tree of classes fills in, their loss and which kept rows join a step, by loops over rows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.methods.class_tasks import PICTURES, TEXT, end, model, rows
from tests.methods.prompt_tasks import follow, learnt, stage
from tunewright.errors import MethodError
from tunewright.methods.continual.hle import HLE, filled_in, paths_of
from tunewright.methods.parameter_selection.full import FullFineTuning

TREE = {"LABEL_0": ["LABEL_2", "LABEL_3"], "LABEL_2": ["LABEL_4", "LABEL_5"]}  # 1 stands apart
PARENT, LEVELS = {2: 0, 3: 0, 4: 2, 5: 2}, ([0, 1], [2, 3], [4, 5])
NAMES = {f"LABEL_{i}": i for i in range(6)}


def made(**fields):
    given = {"tree": TREE, "buffer_size": 8, "minibatch_size": 4, "threshold": 0.52, "pseudo_weight": 0.3, **fields}
    return {"hle": HLE(**given), "full": FullFineTuning()}


def by_hand(z: np.ndarray, label: int, seen: set[int], threshold: float) -> dict[int, int]:
    """level -> class: up by the tree, down by the likeliest child that was seen."""
    found, chain = {}, [label]
    while chain[0] in PARENT:
        chain.insert(0, PARENT[chain[0]])
    for level, c in enumerate(chain):
        if c in seen:
            found[level] = c
    while True:
        children = [k for k in seen if PARENT.get(k) == c]
        if not children:
            return found
        p = np.exp([z[k] for k in children])
        if (p / p.sum()).max() < threshold:
            return found
        c = children[int(p.argmax())]
        found[next(i for i, of in enumerate(LEVELS) if c in of)] = c


def loss(z: np.ndarray, label: int, seen: set[int]) -> float:
    total = 0.0
    for level, c in by_hand(z, label, seen, 0.52).items():
        there = [k for k in LEVELS[level] if k in seen]
        ce = np.log(np.exp([z[k] for k in there]).sum()) - z[c]
        total += ce if c == label else 0.3 * ce
    return total


def test_levels_are_filled_in_upwards_by_the_tree_and_downwards_where_sure():
    paths = torch.tensor(paths_of(TREE, NAMES, 6))
    assert paths.tolist()[4] == [0, 2, 4] and paths.tolist()[1] == [1, -1, -1]
    g = torch.Generator().manual_seed(0)
    z, labels = 2 * torch.randn(60, 6, generator=g), torch.arange(60) % 6
    for seen in ({0, 1}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}, set(range(6))):
        known = torch.tensor([c in seen for c in range(6)])
        got = filled_in(z, labels, paths, known, 0.8)
        for row, label, found in zip(z.numpy(), labels.tolist(), got.tolist(), strict=True):
            if label in seen:
                assert {i: c for i, c in enumerate(found) if c != -1} == by_hand(row, label, seen, 0.8)
    assert (got[labels == 0, 1] == -1).any() and (got[labels == 0, 1] >= 2).any()  # not sure, and sure


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory):
    """Coarse classes learnt, then finer ones; the folder and the task."""
    folder = tmp_path_factory.mktemp("run")
    learnt(folder, made(), 1, request.param, steps=3)
    run = follow(folder, "one", made(), (2, 3), request.param, how="training", steps=3)
    run.train()
    end(run, folder, "two")
    return folder, request.param


def test_a_steps_loss_is_of_all_levels_of_its_rows_and_of_kept_ones(two):
    folder, task = two
    nets: list = []
    run = follow(
        folder,
        "two",
        made(new_share=0.5),
        (4, 5),
        task,
        how="training",
        listen=lambda loop: nets.append((copy.deepcopy(loop.adapted.model), copy.deepcopy(run.state("hle")))),
    )
    method, by_id = made()["hle"], {r.id: r for r in rows((4, 5), task)}
    run.train()
    (net, state), buffer = nets[0], None
    buffer = method._buffer(state)
    fresh = [s for s, (_, c) in enumerate(buffer.slots) if c in (4, 5)]
    drawn = buffer.draw(2, 1, "new", fresh)
    drawn += buffer.draw(2, 1, "older", [s for s in range(len(buffer)) if s not in fresh])
    joined = [by_id[i] for i in run.cursor.seen[4:8]] + [buffer.row(s) for s in drawn]
    assert len(fresh) >= 2 and {r.label for r in joined} & {0, 1, 2, 3}
    with torch.no_grad():
        z = run.task.forward(net.eval(), run.task.collate(joined)).logits.double().numpy()
    wanted = np.mean([loss(row, r.label, set(range(6))) for row, r in zip(z, joined, strict=True)])
    assert run.records[1]["loss"] == pytest.approx(wanted, rel=1e-4)
    plain = np.mean([loss(row, r.label, {r.label, *LEVELS[0]}) for row, r in zip(z, joined, strict=True)])
    assert abs(wanted - plain) > 1e-3 and run.records[1]["filled_in/hle"] > 0


@pytest.mark.parametrize(("share", "of_new"), [(0.0, 0), (0.25, 1), (1.0, 4)])
def test_kept_rows_of_new_classes_join_by_their_share(two, share, of_new):
    folder, task = two
    run = follow(folder, "two", made(new_share=share, buffer_size=30), (4, 5), task, how="training", steps=2)
    method, joined = made(new_share=share, buffer_size=30)["hle"], []

    class Noted:
        rows = rows((4, 5), task)

        def gradients(self, also):
            joined.append(sum(r.label in (4, 5) for r in also))

    for step in range(2):
        method.step(Noted(), step, run.state("hle"))
    assert joined == [0, of_new]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"LABEL_0": ["LABEL_9"]}, "names 'LABEL_9', and no class is called so"),
        ({"LABEL_0": ["LABEL_2"], "LABEL_1": ["LABEL_2"]}, "'LABEL_2' is below 'LABEL_0' and below 'LABEL_1'"),
        ({"LABEL_0": ["LABEL_1"], "LABEL_1": ["LABEL_0"]}, "comes back to 'LABEL_0'"),
    ],
)
def test_what_is_no_tree_of_the_classes_is_refused(tree, says):
    with pytest.raises(MethodError, match=says):
        stage(made(tree=tree), model(TEXT), (0, 1))
