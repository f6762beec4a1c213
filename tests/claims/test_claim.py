from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.claims.stand_in import reading
from tunewright.claims import claim as claims
from tunewright.claims import metrics
from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import tasks
from tunewright.claims.lab.overlay import merged, with_methods
from tunewright.errors import ClaimError

TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.text("abc", min_size=1, max_size=2), TREES, max_size=4)


def a_claim(**changes):
    given = {
        "paper": "hft",
        "says": "x",
        "task": "intents",
        "method": Arm(name="hft", methods=["hft"]),
        "baselines": [Arm(name="full", methods=["full"])],
        "metric": "target",
        "direction": "higher",
        "smallest": 0.01,
    }
    return Claim(**{**given, **changes})


def test_merging_goes_key_by_key_and_changes_neither():
    under = {
        "train": {"seed": 0, "batch_tokens": 256},
        "keep": ["a"],
        "stages": [{"name": "one", "budget": {"steps": 1}}, {"name": "two"}],
    }
    over = {"train": {"seed": 1}, "keep": ["b"], "stages": [{"name": "two", "methods": ["lora"]}, {"name": "three"}]}
    out = merged(under, over)
    assert out == {
        "train": {"seed": 1, "batch_tokens": 256},
        "keep": ["b"],
        "stages": [{"name": "one", "budget": {"steps": 1}}, {"name": "two", "methods": ["lora"]}, {"name": "three"}],
    }
    out["train"]["seed"] = 9
    out["stages"][1]["methods"].append("ist")
    assert under["train"]["seed"] == 0 and over["train"]["seed"] == 1 and over["stages"][0]["methods"] == ["lora"]


@given(MAPPINGS, MAPPINGS)
def test_what_is_laid_over_is_found_again_and_nothing_else_is_lost(under, over):
    out = merged(under, over)
    assert merged(out, over) == out and merged({}, over) == over and merged(under, {}) == under
    assert out.keys() == under.keys() | over.keys()
    assert all(out[k] == v for k, v in under.items() if k not in over)


def test_methods_go_to_the_top_or_into_stages_that_have_none():
    assert with_methods({"model": "m"}, ["lora"], {"steps": 2}) == {
        "model": "m",
        "train": {"learning_rate": 2e-4, "batch_tokens": 16_000, "warmup_steps": 0.03},
        "methods": ["lora"],
        "budget": {"steps": 2},
    }
    staged = {"stages": [{"name": "a", "methods": ["full"], "budget": {"steps": 9}}, {"name": "b"}]}
    assert with_methods(staged, ["lora"])["stages"] == [
        {"name": "a", "methods": ["full"], "budget": {"steps": 9}},
        {"name": "b", "methods": ["lora"], "budget": {"epochs": 1}},
    ]
    own = with_methods({"train": {"learning_rate": 1e-3}}, ["lora"])
    assert own["train"]["learning_rate"] == 1e-3 and own["budget"] == {"epochs": 1}
    assert with_methods({"methods": ["hft"]}, ["lora"])["methods"] == ["hft"]
    common = with_methods({**staged, "budget": {"steps": 3}}, ["lora"])
    assert "budget" not in common and [s["budget"] for s in common["stages"]] == [{"steps": 9}, {"steps": 3}]


def test_a_scale_may_change_seeds_and_budget_alone():
    claim = a_claim(real={"seeds": 5, "budget": {"tokens": 10}}, budget={"tokens": 2})
    assert claim.at_scale("nano") is claim and (claim.at_scale("real").seeds, claim.at_scale("real").budget) == (
        5,
        {"tokens": 10},
    )
    with pytest.raises(ValueError, match="'real' may change"):
        a_claim(real={"metric": "drift"})
    with pytest.raises(ClaimError, match="not run at scale 'real'"):
        a_claim(scales=("nano",)).at_scale("real")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metric": "targt"}, "did you mean 'target'"),
        ({"metric": "target at matched target"}, "no metric"),
        ({"metric": "cost.flops at matched target"}, "no metric"),
        ({"rates": (1e-4, 1e-2)}, "factor of about 3"),
        ({"rates": (1e-3, 3e-4)}, "factor of about 3"),
        ({"baselines": [Arm(name="hft", methods=["full"])]}, "one name"),
        ({"seeds": 1}, "greater than or equal to 2"),
        ({"budgt": {}}, "budgt"),
    ],
)
def test_a_claim_that_is_not_sound_says_so(changes, says):
    with pytest.raises((ValueError, ClaimError), match=says):
        a_claim(**changes)


RECORD = SimpleNamespace(
    base=reading(0.0, 0.1, {"general": 3.0, "code": 2.0}, None),
    strengths=[
        reading(0.5, 0.4, {"general": 3.1, "code": 2.1}, 0.2),
        reading(1.0, 0.7, {"general": 3.4, "code": 2.2}, 0.9),
    ],
    cost={"seconds": {"train": 8.0}, "steps": 4, "flops": 1e9, "peak_memory_bytes": None},
    probes={"calibration": {"tuned_ece": 0.05}},
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("target", 0.7),
        ("kept", 2.8),
        ("kept.code", 2.2),
        ("kept.nothing", None),
        ("drift", 0.9),
        ("cost.flops", 1e9),
        ("cost.seconds.train", 8.0),
        ("cost.peak_memory_bytes", None),
        ("seconds per step", 2.0),
        ("probe.calibration.tuned_ece", 0.05),
        ("probe.calibration.other", None),
    ],
)
def test_metrics_read_the_tuned_model_and_its_record(name, expected):
    assert metrics.value(RECORD, name) == (pytest.approx(expected) if expected is not None else None)


def test_curves_begin_at_the_base():
    points = metrics.curve(RECORD, "kept.general at matched target")
    assert [(p.strength, p.target, p.figure) for p in points] == [(0.0, 0.1, 3.0), (0.5, 0.4, 3.1), (1.0, 0.7, 3.4)]
    assert [p.figure for p in metrics.curve(RECORD, "drift at matched target")] == [0.0, 0.2, 0.9]


def test_the_table_of_metrics_names_them_all():
    assert (
        all(f"`{m.pattern}`" in metrics.table() for m in metrics.METRICS)
        and "`kept at matched target`" in metrics.table()
    )


def test_claims_are_found_by_reading_files(tmp_path):
    body = "from tunewright.claims.claim import Arm, Claim\nCLAIM = Claim(paper='hft', says='x', task='intents', "
    body += "method=Arm(name='hft', methods=['hft']), metric='{0}', direction='higher', smallest=0.0{1})\n"
    (tmp_path / "hft.py").write_text(body.format("target", ", baselines=[Arm(name='full', methods=['full'])]"))
    (tmp_path / "hft__alone.py").write_text(body.format("target", ""))
    (tmp_path / "wrong.py").write_text(body.format("nothing-such", ""))
    (tmp_path / "helper.py").write_text("raise RuntimeError('never imported')\n")
    assert claims.names(tmp_path) == ["hft", "hft--alone", "wrong"]
    assert claims.load("hft", tmp_path).claim.arms[1].name == "full"
    with pytest.raises(ClaimError, match="needs a function `measure`"):
        claims.load("hft--alone", tmp_path)
    with pytest.raises(ClaimError, match="no metric is named 'nothing-such'"):
        claims.load("wrong", tmp_path)
    with pytest.raises(ClaimError, match="no claim is named 'hfd'"):
        claims.load("hfd", tmp_path)


@pytest.mark.parametrize("name", claims.names())
def test_every_claim_is_sound_and_names_methods_that_are_there(name):
    from tunewright import catalogue
    from tunewright.claims.code_hash import _uses

    claim = claims.load(name).claim
    assert claim.paper == name.split("--")[0] and set(claim.scales) <= set(tasks.task(claim.task).scales)
    assert all(catalogue.lookup(use.name) is not None or use.name in ("adamw", "sgd") for use in _uses(claim))
    assert (
        claim.seeds >= 5
        and claim.strengths[-1] == 1.0
        and (" at matched" not in claim.metric or len(claim.strengths) >= 2)
    )


def test_what_a_claim_shares_under_another_name_is_a_part_of_it(tmp_path):
    from tunewright.claims.code_hash import beside

    (tmp_path / "_lab.py").write_text("WIDE = 1\n", encoding="utf-8")
    claim = tmp_path / "one.py"
    claim.write_text("from tunewright.claims.papers import _lab as lab\n", encoding="utf-8")
    assert beside(claim) == {claim, tmp_path / "_lab.py"}
