"""IST: scores follow trial losses, only drawn blocks move, strengths come back, a stopped run goes on bit for bit."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, changed
from tunewright.contract.method import Candidates, Needs
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.trial_loss import TrialLoss, weakened
from tunewright.methods.parameter_selection.ist import ImportanceAwareSparseTuning, corrected, draw, draw_different


def make(listen=None, **fields) -> Run:
    methods = {"lora": LoRA(rank=2), "ist": ImportanceAwareSparseTuning(**{"every": 2, "trial_rows": 6, **fields})}
    return Run(methods, model=tiny.llama(layers=4), steps=7, listen=listen)


def test_scores_grow_where_weakening_helps_and_stay_in_no_set():
    scores = torch.tensor([0.5, -1.0, 0.0, 2.0])
    sets, losses = [(0, 1), (0, 2), (1, 2)], [1.0, 2.0, 3.0]
    new = corrected(scores, sets, losses, rate=10.0)
    rewards = torch.exp(-torch.tensor(losses)) - torch.exp(-torch.tensor(losses)).mean()
    assert abs(float(rewards.sum())) < 1e-6
    slope = torch.sigmoid(scores) * (1 - torch.sigmoid(scores))
    expected = scores + 10.0 * slope * torch.stack(
        [rewards[0] + rewards[1], rewards[0] + rewards[2], rewards[1] + rewards[2], torch.tensor(0.0)]
    )
    torch.testing.assert_close(new, expected)
    assert new[3] == scores[3] and new[0] > scores[0]
    assert torch.equal(scores, torch.tensor([0.5, -1.0, 0.0, 2.0]))


def test_draws_follow_the_weights_and_end_where_few_sets_exist():
    rng = random.Random(0)
    counts = torch.zeros(3)
    for _ in range(2000):
        counts[list(draw(torch.tensor([1.0, 2.0, 3.0]), 1, rng))] += 1
    torch.testing.assert_close(counts / 2000, torch.tensor([1 / 6, 2 / 6, 3 / 6]), atol=0.04, rtol=0)
    assert sorted(draw_different(torch.ones(2), 1, 3, rng)) == [(0,), (1,)]
    assert len(set(draw_different(torch.ones(5), 2, 3, rng))) == 3


def blocks_of(names) -> tuple[int, ...]:
    return tuple(sorted({int(n.split(".layers.")[1].partition(".")[0]) for n in names}))


def ways_to_draw(weights: list[float], count: int, chosen: tuple[int, ...]) -> float:
    """Probability that `count` draws without replacement, in proportion to what is left, give just these places."""
    if count == 0:
        return float(not chosen)
    total = 0.0
    for i in chosen:
        rest = [0.0 if j == i else w for j, w in enumerate(weights)]
        total += weights[i] / sum(weights) * ways_to_draw(rest, count - 1, tuple(j for j in chosen if j != i))
    return total


def test_blocks_that_matter_train_more_often_and_those_that_do_not_are_tried_more_often():
    """Scores are held where they are: how often `choose` draws a block, and tries one, beside the formula's shares."""
    run, scores, draws, tried = make(), [-1.5, -0.5, 0.5, 1.5], torch.zeros(4), torch.zeros(4)
    method = ImportanceAwareSparseTuning(every=5, trials=1, score_rate=1e-9)
    candidates, rng, state = Candidates(run.adapted), random.Random(1), run.state("ist")

    def trial_loss(blocks, factor, step):
        assert factor == 0.25 and len(blocks) == 2  # half of four
        tried[blocks] += 1
        return 1.0

    for _ in range(1500):
        state.set_buffer("scores", torch.tensor(scores))
        choice = method.choose(candidates, 5, Needs({"trial_loss": trial_loss}), state, rng)
        (block,) = blocks_of(choice.names)  # a quarter of four
        assert set(choice.names) == {n for n in candidates.deltas if f".layers.{block}." in n}
        assert (choice.redraw_every, choice.moments) == (1, "park")
        draws[block] += 1
    p = [1 / (1 + math.exp(-s)) for s in scores]
    q = [1 - x for x in p]
    torch.testing.assert_close(draws / 1500, torch.tensor(q) / sum(q), atol=0.05, rtol=0)
    pairs = {pair: ways_to_draw(p, 2, pair) for pair in itertools.combinations(range(4), 2)}
    wanted = torch.tensor([sum(v for pair, v in pairs.items() if i in pair) for i in range(4)])
    torch.testing.assert_close(tried / 1500, wanted, atol=0.05, rtol=0)


def test_a_block_whose_weakening_helps_is_hardly_trained_any_more():
    """The loss of a trial is lower by 1 nat where block 2 is among the weakened ones, whatever else is."""
    run, draws = make(), torch.zeros(4)
    method = ImportanceAwareSparseTuning(every=1)
    candidates, rng, state = Candidates(run.adapted), random.Random(0), run.state("ist")
    needs = Needs({"trial_loss": lambda blocks, factor, step: 1.0 if 2 in blocks else 2.0})
    for step in range(400):
        choice = method.choose(candidates, step, needs, state, rng)
        if step >= 100:
            draws[list(blocks_of(choice.names))] += 1
    scores = state.get_buffer("scores")
    assert int(scores.argmax()) == 2 and float(scores[2]) > 1.5
    assert float(draws[2]) < 0.5 * float(draws[[0, 1, 3]].mean())


def test_only_the_drawn_blocks_move_in_a_step():
    seen, drawn = [], []

    def listen(loop):
        seen.append(changed(loop))
        drawn.append(set(loop.trained.leaves))

    run = make(listen)
    start = {f"delta:{n}": p.detach().clone() for n, p in run.adapted.delta_parameters().items()}
    run.train()
    for before, after, names in zip([start, *seen], seen, drawn, strict=False):
        moved = {n.removeprefix("delta:") for n in after if not torch.equal(before[n], after[n])}
        assert moved and moved <= names
        assert len({n.split(".layers.")[1][0] for n in names}) == 1  # a quarter of four blocks
    assert len(set(map(frozenset, drawn))) > 1


def test_trials_move_the_scores_and_leave_every_strength_as_it_was():
    run = make()
    for i, by_name in enumerate(run.adapted.deltas().values()):
        by_name["lora"].strength = 0.3 + 0.1 * i
    strengths = [d["lora"].strength for d in run.adapted.deltas().values()]
    run.train()
    assert [d["lora"].strength for d in run.adapted.deltas().values()] == strengths
    scores = run.state("ist").get_buffer("scores")
    assert scores.shape == (4,) and bool((scores != 0).any())


def test_a_trial_weakens_its_blocks_and_is_the_same_for_the_same_draw():
    run = make()
    with torch.no_grad():
        for n, p in run.adapted.delta_parameters().items():
            if n.endswith("lora_B"):
                p.fill_(0.05)
    trial = TrialLoss(rows=6).compute(run.provider.context)
    whole = trial([], 0.25, 7)
    assert trial([0, 2], 0.25, 7) != whole and trial([0, 2], 1.0, 7) == whole == trial([0, 2], 1.0, 7)
    assert trial([], 0.25, 8) != whole
    with weakened(run.adapted, [1], 0.5):
        assert {d["lora"].strength for n, d in run.adapted.deltas().items() if ".layers.1." in n} == {0.5}
        assert {d["lora"].strength for n, d in run.adapted.deltas().items() if ".layers.0." in n} == {1.0}


@pytest.mark.parametrize("at", [1, 3, 4])
def test_resumes(at):
    assert_resumes(make, at)


def test_without_deltas_it_is_refused_before_training():
    with pytest.raises(MethodError, match="there are none"):
        Run({"ist": ImportanceAwareSparseTuning()}).train()


def test_moments_wait_while_a_block_is_not_drawn():
    counts = []

    def listen(loop):
        state = loop.optimizers.state()
        counts.append({n.rpartition("|")[0]: float(v) for n, v in state.items() if n.endswith("|step")})

    run = make(listen)
    loop = run.train()
    total = sum(v for n, v in counts[-1].items() if n.endswith("q_proj.delta.lora.lora_A"))
    assert total == loop.step_number  # every step counted once, for the block that was drawn
    assert all(
        later.get(n, 0) >= v for earlier, later in zip(counts, counts[1:], strict=False) for n, v in earlier.items()
    )
