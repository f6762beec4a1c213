"""FPF: modules are scored by how they change between tasks and within, and the first of them tuned on kept rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.methods.driving import Run
from tests.methods.rehearsing import SGD, TASKS, ByHand
from tunewright.contract.left import Earlier, left_of
from tunewright.contract.method import Candidates, Choice, Method, Plan
from tunewright.methods.continual.fpf import FPF, scores

STEPS, RATE = 3, 1e-3
METHOD = FPF(buffer_size=50, minibatch_size=50, finetune_steps=2, learning_rate=RATE, modules=0.3, window=1)


def two_stages(method: FPF = METHOD, steps: int = STEPS) -> tuple[ByHand, list[Run]]:
    """Two stages of plain descent, the second on other rows, and the rows by hand."""
    hand = ByHand(TASKS[0], 2 * steps)
    first = Run({"fpf": method}, sources={"s": hand.rows[: 4 * steps]}, steps=steps, plan={"stage": "first"}, **SGD)
    first.train()
    state = first.state("fpf")
    left = Earlier((left_of("first", "fpf", method.leaves, state, json.loads(json.dumps(state.data))),))
    rows = {"s": hand.rows[4 * steps :]}
    second = Run({"fpf": method}, model=first.adapted, sources=rows, steps=steps, earlier=left, **SGD)
    return hand, [first, second]


def mean_change(a, b, module):
    own = [n for n in a if n.rpartition(".")[0] == module]
    return sum(float((a[n] - b[n]).abs().sum()) for n in own) / sum(a[n].numel() for n in own)


@pytest.fixture(scope="module")
def by_hand():
    """Both stages in the loop, and by hand: five plain steps, then two of Adam on the modules with the highest scores,
    over all twenty rows that were trained on.
    """
    hand, runs = two_stages()
    runs[1].train()
    values = [{n: p.detach().clone() for n, p in hand.adapted.base_parameters().items()}]
    for rows in hand.batches[:5]:
        hand.step(hand.gradient(hand.loss(rows)))
        values.append({n: p.detach().clone() for n, p in hand.adapted.base_parameters().items()})
    wanted = {}
    for module in {n.rpartition(".")[0] for n in values[0]}:
        steps = [mean_change(values[i], values[i + 1], module) for i in range(5)]
        wanted[module] = steps[3] / ((steps[1] + steps[2] + steps[4]) / 3)  # the fourth is the second stage's first
    return hand, runs, wanted


def test_a_modules_score_is_its_change_between_tasks_over_that_within(by_hand):
    _, runs, wanted = by_hand
    assert scores(runs[1].state("fpf").data["changes"]) == pytest.approx(wanted, rel=1e-3)
    assert {n for n, *_ in scores({"a": [1.0, 1, 0.0, 1], "b": [0.0, 0, 1.0, 1]}).items()} == set()


def test_a_round_moves_the_modules_with_the_highest_scores_and_no_other(by_hand):
    hand, runs, wanted = by_hand
    prone = sorted(wanted, key=wanted.__getitem__, reverse=True)[: round(0.3 * len(wanted))]
    assert runs[1].state("fpf").data["tuned"] == prone
    names = {n: p for n, p in hand.adapted.base_parameters().items() if n.rpartition(".")[0] in prone}
    optimizer, rows, losses = torch.optim.Adam(names.values(), lr=RATE), sum(hand.batches[:5], []), []
    for _ in range(2):
        loss = hand.loss(rows)
        losses.append(loss.item())
        gradients = hand.gradient(loss)
        for n, p in names.items():
            p.grad = gradients[n]
        optimizer.step()
    last = runs[1].records[-1]
    assert last["loss"] == pytest.approx(sum(losses) / 2, rel=1e-4) and last["modules/fpf"] == len(prone)
    for n, p in hand.adapted.base_parameters().items():
        gap = (runs[1].adapted.base_parameters()[n].detach() - p.detach()).abs()
        # Adam takes whole steps along gradients that are rounding
        assert float((gap > 1e-5).float().mean()) < 0.01, n


def test_a_first_stage_is_plain_and_its_first_change_counts_for_nothing(by_hand):
    _, runs, _ = by_hand
    assert all("modules/fpf" not in r for r in runs[0].records) and runs[0].state("fpf").data["rounds"] == 0
    assert all((n, k) == (0, 2) for _, n, _, k in runs[0].state("fpf").data["changes"].values())


def test_k_rounds_stand_evenly_apart_and_the_last_at_the_end():
    _, runs = two_stages(METHOD.model_copy(update={"k": 2, "finetune_steps": 1}), steps=4)
    runs[1].train()
    assert ["modules/fpf" in r for r in runs[1].records] == [False, True, False, True]
    assert len(runs[1].state("fpf").data["memory"]["slots"]) == 32  # rows of a round's own step are kept too
    told = METHOD.found(runs[1].state("fpf"))
    assert told.values["rounds"] == 2 and "the highest" in told.notes[-1]
    _, (_, none) = two_stages(METHOD.model_copy(update={"window": STEPS}))  # its one change within comes too late
    none.train()
    assert "nothing was tuned" in METHOD.found(none.state("fpf")).notes[-1]


def test_an_end_that_is_not_foreseen_is_told():
    plan = Plan(100, 10_000, "s", 1, 1e-3, 0, exact=False)
    assert "a round comes every 50 or so" in FPF(k=2).caution(plan)
    assert FPF(k=2).caution(replace(plan, exact=True)) is None and FPF(k=2).caution(replace(plan, index=0)) is None


def test_what_is_drawn_anew_changes_from_then_on():
    class Turns(Method):
        """Train one block, then the other."""

        def choose(self, candidates: Candidates, step: int) -> Choice:
            block = candidates.structure.blocks[step % 2]
            return Choice(tuple(n for n in block.parameter_names if n in candidates.base), redraw_every=1)

    method = METHOD.model_copy(update={"window": 2})
    run = Run({"fpf": method, "turns": Turns()}, steps=4, plan={"stage": "first"}, **SGD)
    start = {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}
    run.train()
    known = run.state("fpf").data["changes"]  # the second window closes while the second block trains
    (block,) = {n.split(".")[2] for n in known}
    gone = {n: p for n, p in run.adapted.base_parameters().items() if n.rpartition(".")[0] in known}
    assert block == "1" and all(n.startswith("model.layers.1.") for n in gone)
    for n, p in gone.items():
        moved = float((p.detach() - start[n]).abs().mean())  # in two steps, of which the window saw the last
        assert 0 < known[n.rpartition(".")[0]][2] < moved


def test_a_round_in_which_memory_runs_out_is_done_again_from_where_it_began(monkeypatch):
    _, (_, run) = two_stages()
    _, (_, whole) = two_stages()
    whole.train()
    step, failed = torch.optim.Adam.step, []

    def once(self, *args):
        done = step(self, *args)
        if not failed:
            failed.append(True)
            raise MemoryError
        return done

    monkeypatch.setattr(torch.optim.Adam, "step", once)
    run.train()
    assert failed and run.records[-1]["loss"] == pytest.approx(whole.records[-1]["loss"], rel=1e-5)
