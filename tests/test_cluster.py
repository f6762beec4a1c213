from __future__ import annotations

import sys

import pytest

from tests import small
from tunewright.errors import MissingExtraError
from tunewright.recipe import Recipe
from tunewright.trials.pool import Trial, run_all
from tunewright.trials.trial import Store, key_of


@pytest.fixture
def trials(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    return [
        Trial("lora", s, Recipe.load(small.write_recipe(tmp_path, train__seed=s, train__learning_rate=[1e-2, 1e9][s])))
        for s in (0, 1)
    ]


def test_without_ray_the_extra_is_named(trials, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="Ray") as e:
        run_all(trials, Store(tmp_path / "store"), cluster="local")
    assert "tunewright[cluster]" in e.value.remedy


@pytest.mark.parametrize(
    "address, says",
    [
        ("127.0.0.1:1", "no cluster answers"),
        ("somewhere", "no cluster's address"),
        ("ray://127.0.0.1:1", "no cluster answers"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_clear_error(trials, tmp_path, address, says):
    pytest.importorskip("ray")
    with pytest.raises(MissingExtraError, match=says) as e:
        run_all(trials, Store(tmp_path / "store"), cluster=address)
    assert e.value.code == 9 and e.value.remedy


@pytest.mark.slow
def test_a_local_cluster_gives_the_records_of_this_process(trials, tmp_path):
    pytest.importorskip("ray")
    store = Store(tmp_path / "store")
    landed = []
    found = run_all(trials, store, cluster="local", on_record=landed.append)
    good, bad = (found[key_of(t.recipe)] for t in trials)
    assert good.finished and bad.status == "failed" and bad.error.type == "NonFiniteError"
    assert len(landed) == 2 and store.get(good.key).tuned == good.tuned
    here = run_all(trials, Store(tmp_path / "other"), workers=1)
    assert here[good.key].tuned == good.tuned and here[good.key].order == good.order
