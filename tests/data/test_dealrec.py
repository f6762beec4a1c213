"""DEALRec: influences against differences of gradients and the damped inverse, effort against the norms that it is,
draws group by group.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tunewright.conformance.reading import Reads
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select._gradients import RANK, adapter, gradient, last_layers, norms
from tunewright.data.select.dealrec import DEALRec, covering, solved, unit
from tunewright.errors import DataError


def test_products_go_to_the_damped_inverse_whatever_the_vector() -> None:
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    H, v = root @ root.T, torch.randn(5, generator=rng, dtype=torch.float64)
    found = solved(lambda h: H @ h, v, 0.02, 30.0, 3000)
    torch.testing.assert_close(found, 30 * torch.linalg.solve(H + 0.6 * torch.eye(5), v))
    assert torch.equal(solved(lambda h: H @ h, v, 0.02, 30.0, 1), v + 0.98 * v - H @ v / 30)


def test_influences_are_those_of_hessians_by_differences_of_gradients() -> None:
    method = DEALRec(keep=2, epochs=0, iterations=3, damping=0.1, scale=0.05)
    reads = Reads(method)
    reader, records = reads.readers["start"], reads.records[:4]
    found = method._influences(records, reader, random.Random(5))[:, 0]
    rng = random.Random(5)
    with adapter(reader, "dealrec", last_layers(reader, "dealrec")[-1:], RANK, 1.0, rng) as parameters:
        B = parameters[1]
        each = torch.stack([gradient(reader.loss(r), [B], "") for r in records])
        v = h = each.mean(0)

        def moved(record: Record, by: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                B.copy_(by.view_as(B))
            return gradient(reader.loss(record), [B], "")

        for _ in range(3):
            record, e = rng.choice(records), 0.05 / float(h.norm())
            h, before = v + 0.9 * h - (moved(record, e * h) - moved(record, -e * h)) / (2 * e) / 0.05, h
    assert float((h - v - 0.9 * before).norm()) > 0.1 * float(h.norm())  # the Hessian has a say
    np.testing.assert_allclose(found.numpy(), (each @ h).numpy(), rtol=5e-3)


def test_scores_are_influence_and_effort_between_their_ends() -> None:
    method = DEALRec(keep=4, groups=3, iterations=4, effort_weight=2.0)
    reads = Reads(method)
    found = reads.selected(method)
    influence, effort = (torch.tensor(found.scores[n], dtype=torch.float64) for n in ("influence", "effort"))
    np.testing.assert_allclose(found.scores["score"], unit(influence) + 2 * unit(effort), rtol=1e-6)
    seed = random.Random(0).getrandbits(63)
    np.testing.assert_allclose(effort, norms(reads.readers["start"], "dealrec", reads.records, seed), rtol=1e-6)
    hardest = int(np.argmax(found.scores["score"]))
    reasons = found.reasons or ()
    assert reasons[hardest] == "among the hardest" and [bool(r) for r in reasons] == [
        i not in found.indices for i in range(12)
    ]
    assert unit(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_each_option_of_the_surrogate_moves_the_influences() -> None:
    plain: dict[str, Any] = {"keep": 4, "groups": 3, "iterations": 4}
    reads = Reads(DEALRec())
    changes = [{}, {"epochs": 0}, {"epochs": 2}, {"iterations": 3}, {"damping": 0.5}, {"scale": 0.9}]
    found = [reads.selected(DEALRec.model_validate({**plain, **c})).scores for c in changes]
    assert len({tuple(f["influence"]) for f in found}) == 6 and len({tuple(f["effort"]) for f in found}) == 1


def test_a_surrogate_of_its_own_tells_the_influence_and_the_model_the_effort() -> None:
    plain = {"keep": 4, "groups": 3, "iterations": 4}
    method = DEALRec.model_validate({**plain, "surrogate": "small"})
    assert method.speakers() == ("small", "start") and DEALRec().speakers() == ("start",)
    reads = Reads(method)
    apart, same = reads.selected(method).scores, reads.selected(DEALRec.model_validate(plain)).scores
    assert apart["influence"] != same["influence"] and apart["effort"] == same["effort"]
    other = DEALRec.model_validate({**plain, "model": "small"})
    found = Reads(other).selected(other).scores
    assert found["influence"] == same["influence"] and found["effort"] != same["effort"]


def test_small_groups_give_all_that_they_have_and_large_ones_the_rest() -> None:
    scores = [0.05, 0.1, 0.15, 0.2, 0.2, 0.22, 0.24, 0.9, 1.0, 3.0]
    kept = covering(scores, 6, 4, 1, random.Random(0))  # 3.0 goes; groups of (0.05 .. 1.0] by 0.2375: 7, 0, 0, 2
    assert {7, 8} <= set(kept) and len(kept) == 6 and 9 not in kept and kept[:2] in ([7, 8], [8, 7])
    assert len(covering(scores, 3, 4, 0, random.Random(0))) == 3
    drawn = {tuple(sorted(covering(scores, 6, 4, 1, random.Random(s)))) for s in range(8)}
    assert len(drawn) > 1 and covering([1.0] * 5, 2, 50, 0, random.Random(1)) != []
    even = covering([i / 100 for i in range(100)], 20, 10, 0, random.Random(0))
    assert np.bincount([min(i * 10 // 99, 9) for i in even], minlength=10).max() <= 3


def test_what_cannot_be_kept_and_what_diverges_is_said() -> None:
    reads = Reads(DEALRec())
    with pytest.raises(DataError, match="11 of 12 records cannot be kept when the hardest 2"):
        call(DEALRec(keep=11, drop_hardest=0.2), "select", **reads.offered, rng=random.Random(0))
    with pytest.raises(DataError, match="diverge") as error:
        reads.selected(DEALRec(keep=2, scale=1e-4, iterations=60))
    assert "write scale: 0.001" in str(error.value) and not reads.adapted.deltas()
    assert DEALRec(drop_hardest="20%").drop_hardest == 0.2  # type: ignore[arg-type]
