"""IST: scores follow trial losses, only drawn blocks move, strengths come back, a stopped run goes on bit for bit."""

from __future__ import annotations

import random

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, changed
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
