from __future__ import annotations

from pathlib import Path

import pytest

from tunewright.errors import FolderError
from tunewright.recipe import Recipe
from tunewright.trials.pool import Trial, Workers, run_all
from tunewright.trials.trial import Store, key_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(Workers, "module", "tests.fake_worker")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "trials")
    made.folder.mkdir()
    return made


def trial(arm, seed):
    tree = {
        "model": "./none",
        "task": "text-generation",
        "data": {"train": "none.jsonl"},
        "methods": ["lora"],
        "train": {"seed": seed},
    }
    return Trial(arm, seed, Recipe(**tree))


def key(t):
    return key_of(t.recipe)


def test_every_trial_lands_once_and_a_second_call_finds_them_all(store, monkeypatch):
    trials = [trial("lora", s) for s in range(5)]
    landed = []
    found = run_all(trials, store, workers=2, on_record=landed.append)
    assert {key(t) for t in trials} == set(found)
    assert [found[key(t)].tuned.target for t in trials] == [0, 1, 2, 3, 4]
    assert sorted(r.seed for r in landed) == [0, 1, 2, 3, 4]
    monkeypatch.setattr(Workers, "module", "tests.no_such_module")  # would fail, were a process needed
    again = []
    assert (
        run_all([Trial("other", t.seed, t.recipe) for t in trials], store, on_record=again.append).keys()
        == found.keys()
    )
    assert {r.arm for r in again} == {"other"}


def test_a_killed_worker_costs_one_attempt_and_nothing_else(store):
    trials = [trial("dies-once", 0), *(trial("lora", s) for s in range(1, 4))]
    found = run_all(trials, store, workers=2)
    assert all(r.finished for r in found.values()) and len(found) == 4
    first, second = store.attempts(key(trials[0]))
    assert (first.status, first.error.type, second.status) == ("killed", "SIGKILL", "finished")
    assert "memory" in first.error.message
    assert (first.attempt, second.attempt) == (1, 2)


def test_a_trial_that_kills_its_worker_twice_is_recorded_so_and_tried_again_by_the_next_call(store):
    bad = trial("dies", 0)
    landed = []
    found = run_all([bad, trial("lora", 1)], store, workers=1, on_record=landed.append)
    assert found[key(bad)].status == "killed" and not found[key(bad)].settled
    assert sorted(r.status for r in landed) == ["finished", "killed"]
    assert [r.status for r in store.attempts(key(bad))] == ["killed", "killed"]
    good = Trial("lora", 0, bad.recipe)
    assert run_all([good], store)[key(bad)].finished


def test_memory_bounds_how_many_run_side_by_side_once_the_first_has_shown_what_it_takes(store):
    run_all([trial("heavy", s) for s in range(6)], store, workers=2, memory=10 * 10**9)
    spans = sorted(tuple(map(float, line.split())) for line in (store.folder / "spans.txt").read_text().splitlines())
    first_end = min(end for _, end in spans)
    later = [s for s in spans if s[0] > first_end]
    assert len(later) >= 4
    assert all(a[1] <= b[0] for a, b in zip(later, later[1:], strict=False))


def test_stopping_in_the_middle_keeps_what_landed_and_ends_the_processes(store):
    trials = [trial("lora", s) for s in range(6)]
    pool = Workers(1)

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(trials, store, pool=pool, on_record=stop)
    assert pool.processes == []
    done = [t for t in trials if store.get(key(t))]
    assert 1 <= len(done) < 6
    landed = []
    with pool:
        assert len(run_all(trials, store, pool=pool, on_record=landed.append)) == 6
    assert len(list(store.folder.glob("*/*.json"))) == 6  # none was run twice


def test_processes_stay_for_the_next_list(store):
    with Workers(2) as pool:
        run_all([trial("lora", s) for s in range(4)], store, pool=pool)
        before = [w.process.pid for w in pool.processes]
        run_all([trial("lora", s) for s in range(4, 8)], store, pool=pool)
        assert [w.process.pid for w in pool.processes] == before
    assert pool.processes == []


def test_unknown_arms_go_first_and_then_the_longest():
    pool = Workers(2)
    pool.todo = {str(i): trial(arm, i) for i, arm in enumerate(["short", "long", "new", "new", "short"])}
    pool.left, pool.times = list(pool.todo), {"short": [1.0], "long": [9.0, 11.0]}
    order = [pool.todo[pool._next()].arm for _ in range(5)]
    assert order[:2] == ["new", "new"] and order[2:] == ["long", "short", "short"]


def test_a_store_that_cannot_be_written_ends_the_pool(store):
    with pytest.raises(FolderError, match="disk is full"):
        run_all([trial("full", 0)], store)


def test_a_worker_that_cannot_start_is_said_with_its_last_words(store, monkeypatch):
    monkeypatch.setattr(Workers, "module", "tests.no_such_module")
    with pytest.raises(FolderError, match="no_such_module"):
        run_all([trial("lora", 0)], store)
