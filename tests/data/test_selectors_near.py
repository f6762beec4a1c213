"""Selectors by representation and by difficulty: covers against every pair of distances, difficulties against
transformers' own losses, representations and turns written out by hand.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from tests.data.test_selectors_with_models import own_loss
from tunewright.conformance.reading import Reads
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select._text import asked, without_prompt
from tunewright.data.select.grape import GRAPE
from tunewright.data.select.ifd import IFD
from tunewright.data.select.k_center import KCenter, greedy
from tunewright.data.select.rds_plus import RDSPlus
from tunewright.errors import DataError

# -- k-center ----------------------------------------------------------------------------------------------------------


def test_each_centre_is_the_record_farthest_from_those_before_it():
    method = KCenter(keep=5)
    reads = Reads(method)
    x = torch.nn.functional.normalize(reads.readers["start"].embeddings(reads.records), dim=1).numpy()
    found = reads.selected(method)
    distances = cdist(x, x)
    assert found.indices[0] == cdist(x, x.mean(0, keepdims=True)).argmin()
    for t in range(1, 5):
        nearest = distances[:, found.indices[:t]].min(1)
        assert nearest[found.indices[t]] == pytest.approx(nearest.max(), rel=1e-4)
        assert found.scores["distance"][found.indices[t]] == pytest.approx(nearest.max(), rel=1e-4)
    radius = distances[:, found.indices].min(1)
    left = [i for i in range(12) if i not in found.indices]
    np.testing.assert_allclose([found.scores["distance"][i] for i in left], radius[left], rtol=1e-4)
    assert {found.reasons[i] for i in left} == {f"within {radius.max():.3g} of one that is kept"}


def test_the_cover_is_within_twice_the_best_radius():
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(9, 2))
        distances = cdist(x, x)
        best = min(distances[:, list(s)].min(1).max() for s in itertools.combinations(range(9), 3))
        picked, _, nearest = greedy(torch.tensor(x), 3)
        assert best - 1e-9 <= float(nearest.max()) <= 2 * best
        assert float(nearest.max()) == pytest.approx(distances[:, picked].min(1).max())


def test_copies_are_picked_last_and_once():
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0]])
    picked, _, _ = greedy(x, 4)
    assert sorted(picked) == [0, 1, 2, 3] and {float(x[i]) for i in picked[:2]} == {0.0, 1.0}


# -- ifd ---------------------------------------------------------------------------------------------------------------


def test_difficulties_are_ratios_of_transformers_losses():
    method = IFD(keep=4, most=1.01)
    reads = Reads(method)
    found = reads.selected(method)
    rows_of = reads.readers["start"].rows_of
    behind = [own_loss(reads.adapted.model, rows_of(r)[0]) for r in reads.records]
    alone = [own_loss(reads.adapted.model, rows_of(without_prompt(r))[0]) for r in reads.records]
    ratio = np.array(behind) / np.array(alone)
    np.testing.assert_allclose(found.scores["difficulty"], ratio, rtol=1e-4)
    fitting = [i for i in np.argsort(-ratio) if ratio[i] <= 1.01]
    assert 4 < len(fitting) < 12, "the bound must leave some out"
    assert list(found.indices) == sorted(fitting[:4])
    over = [i for i in range(12) if ratio[i] > 1.01]
    assert all("does not help" in found.reasons[i] for i in over) and "below" in found.reasons[fitting[4]]
    with pytest.raises(DataError, match="helps the model nowhere"):
        Reads(method).selected(IFD(most=0.01))


def test_what_asks_nothing_is_refused_and_what_asks_is_taken_away():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    chat = Record({"messages": [{"role": "system", "content": "s"}, *turns]}, id="c", where="x:1")
    blank = without_prompt(chat)["messages"]
    assert [t["content"] for t in blank] == ["", "", "b"] and asked(chat) == "s\na" and blank[1]["role"] == "user"
    plain = without_prompt(Record({"system": "s", "prompt": "a", "completion": "b"}, id="p"))
    assert (plain["prompt"], plain["completion"], plain["system"], plain.id) == ("### Response:", "b", None, "p")
    with pytest.raises(DataError, match="has no prompt"):
        IFD().select([Record({"text": "a"}, id="t", where="x:1")], {})


# -- rds+ --------------------------------------------------------------------------------------------------------------


def test_each_target_row_takes_its_nearest_in_turn():
    method = RDSPlus(keep=5)
    reads = Reads(method)
    found = reads.selected(method)
    e = []
    for record in reads.records:
        ids = torch.tensor([list(reads.readers["start"].rows_of(record)[0].input_ids)])
        with torch.no_grad():
            states = reads.adapted.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].numpy()
        w = np.arange(1, len(states) + 1) / sum(range(1, len(states) + 1))
        e.append((w @ states) / np.linalg.norm(w @ states))
    similar = np.array(e[:4]) @ np.array(e).T  # the target is the first four records
    np.testing.assert_allclose(found.scores["similarity"], similar.max(0), rtol=1e-4)
    order = np.argsort(-similar, axis=1)
    taken: list[int] = []
    for r, j in itertools.product(range(12), range(4)):
        if order[j, r] not in taken and len(taken) < 5:
            taken.append(int(order[j, r]))
    assert list(found.indices) == taken and set(taken[:4]) == {0, 1, 2, 3}
    few = call(RDSPlus(keep=3, most_targets=1), "select", **Reads(method).offered, rng=random.Random(1))
    mine = random.Random(1).sample(range(4), 1)[0]
    assert mine != 3 and list(few.indices) == order[mine, :3].tolist()


# -- grape -------------------------------------------------------------------------------------------------------------


def test_of_answers_to_a_prompt_the_likeliest_is_kept():
    method = GRAPE()
    reads = Reads(method)
    found = reads.selected(method)
    losses = [own_loss(reads.adapted.model, reads.readers["start"].rows_of(r)[0]) for r in reads.records]
    np.testing.assert_allclose(found.scores["loss"], losses, rtol=1e-5)
    expected = []
    for i in range(0, 12, 3):  # the second and third of three ask the same
        assert reads.records[i + 1]["prompt"] == reads.records[i + 2]["prompt"] != reads.records[i]["prompt"]
        expected += [i, i + 1 if losses[i + 1] < losses[i + 2] else i + 2]
    assert list(found.indices) == expected and len({i % 3 for i in expected}) == 3
    assert [bool(r) for r in found.reasons] == [i not in expected for i in range(12)]
    with pytest.raises(DataError, match="no prompt has more than 2 answers"):
        reads.selected(GRAPE(count=2))
