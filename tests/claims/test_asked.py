from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.claims.test_listing import invoke
from tests.claims.test_runner import TASK, declare, here, made_up, run  # noqa: F401
from tunewright.claims import asked, engine, results_io, runner
from tunewright.errors import ClaimError


def test_other_seeds_are_run_tuned_and_stored(here):  # noqa: F811
    declare(here)
    own, others = made_up(hft=0.2), made_up(hft=0.2)
    first = run(here, own)
    second = runner.run_claim(
        "hft", "nano", engine=others, results=here / "other", claims=here / "claims", task=TASK, seeds=range(100, 106)
    )
    assert [r.seed for r in second.arms[0].runs] == list(range(100, 106)) and second.judged.seeds == 6
    assert second.arms[0].runs[0].figure != first.arms[0].runs[0].figure  # they decide the numbers
    assert [r.seed for r in first.arms[0].runs] == [0, 1, 2, 3]
    assert results_io.read("hft", here / "other")["nano"].judged == second.judged


def test_a_measure_is_asked_for_these_seeds(here):  # noqa: F811
    measure = "def measure(run, seed):\n    return {a.name: 0.5 + seed / 1000 for a in run.claim.arms}\n"
    declare(here, "measured", extra=measure)
    found = runner.run_claim(
        "hft", "nano", engine=made_up(), results=here / "r", claims=here / "claims", task=TASK, seeds=range(100, 102)
    )
    assert [(r.seed, r.figure) for r in found.arms[0].runs] == [(100, 0.6), (101, 0.601)]


def test_seeds_are_the_first_and_the_last_and_need_a_place_to_write_to():
    assert asked.seeds_of("100-107", Path("there")) == range(100, 108) and asked.seeds_of(None, None) is None
    for text in ("100", "7-3", "5-5", "a-b", "-1-4"):
        with pytest.raises(ClaimError, match="are no seeds"):
            asked.seeds_of(text, Path("there"))
    with pytest.raises(ClaimError, match="make another result"):
        asked.seeds_of("0-7", None)


def test_a_folder_is_a_set_of_claims(here):  # noqa: F811
    declare(here)
    assert asked.claims_of([str(here / "claims")]) == (["hft"], here / "claims")
    assert asked.claims_of(["hft"]) == (["hft"], None)
    with pytest.raises(ClaimError, match="stands alone"):
        asked.claims_of([str(here / "claims"), "hft"])
    (here / "empty").mkdir()
    with pytest.raises(ClaimError, match="no claim is in this folder"):
        asked.claims_of([str(here / "empty")])


def test_a_paper_that_the_catalogue_lacks_is_refused_before_anything_runs(here):  # noqa: F811
    declare(here)
    file = here / "claims" / "hft.py"
    file.write_text(file.read_text().replace('paper="hft"', 'paper="hftt"'))
    done = invoke("papers", "run", str(here / "claims"), "--out", str(here / "out"))
    assert done.exit_code == 1 and "'hftt', which the catalogue lacks" in done.stderr and "hft" in done.stderr
    assert not (here / "out").exists()


def test_the_command_runs_a_folder_with_other_seeds_and_writes_where_it_is_told(here, monkeypatch):  # noqa: F811
    declare(here)
    stand_in = made_up(hft=0.2)
    stand_in.__class__.__enter__ = lambda self: self
    stand_in.__class__.__exit__ = lambda self, *_: None
    monkeypatch.setattr(engine, "Local", lambda workers: stand_in)
    monkeypatch.setattr(runner, "lab_recipe", lambda claim, scale: TASK)
    done = invoke("papers", "run", str(here / "claims"), "--seeds", "100-103", "--out", str(here / "out"), "--json")
    assert done.exit_code == 0, done.output
    stored = json.loads((here / "out" / "hft.json").read_text())["nano"]
    assert [r["seed"] for r in stored["arms"][0]["runs"]] == [100, 101, 102, 103]
    assert '"claim": "hft"' in done.stdout
