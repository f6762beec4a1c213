"""Data mixing agent: what it is told of a stage, what a step was worth, how the agent is fitted, and whole stages."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.conformance.bench import Dataset
from tunewright.contract.method import Plan
from tunewright.errors import MethodError
from tunewright.files.checkpoint import write_folder
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs import _mixing_agent as mixing
from tunewright.methods.inputs import _simulated_domains as simulated
from tunewright.methods.inputs import _trajectories as trajectories
from tunewright.methods.inputs.data_mixing_agent import NAME, DataMixingAgent

SOURCES = {"new": text_rows(16, "new"), "more": text_rows(16, "more"), "old": text_rows(16, "old")}
SIZES = {n: sum(r.size for r in rows) for n, rows in SOURCES.items()}
FEATURES = 2 * trajectories.WINDOW + 8
FEW = {"warmup": 3, "updates": 3}


class Held:
    """Held-out rows of two sources, as a data set has them."""

    def __init__(self, *names: str):
        self.sources = [Dataset(n, list(text_rows(4, n, seed=1))) for n in names]


def made(listen=None, *, held=("new", "old"), steps=6, **options) -> Run:
    plan = {"sources": SIZES, "replay": ("old",), "measured": held}
    methods = {"lora": LoRA(rank=2), NAME: DataMixingAgent(**{"looks": 3, **FEW, **options})}
    run = Run(methods, sources=SOURCES, plan=plan, steps=steps, listen=listen)
    run.stage.validation = Held(*held)
    return run


# -- what is seen, and what it was worth -------------------------------------------------------------------------------


def two_looks() -> trajectories.Trajectory:
    t = trajectories.begun({"b": 1.0, "a": 3.0, "old": 4.0}, {"a": 2.0, "old": 1.0, "text": 4.0}, ("old",), 5)
    t["looks"] += [
        {"losses": [2.0, 1.0, 4.0], "shares": [0.5, 0.2, 0.3]},
        {"losses": [1.0, 1.5, 2.0], "shares": [0.1, 0.1, 0.8]},
    ]
    return t


def test_a_step_is_worth_what_the_losses_of_both_fields_fell_by():
    t = two_looks()
    target, source = (math.log(2) + math.log(2)) / 2, -math.log(1.5)
    assert trajectories.worth(t, 0, 0.5) == pytest.approx((target + source) / 2)
    assert trajectories.worth(t, 0, 0.9) == pytest.approx(0.9 * target + 0.1 * source)
    t["texts"] = [False] * 3  # one field alone is followed: its mean counts whole
    assert trajectories.worth(t, 0, 0.1) == pytest.approx((2 * math.log(2) - math.log(1.5)) / 3)


def test_features_are_of_each_domain_and_hold_no_name():
    t = two_looks()
    x = trajectories.seen(t, 1)
    assert x.shape == (3, FEATURES)
    w = trajectories.WINDOW
    assert x[0, :w].tolist() == pytest.approx([0.5, 3 / 8, 3 / 8, 3 / 8])  # a: its last share, then the stage's first
    assert x[0, w].item() == pytest.approx(math.log(0.5)) and x[2, w].item() == pytest.approx(math.log(1.5))
    assert x[1, w].item() == pytest.approx(math.log(0.5))  # b has no text of its own: its field's mean
    assert x[0, w + 1].item() == 0.0
    assert x[:, 2 * w + 1].tolist() == [0, 0, 1] and x[:, 2 * w + 2].tolist() == [1, 0, 1]
    assert x[:, 2 * w + 3].tolist() == [0.25] * 3 and x[0, 2 * w + 6].item() == pytest.approx(0.3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(trajectories.BEHAVIOURS), st.integers(2, 6))
def test_what_is_drawn_is_a_mixture(seed, behaviour, count):
    rng = random.Random(seed)
    t = trajectories.begun({"a": 1.0, "b": 2.0, "old": 1.0}, {"a": 2.0, "old": 1.0}, ("old",), count)
    for _ in range(count):
        t["looks"].append({"losses": [rng.uniform(0.5, 3), rng.uniform(0.5, 3)]})
        shares = t["looks"][-1]["shares"] = trajectories.drawn(t, behaviour, rng)
        assert sum(shares) == pytest.approx(1.0) and min(shares) >= 0
    if behaviour == "kept":
        assert shares == [0.25, 0.5, 0.25]


def test_a_move_between_the_fields_goes_in_equal_steps():
    t = trajectories.begun({"a": 1.0, "old": 1.0}, {"a": 1.0, "old": 1.0}, ("old",), 5)
    for _ in range(5):
        t["looks"].append({"losses": [1.0, 1.0]})
        t["looks"][-1]["shares"] = trajectories.drawn(t, "anneal", random.Random(1))
    old = [look["shares"][1] for look in t["looks"][:4]]
    steps = [b - a for a, b in zip(old, old[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3) and abs(steps[0]) > 0.01


def test_more_is_drawn_of_what_has_risen():
    t = trajectories.begun({"a": 1.0, "old": 1.0}, {"a": 1.0, "old": 1.0}, ("old",), 3)
    t["looks"] += [{"losses": [1.0, 1.0], "shares": [0.5, 0.5]}, {"losses": [0.8, 1.2]}]
    shares = trajectories.drawn(t, "losses", random.Random(0))
    assert shares[1] / shares[0] == pytest.approx(math.exp(4 * (math.log(1.2) - math.log(0.8))))


# -- the agent ---------------------------------------------------------------------------------------------------------


def network(features: int = FEATURES) -> mixing.Network:
    return mixing.fresh(features, torch.Generator().manual_seed(0))


def test_the_order_of_domains_and_empty_places_change_nothing():
    net = {n: t + 0.1 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for n, t in network().items()}
    x = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(2))
    there = torch.ones(3, dtype=torch.bool)
    shares = mixing.logits(net, x, there).softmax(-1)
    torch.testing.assert_close(mixing.logits(net, x[[2, 0, 1]], there).softmax(-1), shares[[2, 0, 1]])
    padded = torch.cat([x, torch.full((2, x.shape[1]), 7.0)])
    places = torch.tensor([True] * 3 + [False] * 2)
    more = mixing.logits(net, padded, places).softmax(-1)
    torch.testing.assert_close(more[:3], shares)
    assert more[3:].tolist() == [0.0, 0.0]


def bandit(count: int, best: float, seed: int = 0, spread: tuple[float, float] = (0.0, 1.0)):
    """Trajectories of one step: the second text falls the most where the first domain's share is `best`."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        t = trajectories.begun({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, ("b",), 2)
        share = rng.uniform(*spread)
        fall = math.exp((share - best) ** 2)
        t["looks"] += [{"losses": [1.0, 1.0], "shares": [share, 1 - share]}, {"losses": [fall, fall], "shares": [1, 0]}]
        found.append(t)
    return found


def fit(found, **options):
    chosen = {"balance": 0.5, "warmup": 200, "updates": 0, "conservatism": 0.1, "discount": 0.99, **options}
    return mixing.fitted(found, generator=torch.Generator().manual_seed(3), **chosen)


def given_share(net) -> float:
    t = trajectories.begun({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, ("b",), 2)
    t["looks"].append({"losses": [1.0, 1.0]})
    return mixing.shares_of(net, t)[0]


@pytest.mark.slow
def test_imitation_gives_the_mean_of_the_better_half_and_q_learning_goes_to_the_best():
    """The better half of shares drawn evenly from [0, 1] about 0.8 lies in [0.55, 1], whose mean is 0.775; about 0.95
    in [0.5, 1]: its mean is 0.75, the best 0.95.
    """
    found = bandit(80, 0.95)
    totals = sorted(((t["looks"][0]["shares"][0] - 0.95) ** 2, t["looks"][0]["shares"][0]) for t in found)
    mean = sum(share for _, share in totals[:41]) / 41
    copied = given_share(fit(found, warmup=400))
    assert copied == pytest.approx(mean, abs=0.04)
    learnt = given_share(fit(found, updates=500))
    assert 0.85 < learnt <= 1 and learnt > copied + 0.08


@pytest.mark.slow
def test_conservatism_holds_the_agent_where_trajectories_went():
    """Each further share of the first domain is worth as much, and none above 0.6 was tried."""
    rng, found = random.Random(0), []
    for _ in range(60):
        t = trajectories.begun({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, ("b",), 2)
        share = rng.uniform(0.3, 0.6)
        t["looks"] += [{"losses": [1.0, 1.0], "shares": [share, 1 - share]}, {"losses": [math.exp(-share)] * 2}]
        found.append(t)
    free, held = (given_share(fit(found, warmup=100, updates=300, conservatism=c)) for c in (0.0, 5.0))
    assert held < 0.68 < 0.75 < free


@pytest.mark.slow
def test_the_balance_says_which_field_is_served():
    """Of two domains each helps its own field alone."""
    rng, found = random.Random(0), []
    for _ in range(60):
        t = trajectories.begun({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, ("b",), 2)
        share = rng.random()
        losses = [math.exp(-share), math.exp(share - 1)]
        t["looks"] += [{"losses": [1.0, 1.0], "shares": [share, 1 - share]}, {"losses": losses, "shares": [1, 0]}]
        found.append(t)
    new, old = (given_share(fit(found, balance=b, updates=200)) for b in (0.9, 0.1))
    assert new > 0.7 and old < 0.3


def test_simulated_stages_forget_what_is_left_out_and_are_drawn_by_their_number():
    t = simulated.played(3, 6, lambda t: [0.5, 0.5, 0.0, 0.0])
    new, old = trajectories.fields(t, trajectories.gains(t, 6))
    assert new < -0.05 and old > 0.05
    assert simulated.explored(5, 4) == simulated.explored(5, 4) != simulated.explored(6, 4)


# -- through the loop --------------------------------------------------------------------------------------------------


def test_the_stage_is_sampled_as_the_agent_says_at_every_look():
    run, held = made(), []
    real = run.cursor.next_batch
    run.cursor.next_batch = lambda: (held.append(dict(run.cursor.weights)), real())[1]
    run.train()
    state = run.state(NAME)
    seen = state.data["trajectory"]
    assert len(seen["looks"]) == 4 and seen["old"] == ["old"]  # at steps 0, 2 and 4, and what came of the last
    net = {n: state.get(f"agent.{n}") for n in mixing.PARTS}
    for k, look in enumerate(seen["looks"][:3]):
        part = {**seen, "looks": seen["looks"][: k + 1]}
        assert mixing.shares_of(net, part) == pytest.approx(look["shares"], abs=1e-6)
        assert held[2 * k] == held[2 * k + 1] == pytest.approx(dict(zip(seen["domains"], look["shares"], strict=True)))
    assert len({tuple(look["losses"]) for look in seen["looks"]}) == 4


@pytest.mark.parametrize("steps", [1, 2, 5, 23])
def test_a_stage_of_any_length_is_looked_at_from_its_first_step_to_its_last(steps):
    method, shares = DataMixingAgent(policy="random", looks=5), []
    state = method.setup(type("S", (), {"plan": Plan(steps, 1, "s", 0, 1e-3, 0, sources={"a": 1, "b": 1})}))
    plan = Plan(steps, 1, "s", 0, 1e-3, 0, sources={"a": 1, "b": 1})
    validation = type("V", (), {"losses": lambda self, rows: {"a": 1.0, "b": 2.0}})()
    for step in range(steps + 1):
        shares.append(method.mixture({"a": 1, "b": 1}, validation, step, plan, state))
    seen = state.data["trajectory"]
    assert shares[0] is not None and shares[-1] is not None
    assert len(seen["looks"]) == min(5, steps) + 1 == seen["count"] == sum(s is not None for s in shares)


def test_resumes():
    assert_resumes(made, 3)
    assert_resumes(lambda listen: made(listen, policy="any"), 3)


def test_what_a_finished_stage_left_is_fitted_to(tmp_path):
    run = made(policy="random")
    run.train()
    seen = run.state(NAME).data["trajectory"]
    for name in ("one", "two"):
        left = {"left": {NAME: {"trajectory": seen}, "other": {"x": 1}}}
        write_folder(_stage(tmp_path / name), left, {})
    assert trajectories.of_runs(str(tmp_path), NAME, "runs") == [seen, seen]
    assert trajectories.of_runs(str(tmp_path / "one"), NAME, "runs") == [json.loads(json.dumps(seen))]
    agents = []
    for runs in (["simulated"], [str(tmp_path)], [str(tmp_path / "one"), "simulated"]):
        steered = made(runs=runs)
        steered.train()
        agents.append(steered.state(NAME).get("agent.weight1"))
    assert not torch.equal(agents[0], agents[1]) and not torch.equal(agents[1], agents[2])


def _stage(run: Path) -> Path:
    (run / "stages").mkdir(parents=True)
    return run / "stages" / "main"


def test_what_cannot_be_fitted_to_is_refused(tmp_path):
    write_folder(_stage(tmp_path / "other"), {"left": {"skill-it": {}}}, {})
    write_folder(_stage(tmp_path / "damaged"), {"left": {NAME: {"trajectory": None}}}, {})
    (tmp_path / "damaged/stages/main/state.json").write_text("{}")
    for options, words in (
        ({"runs": [str(tmp_path / "other")]}, "no finished run"),
        ({"runs": [str(tmp_path / "nowhere")]}, "no finished run"),
        ({"runs": [str(tmp_path / "damaged")]}, "cannot be read"),
        ({"runs": []}, "none are named"),
        ({"source_field": ["nosuch"]}, "no source or held-out text"),
    ):
        with pytest.raises(MethodError, match=words):
            made(**options)
    with pytest.raises(MethodError, match="only"):
        Run({"x": LoRA(rank=2), NAME: DataMixingAgent()}, plan={"sources": {"one": 100}})


def test_what_it_found_is_the_trajectory_in_words():
    run = made(policy="kept")
    run.train()
    found = DataMixingAgent(policy="kept").found(run.state(NAME))
    assert found.columns == ["look", "more", "new", "old", "target field", "source field"] and len(found.rows) == 4
    assert found.rows[0][4:] == [0.0, 0.0] and not found.notes
    lone = made(policy="kept", held=("new",))
    lone.train()
    assert "source field" in DataMixingAgent(policy="kept").found(lone.state(NAME)).notes[0]


def test_what_is_not_followed_is_told_before():
    plan = Plan(100, 1, "s", 0, 1e-3, 0, sources=SIZES, replay=("old",), measured=("new",))
    assert "nothing of old is followed" in DataMixingAgent().caution(plan)
    assert "nothing of new is followed" not in str(DataMixingAgent(source_field=["new"]).caution(plan))
