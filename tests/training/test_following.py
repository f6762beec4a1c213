"""Averages of weights go on meaning the same entries when another choice is drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.driving import Run, assert_resumes
from tunewright.contract.method import Choice, Method
from tunewright.methods.objectives.mean_teacher import MeanTeacher
from tunewright.methods.objectives.sstoken import SSToken
from tunewright.methods.optimization.schedule_free import ScheduleFree
from tunewright.methods.parameter_selection.hft import HalfFineTuning
from tunewright.methods.parameter_selection.lift import LIFT
from tunewright.training.following import carried

SIZE = 7
drawn = st.none() | st.lists(st.integers(0, SIZE - 1), unique=True).map(lambda x: torch.tensor(sorted(x)).long())


@given(drawn, drawn)
def test_kept_entries_keep_theirs_and_newcomers_start_from_the_present(old, new):
    weights, average = torch.arange(SIZE) + 100.0, torch.arange(SIZE) + 0.5
    before = range(SIZE) if old is None else old.tolist()
    after = range(SIZE) if new is None else new.tolist()
    held = {"w": average[list(before)], "gone": torch.zeros(3)}
    found = carried(held, {"w": old, "gone": None}, {"w": new}, {"w": weights[list(after)]})
    assert list(found) == ["w"]
    assert found["w"].tolist() == [float(average[p] if p in before else weights[p]) for p in after]


class Drift(Method):
    """Draws other entries of the same number at every step, some of which were there before."""

    def choose(self, candidates, step):
        names = sorted(n for n, p in candidates.adapted.base_parameters().items() if p.ndim == 2)[:3]
        entries = {n: torch.arange(3) + step + (2 * step if n == names[0] else 0) for n in names[: 3 - step % 2]}
        return Choice((), entries, redraw_every=1)


@pytest.mark.parametrize("method", [MeanTeacher(decay=0.8), SSToken(decay=0.6)], ids=["mean-teacher", "sstoken"])
def test_a_slow_copy_follows_its_entries(method):
    """Beside an average that is kept entry by entry, in Python's numbers."""
    averages, leaves_then, weights, sizes = {}, set(), {}, []

    def watch(loop):
        leaves, now, step = loop.trained.leaves, {}, len(sizes) + 1
        keep = min(0.8, 1 - 1 / (step + 1)) if isinstance(method, MeanTeacher) else 0.6
        for n, leaf in leaves.items():
            for i, v in zip(leaf.indices.tolist(), leaf.leaf.tolist(), strict=True):
                start = averages.get((n, i), weights[n].flatten()[i].item() if n in leaves_then else v)
                now[n, i] = keep * start + (1 - keep) * v
        averages.clear()
        averages.update(now)
        leaves_then.clear()
        leaves_then.update(leaves)
        weights.update({n: p.detach().clone() for n, p in loop.adapted.base_parameters().items()})
        held = next(b.state for b in loop.methods if b.method is method).copies()
        found = {
            (n, i): v for n, t in held.items() for i, v in zip(leaves[n].indices.tolist(), t.tolist(), strict=True)
        }
        assert found == pytest.approx(now, abs=1e-7)
        sizes.append(len(held))

    Run({"d": Drift(), "m": method}, steps=6, listen=watch).train()
    assert set(sizes) == {2, 3}


@pytest.mark.parametrize("chooser", [LIFT(rank=2, filter_rank=4, refresh_steps=2), HalfFineTuning(round_steps=2)])
@pytest.mark.parametrize("follower", [ScheduleFree(), MeanTeacher(decay=0.5)])
def test_whatever_draws_goes_with_whatever_follows(chooser, follower):
    def make(listen):
        return Run({"c": chooser, "f": follower}, steps=6, listen=listen)

    assert_resumes(make, 3)
