"""Episodes that a policy plays, the environments that they are played in, and whole runs of the task."""

from __future__ import annotations

import io
import json
import math
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from rich.console import Console

from tests.tasks.playing import CART, TASK, carts, episode, policy, write
from tunewright.conformance.bench import seeded
from tunewright.conformance.task_episodes import decision_transformer
from tunewright.contract.records import RowProblem
from tunewright.data.read import read_source
from tunewright.data.trajectories import trajectory_of
from tunewright.errors import DataError, MethodError, MissingExtraError, ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.loading.policies import with_facts
from tunewright.measure import environments, episodes
from tunewright.measure.intervals import Interval
from tunewright.measure.metrics import METRICS
from tunewright.measure.target import difference, evaluate, summary
from tunewright.paired import shown
from tunewright.paired.result import Pair
from tunewright.paired.sides import asked, task_named
from tunewright.planning.check import check_recipe, show
from tunewright.recipe import Recipe, Source
from tunewright.report import terminal, words
from tunewright.report.answer import Answer
from tunewright.report.schema import Report
from tunewright.runs.assemble import assemble
from tunewright.runs.run import resume, run
from tunewright.tasks import _policies
from tunewright.tasks._trajectories import fits
from tunewright.weights._forward import tried

PLACE = {
    "id": "CartPole-v1",
    "episodes": 4,
    "seed": 5,
    "target_return": 20.0,
    "expert_return": None,
    "random_return": None,
    "arguments": {"max_episode_steps": 20},
    "attributes": {},
}
RETURN = METRICS["return"]


def by_hand(model, seed, asked, context=4, steps=20, **attributes):
    """An episode as the examples of transformers play it: one at a time, padded at its left; the return."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=steps)
    for name, value in attributes.items():
        setattr(env.unwrapped, name, value)
    seen, _ = env.reset(seed=seed)
    mean, std = (np.array(getattr(model.config, n)) for n in ("state_mean", "state_std"))
    states, actions, togo, got, over = [(seen - mean) / std], [[0.0, 0.0]], [asked], 0.0, False
    while not over:
        n = min(len(states), context)
        pad = context - n

        def padded(values, wide, n=n, pad=pad):
            given = torch.tensor(np.array(values[-n:]), dtype=torch.float32).view(n, wide)
            return torch.cat([torch.zeros(pad, wide), given])[None]

        times = torch.cat([torch.zeros(pad, dtype=torch.long), torch.arange(len(states) - n, len(states))])[None]
        with torch.no_grad():
            said = model(
                states=padded(states, 4),
                actions=padded(actions, 2),
                returns_to_go=padded([x / model.config.return_scale for x in togo], 1),
                timesteps=times,
                attention_mask=torch.tensor([[0] * pad + [1] * n]),
            ).action_preds[0, -1]
        action = int(said.argmax())
        actions[-1] = np.eye(2)[action].tolist()
        seen, reward, ended, cut, _ = env.step(action)
        got, over = got + reward, ended or cut
        states.append((seen - mean) / std)
        actions.append([0.0, 0.0])
        togo.append(togo[-1] - reward)
    env.close()
    return got


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_episodes_are_those_of_a_plain_loop_whoever_plays_beside():
    model = policy(**CART, initializer_range=0.6)
    rows = episodes.rows_of(PLACE, "cart")
    found = episodes.play(model, rows, RETURN)
    assert [r.id for r in found] == [f"cart:{seed}" for seed in (5, 6, 7, 8)]
    assert [r.score for r in found] == [by_hand(model, seed, 20.0) for seed in (5, 6, 7, 8)]
    assert len({r.score for r in found}) > 1
    assert [episodes.play(model, [row], RETURN)[0].score for row in rows] == [r.score for r in found]
    assert all(json.loads(r.answer) == {"return": r.score, "steps": r.score} for r in found)
    assert "asked for a return of 20" in found[0].prompt


class Listening(torch.nn.Module):
    """Pushes right for as long as more than 17 is still to come."""

    def __init__(self):
        super().__init__()
        self.config, self.weight = policy(**CART).config, torch.nn.Parameter(torch.zeros(1))

    def forward(self, states, returns_to_go, **inputs):
        more = (returns_to_go * self.config.return_scale > 17.0001).float()
        states = torch.zeros(len(states), 3 * states.shape[1], 1)
        return SimpleNamespace(action_preds=torch.cat([1 - more, more], -1), last_hidden_state=states)


def listened(seed, asked):
    """The same by hand."""
    env, got, over = gymnasium.make("CartPole-v1", max_episode_steps=20), 0.0, False
    env.reset(seed=seed)
    while not over:
        _, reward, ended, cut, _ = env.step(int(asked - got > 17))
        got, over = got + reward, ended or cut
    return got


def test_what_is_asked_for_is_asked_for_less_what_was_got():
    found = {}
    for target in (100.0, 20.0):
        rows = episodes.rows_of({**PLACE, "target_return": target}, "c")
        found[target] = [r.score for r in episodes.play(Listening(), rows, RETURN)]
        assert found[target] == [listened(seed, target) for seed in (5, 6, 7, 8)]
    assert found[100.0] != found[20.0]


def test_attributes_change_the_environment_and_arguments_its_length():
    model, changed = policy(**CART, initializer_range=0.6), {**PLACE, "attributes": {"force_mag": 40.0}}
    found = episodes.play(model, episodes.rows_of(changed, "c"), RETURN)
    assert [r.score for r in found] == [by_hand(model, seed, 20.0, force_mag=40.0) for seed in (5, 6, 7, 8)]
    assert [r.score for r in found] != [r.score for r in episodes.play(model, episodes.rows_of(PLACE, "c"), RETURN)]
    short = {**PLACE, "arguments": {"max_episode_steps": 3}}
    assert {r.score for r in episodes.play(model, episodes.rows_of(short, "c"), RETURN)} == {3.0}


def test_no_episode_is_longer_than_the_times_that_the_policy_knows():
    model = policy(**{**CART, "max_ep_len": 6})
    endless = {**PLACE, "arguments": {"max_episode_steps": -1}}  # none
    assert {r.score for r in episodes.play(model, episodes.rows_of(endless, "c"), RETURN)} == {6.0}


def test_a_normalised_score_lies_between_chance_and_an_expert():
    model, place = policy(**CART), {**PLACE, "expert_return": 20.0}
    rows = episodes.rows_of(place, "c")
    chance = episodes.at_random(rows, RETURN, model.config)
    low = sum(r.score for r in chance) / 4
    again = episodes.at_random(episodes.rows_of(place, "c"), RETURN, model.config)
    assert [r.score for r in chance] == [r.score for r in again] and low < 20
    scored = episodes.play(model, rows, METRICS["normalized_score"])
    plain = episodes.play(model, rows, RETURN)
    assert [s.score for s in scored] == pytest.approx([100 * (p.score - low) / (20 - low) for p in plain])
    given = episodes.play(model, episodes.rows_of({**place, "random_return": 10.0}, "c"), METRICS["normalized_score"])
    assert [s.score for s in given] == pytest.approx([100 * (p.score - 10) / 10 for p in plain])
    assert episodes.scored(("normalized_score",), plain[0].reference) == ["normalized_score"]
    assert episodes.scored(("normalized_score",), "{}") == []
    found = summary(scored, "normalized_score")
    assert found.low <= found.value <= found.high
    assert difference(plain, plain, "return").value == 0


class Loud(torch.nn.Module):
    """Says 50 at each step, and notes the largest action that it is shown."""

    def __init__(self):
        super().__init__()
        self.config = policy(numbers=True, state_dim=3, act_dim=1, max_ep_len=200).config
        self.weight, self.shown = torch.nn.Parameter(torch.zeros(1)), 0.0

    def forward(self, states, actions, **inputs):
        self.shown = max(self.shown, float(actions.max()))
        hidden = torch.zeros(len(states), 3 * states.shape[1], 1)
        return SimpleNamespace(action_preds=torch.full_like(actions, 50.0), last_hidden_state=hidden)


def test_actions_that_are_numbers_are_cut_to_what_the_environment_takes():
    model = Loud()
    place = {**PLACE, "id": "Pendulum-v1", "episodes": 2, "arguments": {"max_episode_steps": 5}}
    found = episodes.play(model, episodes.rows_of(place, "p"), RETURN)
    env = gymnasium.make("Pendulum-v1", max_episode_steps=5)
    env.reset(seed=5)
    assert found[0].score == pytest.approx(sum(float(env.step(np.array([2.0], np.float32))[1]) for _ in range(5)))
    assert model.shown == 2.0  # what was done, not what was said
    environments.check(place, model.config)


# -- environments ------------------------------------------------------------------------------------------------------

REFUSED = {
    "gymnasium knows no environment 'CartPole-v9'": {"id": "CartPole-v9"},
    "'CartPole-v1' cannot be made": {"arguments": {"wind": 3}},
    "'CartPole-v1' has no number 'gravty' that could be set": {"attributes": {"gravty": 1.0}},
    "has no number 'render_mode' that could be set": {"attributes": {"render_mode": 1.0}},
    "observations of 'Acrobot-v1' are": {"id": "Acrobot-v1"},
    "the model knows the times of 30": {"arguments": {}},
}


@pytest.mark.parametrize("said", REFUSED)
def test_an_environment_that_cannot_be_played_in_is_refused_in_one_line(said):
    with pytest.raises((RecipeError, ModelError), match=said) as caught:
        environments.check({**PLACE, **REFUSED[said]}, policy(**CART).config)
    assert caught.value.remedy and "\n" not in caught.value.what and caught.value.where == "measurement.environment"


def test_an_environment_of_other_actions_is_refused():
    with pytest.raises(ModelError, match=r"actions in 'CartPole-v1' are Discrete\(2\), and the model's are one of 3"):
        environments.check(PLACE, policy(**{**CART, "act_dim": 3}).config)
    numbers = policy(numbers=True, state_dim=4, max_ep_len=30)
    with pytest.raises(ModelError, match="the model's are 2 numbers"):
        environments.check(PLACE, numbers.config)


def test_without_gymnasium_one_message_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match="not installed") as caught:
        environments.made(PLACE)
    assert "tunewright[rl]" in str(caught.value)


# -- recipes and runs --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    seeded(lambda: decision_transformer(**CART)).save_pretrained(tmp_path / "base")
    write(tmp_path / "train.jsonl", carts(8))
    write(tmp_path / "test.jsonl", carts(3, 100))
    return tmp_path


def recipe(folder, **changes):
    tree = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "train.jsonl", "eval": "test.jsonl", "trajectories": {"context": 5}},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.02, "batch_tokens": 90, "threads": 1, "device": "cpu"},
        "budget": {"steps": 6},
        "measurement": {"strengths": [1]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree | changes))
    return Recipe.load(folder / "recipe.yaml")


PLAYED = {"id": "CartPole-v1", "episodes": 3, "expert_return": 20, "arguments": {"max_episode_steps": 20}}


def test_what_a_recipe_leaves_out_is_the_models_else_the_rows(folder):
    model = load(str(folder / "base"), TASK).model
    every = [trajectory_of(row) for row in carts(8)]
    filled, told = with_facts(recipe(folder, measurement={"environment": "CartPole-v1"}), model.config)
    spec = filled.data.trajectories
    mean = np.concatenate([t.observations for t in every]).mean(0)
    assert spec.state_mean == pytest.approx(mean.tolist(), rel=1e-5) and spec.action_space == "discrete"
    assert spec.return_scale == max(t.total for t in every) == filled.measurement.environment[0].target_return
    assert spec.context == 5 and "return_scale" in told[0] and filled.train.precision == "float32"
    model.config.state_mean, model.config.return_scale = [1.0] * 4, 7.0
    own = {"train": "train.jsonl", "trajectories": {"return_scale": 3.0}}
    spec = with_facts(recipe(folder, data=own), model.config)[0].data.trajectories
    assert (spec.state_mean, spec.return_scale, spec.context) == ([1.0] * 4, 3.0, 20)
    again = recipe(folder, data={"train": "train.jsonl", "trajectories": spec.model_dump()})
    assert with_facts(again, model.config)[0].data.trajectories == spec


@pytest.mark.parametrize(
    "name, value",
    [
        ("context", 3),
        ("stride", 2),
        ("return_scale", 2.0),
        ("state_mean", [0.5] * 4),
        ("state_std", [0.5] * 4),
    ],
)
def test_each_key_of_trajectories_changes_what_is_learnt(name, value, folder):
    plain = assemble(recipe(folder), weights=False)
    data = {"train": "train.jsonl", "eval": "test.jsonl", "trajectories": {"context": 5, name: value}}
    changed = assemble(recipe(folder, data=data), weights=False)

    def said(rows):
        return [(r.id, r.fields["states"].tolist(), r.fields["returns"].tolist()) for r in rows]

    assert said(plain.stages[0].rows.rows) != said(changed.stages[0].rows.rows)
    if name == "stride":  # what is judged shows each step once all the same
        assert said(plain.eval.rows) == said(changed.eval.rows)
    assert getattr(changed.recipe.data.trajectories, name) == value


def test_actions_of_another_kind_than_a_recipe_says_are_bad_rows(folder):
    data = {"train": "train.jsonl", "trajectories": {"action_space": "continuous", "action_std": [2.0, 3.0]}}
    found = check_recipe(recipe(folder, data=data)).bad_rows
    assert len(found) == 8 and "those of the model are lists of 2 numbers" in found[0].reason
    write(folder / "numbers.jsonl", [episode(k, numbers=True) for k in range(6)])
    seeded(lambda: decision_transformer(act_dim=2)).save_pretrained(folder / "numbers")
    data = {"train": "numbers.jsonl", "trajectories": {"action_std": [2.0, 3.0]}}
    session = assemble(recipe(folder, model="./numbers", data=data), weights=False)
    assert session.stages[0].rows.rows[0].fields["std"].tolist() == [2.0, 3.0]
    assert session.loaded.model.config.action_space == "continuous"


SAID = {
    "plays no episodes": {
        "task": "text-generation",
        "data": {"train": "a"},
        "measurement": {"environment": "CartPole-v1"},
    },
    "reads no trajectories": {"task": "text-generation", "data": {"train": "a", "trajectories": {"context": 3}}},
    "names a module to import": {"measurement": {"environment": "os:CartPole-v1"}},
    "two environments are called": {"measurement": {"environment": ["CartPole-v1", "CartPole-v1"]}},
    "the recipe names no environment": {"measurement": {"metric": "return"}},
    "nobody says what an expert gets": {
        "measurement": {"metric": "normalized_score", "environment": {**PLAYED, "expert_return": None}}
    },
    "an expert gets what actions at random get": {"measurement": {"environment": {**PLAYED, "random_return": 20}}},
    "gymnasium knows no environment": {"measurement": {"environment": "CartPole-v7"}},
    "knows the times of 30": {"measurement": {"environment": "CartPole-v1"}},
    "'action_mae' reads continuous actions": {"measurement": {"metric": "action_mae"}},
}


@pytest.mark.parametrize("said", SAID)
def test_what_cannot_be_played_or_read_is_refused(said, folder):
    with pytest.raises((RecipeError, ModelError, DataError), match=said):
        assemble(recipe(folder, **SAID[said]), weights=False)


def test_windows_are_the_same_for_all_stages(folder):
    made = recipe(folder)
    stage = made.stages[0].model_dump() | {"data": {"train": ["train.jsonl"], "trajectories": {"context": 3}}}
    tree = made.model_dump() | {"stages": [stage]}
    other = Recipe.model_validate(tree)
    other._base = folder
    with pytest.raises(RecipeError, match="holds for the whole run"):
        assemble(other, weights=False)


@pytest.mark.parametrize("methods", [["full"], [{"lora": {"rank": 4}}]])
def test_a_run_plays_before_and_after_resumes_and_goes_out(methods, folder):
    out = folder / "run"
    elsewhere = {**PLAYED, "name": "elsewhere", "seed": 50, "attributes": {"force_mag": 20}}
    asked = {"strengths": [0.5, 1], "environment": [PLAYED, elsewhere]}
    train = {"learning_rate": 0.02, "batch_tokens": 90, "threads": 1, "device": "cpu", "eval_steps": 3}
    how = {"methods": methods, "keep": ["test.jsonl"], "measurement": asked, "train": train}
    run(recipe(folder, **how, gate={"target": ">= 0"}), out, quiet=True)
    report = Report.load(out)
    target = report.target
    assert (target.metric, target.n, target.unit, target.direction) == ("return", 3, "", "higher")
    assert [(m.metric, m.name) for m in target.others] == [
        ("normalized_score", None),
        ("return", "elsewhere"),
        ("action_accuracy", "recorded actions"),
        ("loss", "recorded actions"),
    ]
    assert all(m.before is not None and m.difference is not None for m in target.others)
    assert [b.name for b in target.baselines] == ["actions at random"]
    assert report.drift.measure == "kl" and report.drift.on == "kept rows" and report.drift.value.value > 0
    assert report.kept[0].name == "test" and report.gate is not None
    resume(out, verify=True, quiet=True)
    export(out, folder / "model")
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    from transformers import DecisionTransformerModel

    plain = DecisionTransformerModel.from_pretrained(folder / "model").eval()
    spec = open_run(out).recipe.data.trajectories
    assert plain.config.state_mean == spec.state_mean and plain.config.context_steps == 5
    best = max(trajectory_of(row).total for row in carts(8))
    for seed, line in enumerate(lines):
        assert line["id"] == f"CartPole-v1:{seed}"
        assert json.loads(line["tuned"])["return"] == by_hand(plain, seed, best, context=5)
    told = load(str(folder / "model"), TASK).model
    rows = assemble(recipe(folder, model="./model")).eval.rows
    mean = summary(evaluate(told, None, TASK, list(rows), "action_accuracy"), "action_accuracy").value
    assert mean == pytest.approx(target.others[2].after.value)


def test_a_policys_folder_says_its_task_and_is_tried_after_a_merge(folder):
    assert task_named([asked(str(folder / "base"))], None) == TASK.name
    assert tried(folder / "base") == {"wrong": None, "notes": []}
    broken = load(str(folder / "base"), TASK).model
    with torch.no_grad():
        broken.encoder.h[0].attn.c_attn.weight.fill_(math.inf)
    broken.save_pretrained(folder / "broken")
    assert "not finite" in tried(folder / "broken")["wrong"]


def test_a_run_of_numbers_without_an_environment_is_read(folder):
    write(folder / "numbers.jsonl", [episode(k, numbers=True) for k in range(9)])
    write(folder / "more.jsonl", [episode(k, numbers=True) for k in range(20, 24)])
    sizes = {"act_dim": 2, "action_tanh": True}
    seeded(lambda: decision_transformer(**sizes)).save_pretrained(folder / "numbers")
    data = {"train": "numbers.jsonl", "eval": "more.jsonl"}
    run(recipe(folder, model="./numbers", data=data, methods=["full"]), folder / "run", quiet=True)
    report = Report.load(folder / "run")
    assert (report.target.metric, report.target.direction, report.target.unit) == (
        "action_mae",
        "lower",
        "loss per action",
    )
    assert report.target.after.value < report.target.before.value
    assert report.drift.measure == "action" and report.drift.on == "evaluated rows"
    export(folder / "run", folder / "model")


def test_an_objective_of_likelihoods_learns_choices_and_refuses_numbers(folder):
    methods = ["full", "stablemax"]
    assemble(recipe(folder, methods=methods), weights=False)
    write(folder / "numbers.jsonl", [episode(k, numbers=True) for k in range(6)])
    seeded(lambda: decision_transformer(act_dim=2)).save_pretrained(folder / "numbers")
    data = {"train": "numbers.jsonl"}
    with pytest.raises(MethodError, match="gives none of each"):
        assemble(recipe(folder, model="./numbers", data=data, methods=methods), weights=False)


# -- what readers stumbled over ----------------------------------------------------------------------------------------


def test_what_does_not_say_whether_an_episode_is_over_is_refused_with_its_place(tmp_path):
    for name, bad in (("terminated", "maybe"), ("done", 2), ("truncations", [False, "perhaps"])):
        row = {"observations": [[0.0], [1.0]], "actions": [0, 1], "rewards": [0.0, 1.0], name: bad}
        with pytest.raises(RowProblem, match="does not say whether the episode is over") as caught:
            trajectory_of(row)
        assert caught.value.field == name and "write true or false" in caught.value.remedy
    for fine in (True, 0, "TRUE", "0", None, math.nan, [0, 1], [False, "true"], np.array([False, True])):
        trajectory_of({"observations": [[0.0], [1.0]], "actions": [0, 1], "rewards": [0.0, 1.0], "terminated": fine})
    with pytest.raises(RowProblem, match="is over at step 0 of 2"):
        trajectory_of(
            {"observations": [[0.0], [1.0]], "actions": [0, 1], "rewards": [0.0, 1.0], "done": ["true", "false"]}
        )
    steps = [{"episode": 1, "observation": [0.0], "action": 0, "reward": 0.0, "done": d} for d in ("no idea", True)]
    write(tmp_path / "steps.jsonl", steps)
    problems = []
    rows = list(read_source(Source(path=str(tmp_path / "steps.jsonl")), tmp_path, problems))
    (found,) = problems
    assert not rows and found.field == "done" and found.where.endswith("steps.jsonl:1")


def test_actions_of_the_other_kind_are_called_what_they_are():
    row = {"observations": [[0.0] * 3] * 2, "actions": [0.5, 0.25], "rewards": [0.0, 1.0]}
    how = _policies.options(policy().config, None)
    with pytest.raises(RowProblem, match=r"are numbers that are not chosen from \(the first is 0.5\)"):
        fits(trajectory_of(row), how)
    with pytest.raises(RowProblem, match=r"lists of 2 numbers \(the first is \[0.5, 1.0\]\)"):
        fits(trajectory_of({**row, "actions": [[0.5, 1.0]] * 2}), how)
    with pytest.raises(RowProblem, match=r"whole numbers.*\(the first is 1\), and those of the model are lists of 2"):
        fits(trajectory_of({**row, "actions": [1, 0]}), _policies.options(policy(numbers=True).config, None))


def test_windows_are_not_counted_as_rows(tmp_path, capsys):
    policy(**CART).save_pretrained(tmp_path / "base")
    rows = carts(6)
    rows[1]["terminated"] = "maybe"
    write(tmp_path / "rows.jsonl", rows)
    tree = {"model": str(tmp_path / "base"), "task": TASK.name, "methods": ["full"], "budget": {"steps": 1}}
    tree |= {"data": {"train": str(tmp_path / "rows.jsonl"), "trajectories": {"context": 4}}}
    report = check_recipe(Recipe.model_validate(tree)).report
    show(report)
    windows = sum(math.ceil(len(r["rewards"]) / 4) for i, r in enumerate(rows) if i != 1)
    assert f"{windows} windows of trajectory; 1 row that cannot be used; " in capsys.readouterr().out


def test_what_was_played_is_called_episodes():
    assert words.rows_of("return", 2) == "2 episodes" and words.rows_of("normalized_score", 1) == "1 episode"
    assert words.rows_of("accuracy", 2000) == "2,000 rows"
    both = Interval(value=1.0, low=0.0, high=2.0, n=8)
    measured = {"metric": "return", "unit": "return", "difference": both, "after": both}
    drift = {"measure": "kl", "value": both, "on": "rows"}
    side = {"names": ["one"], "kind": "model"}
    pair = Pair.model_validate({"task": TASK.name, "first": side, "second": side, "target": measured, "drift": drift})
    assert "over episodes, paired on the same episodes" in shown.intervals(pair)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown.layout(pair))
    assert "nats/action" in console.export_text()


def test_a_return_has_no_reference_to_show():
    model = policy(**CART)
    (row,) = episodes.rows_of({**PLACE, "episodes": 1}, "cart")
    (alone,) = episodes.play(model, [row], RETURN)
    assert alone.reference == "" and alone.score is not None
    told = Answer.of(alone.__dict__ | {"base": "a", "tuned": "b"})
    report = SimpleNamespace(answers=[told], target=None, task=TASK.name)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal.answers(report))
    out = console.export_text()
    assert "seed 5" in out and "reference" not in out
    (beside,) = episodes.rows_of({**PLACE, "episodes": 1, "expert_return": 500.0, "random_return": 20.0}, "cart")
    (judged,) = episodes.play(model, [beside], METRICS["normalized_score"])
    assert json.loads(judged.reference) == {"random": 20.0, "expert": 500.0}
