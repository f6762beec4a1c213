"""reinforcement-learning: windows of episodes, what a decision transformer says of them, figures of actions."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.tasks.playing import SAYS, TASK, episode, policy, rows_of, write
from tunewright.contract.records import RowProblem
from tunewright.data.dataset import stored
from tunewright.data.read import read_all
from tunewright.data.trajectories import trajectory_of
from tunewright.errors import DataError, ModelError, RecipeError
from tunewright.measure.drift import feature_drift, kl_drift, take_features, take_reference
from tunewright.measure.metrics import METRICS, check_rows
from tunewright.measure.rows import RowResult
from tunewright.measure.target import evaluate, summary
from tunewright.recipe import Source
from tunewright.runs import held_out
from tunewright.tasks import _policies
from tunewright.tasks._trajectories import Facts, Trajectory, windows

HOW = {"context": 4, "stride": 4, "state_dim": 3, "act_dim": 3, "max_ep_len": 16, "action_space": "discrete"}


def plain(steps, rewards=None, actions=None):
    seen = [[0.1 * t, 1.0, -0.2 * t] for t in range(steps)]
    return {
        "observations": seen,
        "actions": actions or [t % 3 for t in range(steps)],
        "rewards": rewards or [1] * steps,
    }


# -- windows and rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("stride", [1, 3, 4])
def test_every_step_is_in_a_window_and_side_by_side_in_one_alone(steps, stride):
    found = [(w.start, w.length) for w in windows(trajectory_of(plain(steps)), "e", {**HOW, "stride": stride})]
    seen = [t for start, length in found for t in range(start, start + length)]
    assert set(seen) == set(range(steps)) and max(length for _, length in found) <= 4
    assert len(seen) == steps or stride < 4
    assert [start for start, _ in found] == list(range(0, steps, stride))[: len(found)]


def test_returns_to_go_are_sums_of_what_is_still_to_come():
    one = trajectory_of(plain(4, rewards=[1.0, 0.0, -2.0, 5.0]))
    assert one.returns_to_go().tolist() == [4.0, 3.0, 3.0, 5.0] and one.total == 4.0
    (row,) = rows_of(policy(), [plain(4, rewards=[1.0, 0.0, -2.0, 5.0])])
    assert row.fields["returns"].tolist() == pytest.approx([0.4, 0.3, 0.3, 0.5])
    states = row.fields["states"].reshape(4, 3)
    assert states[2].tolist() == pytest.approx([(0.2 - 0.1) / 0.5, (1 + 0.2) / 0.6, (-0.4 - 0.3) / 0.7])
    assert row.size == 12 and list(row.weights) == [1.0] * 4


def test_a_later_window_knows_its_time_and_all_that_is_to_come():
    rows = rows_of(policy(), [plain(6)])
    assert [r.fields["start"] for r in rows] == [0, 4]
    assert rows[1].fields["returns"].tolist() == pytest.approx([0.2, 0.1])
    batch = TASK.collate(rows)
    assert batch.inputs["timesteps"].tolist() == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.inputs["actions"][1].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


BROKEN = {
    "rewards": ({**plain(4), "rewards": [1, 1, float("inf"), 1]}, "step 2 holds what is not finite"),
    "actions": ({**plain(4), "actions": [0, 1, 2]}, "4 observations, 3 actions and 4 rewards"),
    "observations": ({**plain(4), "observations": [[0.1, 0.2, 0.3], [0.1]] * 2}, "step 1 has 1 numbers, and the first"),
    "dones": ({**plain(4), "dones": [False, True, False, True]}, "over at step 1 of 4: the row holds several"),
    "truncations": ({**plain(4), "truncations": [False]}, "it has 1 entries, and the episode 4 steps"),
}


@pytest.mark.parametrize("field", BROKEN)
def test_what_is_wrong_with_an_episode_is_told_with_its_line(field, tmp_path):
    row, said = BROKEN[field]
    write(tmp_path / "a.jsonl", [plain(3), row, plain(2)])
    found = read_all(Source(path="a.jsonl"), tmp_path)
    assert [r.id for r in found.records] == ["a.jsonl:1", "a.jsonl:3"]
    (problem,) = found.problems
    assert (problem.where, problem.field) == ("a.jsonl:2", field) and said in problem.reason and problem.remedy


OTHER = {
    "an observation has 2 numbers, and the model reads 3": {"observations": [[0.0, 1.0]] * 4},
    "action 5 at step 1 is none of the model's 3": {"actions": [0, 5, 1, 1]},
    "lists of 2 numbers (the first is [0.1, 0.2]), and those of the model are whole numbers": {
        "actions": [[0.1, 0.2]] * 4
    },
    "it has 20 steps, and the model knows the times of 16": plain(20),
}


@pytest.mark.parametrize("said", OTHER)
def test_an_episode_that_does_not_fit_the_model_is_told(said, tmp_path):
    write(tmp_path / "a.jsonl", [plain(4), {**plain(4), **OTHER[said]}])
    from tunewright.contract.task import EncodeOptions

    options = EncodeOptions(trajectories=_policies.options(policy().config, None))
    data = stored(Source(path="a.jsonl"), TASK, None, options, tmp_path / "cache", base=tmp_path)
    (problem,) = data.problems
    assert said in problem.reason and problem.where == "a.jsonl:2" and [r.id for r in data.rows] == ["a.jsonl:1@0"]


def test_other_names_and_files_hold_the_same_episodes(tmp_path):
    one, two = plain(4), plain(5)
    write(tmp_path / "a.jsonl", [one, two])
    behind = {**one, "observations": [*one["observations"], [9.0, 9.0, 9.0]]}  # what is seen after the last action
    named = [{"states": r["observations"], **{k: r[k] for k in ("actions", "rewards")}} for r in (behind, two)]
    pq.write_table(pa.Table.from_pylist(named), tmp_path / "b.parquet")
    steps = []
    for t in range(5):  # two episodes whose steps stand among one another
        for k, r in ((7, one), (3, two)):
            if t < len(r["actions"]):
                seen = {"observation.state": r["observations"][t], "next.reward": r["rewards"][t]}
                steps.append({"episode_index": k, **seen, "action": r["actions"][t]})
    write(tmp_path / "c.jsonl", steps)
    columns = {"episode": "episode_index", "observation": "observation.state", "reward": "next.reward"}
    sources = [Source(path="a.jsonl"), Source(path="b.parquet")]
    sources += [Source(path="c.jsonl", format="steps", columns=columns)]
    write(tmp_path / "d.jsonl", [{o: s[columns.get(o, o)] for o in (*columns, "action")} for s in steps])
    sources += [Source(path="d.jsonl")]  # recognised by its columns
    read = [[r["trajectory"] for r in read_all(s, tmp_path).records] for s in sources]
    assert read[0] == read[1] == read[2] == read[3] and len(read[0]) == 2
    assert isinstance(read[0][0], Trajectory) and read[0][0] != read[0][1]


def test_a_step_that_cannot_be_used_takes_its_episode_along(tmp_path):
    step = {"observation": [0.0, 1.0, 2.0], "action": 1, "reward": 1.0}
    rows = [{"episode": k, **step} for k in (0, 1, 0, 1)]
    rows[2] = {**rows[2], "reward": "much"}
    write(tmp_path / "a.jsonl", rows)
    found = read_all(Source(path="a.jsonl", format="steps"), tmp_path)
    assert [r.id for r in found.records] == ["a.jsonl:2"] and len(found.records[0]["trajectory"].rewards) == 2
    (problem,) = found.problems
    assert (problem.where, problem.field) == ("a.jsonl:3", "reward") and "'much' is no number" in problem.reason
    with pytest.raises(DataError, match="remove share"):
        read_all(Source(path="a.jsonl", format="steps", share=(0.0, 0.5)), tmp_path)


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [False, True])
def test_actions_are_those_of_the_plain_model_padded_at_its_left(numbers):
    model = policy(numbers=numbers)
    rows = rows_of(model, [episode(0, numbers=numbers), episode(1, numbers=numbers)])
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch)
        for k, row in enumerate(rows):
            n, wide = len(row.weights), 2 if numbers else 3
            given = row.fields["targets"].reshape(n, -1)
            actions = torch.zeros(1, 6, wide)
            actions[0, 6 - n :] = torch.tensor(given) if numbers else torch.eye(3)[given[:, 0]]
            states, togo, times = torch.zeros(1, 6, 3), torch.zeros(1, 6, 1), torch.zeros(1, 6, dtype=torch.long)
            states[0, 6 - n :] = torch.tensor(row.fields["states"]).view(n, 3)
            togo[0, 6 - n :, 0] = torch.tensor(row.fields["returns"])
            times[0, 6 - n :] = torch.arange(n) + row.fields["start"]
            mask = torch.tensor([[0] * (6 - n) + [1] * n])
            said = model(
                states=states, actions=actions, returns_to_go=togo, timesteps=times, attention_mask=mask
            ).action_preds[0, 6 - n :]
            torch.testing.assert_close(out.logits[batch.rows == k], said, rtol=1e-5, atol=1e-5)


def test_no_action_is_seen_before_it_is_said_and_every_earlier_one_is():
    model = policy()
    (row,) = rows_of(model, [plain(4)])
    batch = TASK.collate([row])
    with torch.no_grad():
        first = TASK.forward(model, batch).logits
        batch.inputs["actions"][0, 2] = torch.eye(3)[0]
        second = TASK.forward(model, batch).logits
    assert torch.equal(first[:3], second[:3]) and not torch.allclose(first[3], second[3])


@pytest.mark.parametrize("numbers", [False, True])
def test_the_loss_is_of_each_action_by_itself(numbers):
    model = policy(numbers=numbers)
    rows = rows_of(model, [episode(k, numbers=numbers) for k in range(3)])
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        value = TASK.loss(out, batch).value
        alone = [TASK.loss(TASK.forward(model, b), b).value for b in (TASK.collate([r]) for r in rows)]
    torch.testing.assert_close(value, torch.cat(alone), rtol=1e-5, atol=1e-6)
    right = torch.cat([torch.tensor(r.fields["targets"]).view(len(r.weights), -1) for r in rows])
    if numbers:
        by_hand = ((out.logits - right) ** 2).sum(1) / 2
    else:
        by_hand = torch.stack([torch.logsumexp(x, 0) - x[a] for x, a in zip(out.logits, right[:, 0], strict=True)])
    torch.testing.assert_close(value, by_hand)
    states = out.hidden[-1].flatten(0, 1)[batch.positions]
    torch.testing.assert_close(model.predict_action(states), out.logits)
    own = [states[batch.rows == k].mean(0) for k in range(len(rows))]
    torch.testing.assert_close(out.features, torch.stack(own))


# -- what inputs hang on -----------------------------------------------------------------------------------------------


def test_what_a_config_lacks_is_gathered_step_by_step():
    facts, rows = Facts(), [trajectory_of(plain(5)), trajectory_of(plain(3, rewards=[-4.0, 1.0, 1.0]))]
    for one in rows:
        facts.add(one)
    said, every = facts.said(), np.concatenate([r.observations for r in rows])
    assert said["state_mean"] == pytest.approx(every.mean(0).tolist(), rel=1e-6)
    assert said["state_std"] == pytest.approx([every[:, 0].std(), 1.0, every[:, 2].std()], rel=1e-6)
    assert (said["return_scale"], facts.best, said["action_space"]) == (5.0, 5.0, "discrete")
    numbers = Facts()
    numbers.add(trajectory_of(episode(0, numbers=True)))
    told = np.array(episode(0, numbers=True)["actions"])
    assert numbers.said()["action_std"] == pytest.approx(told.std(0).tolist(), rel=1e-6)


def test_a_model_that_does_not_say_what_its_inputs_hang_on_is_refused():
    model = policy()
    model.config.return_scale = None
    with pytest.raises(ModelError, match=r"config.json does not say return_scale"):
        _policies.options(model.config, None)
    with pytest.raises(ModelError, match="state_mean has 2 numbers, and the model 3"):
        _policies.note(model.config, {"state_mean": [0.0, 1.0]})
    with pytest.raises(ModelError, match="state_std holds a number that is not above 0"):
        _policies.note(model.config, {"state_std": [0.0, 1.0, 1.0]})
    with pytest.raises(ModelError, match="which are no logits"):
        _policies.note(policy(action_tanh=True).config, {"action_space": "discrete"})


# -- figures -----------------------------------------------------------------------------------------------------------


def results(metric, pairs):
    compare = METRICS[metric].compare
    return [RowResult(id=str(i), answer=a, reference=r, score=compare(a, r)) for i, (a, r) in enumerate(pairs)]


def test_every_action_counts_alike_however_long_its_window_is():
    rows = results("action_accuracy", [("[1, 0, 2, 1]", "[1, 1, 2, 1]"), ("[0]", "[1]")])
    assert [r.score for r in rows] == [0.75, 0.0] and summary(rows, "action_accuracy").value == 0.6
    rows = results(
        "action_mae", [("[[0.5, 1.0], [0.0, 0.0]]", "[[0.0, 1.0], [1.0, 0.5]]"), ("[[2.0, 0.0]]", "[[0, 0]]")]
    )
    assert [r.score for r in rows] == [0.5, 1.0]
    assert summary(rows, "action_mae").value == pytest.approx((0.5 + 0 + 1 + 0.5 + 2 + 0) / 6)


def test_a_metric_of_other_actions_is_refused():
    rows = rows_of(policy(), [plain(4)])
    with pytest.raises(RecipeError, match="'action_mae' reads continuous actions, and those of the rows are discrete"):
        check_rows("action_mae", TASK, rows)
    with pytest.raises(RecipeError, match="is no episode"):
        evaluate(policy(), None, TASK, rows, "return")
    with pytest.raises(RecipeError, match="reads rows of reinforcement-learning"):
        from tunewright.tasks import get_task

        evaluate(policy(), None, get_task("text-classification"), rows, "return")


def test_predictions_are_the_likeliest_actions():
    model = policy()
    rows = rows_of(model, [episode(k) for k in range(3)])
    found = evaluate(model, None, TASK, rows, "action_accuracy")
    with torch.no_grad():
        out = TASK.forward(model, batch := TASK.collate(rows))
    for k, (result, row) in enumerate(zip(found, rows, strict=True)):
        said = out.logits[batch.rows == k].argmax(-1).tolist()
        assert json.loads(result.answer) == said and json.loads(result.reference) == row.fields["targets"].tolist()
    losses = evaluate(model, None, TASK, rows, "loss")
    torch.testing.assert_close(losses[0].score, float(TASK.loss(out, batch).value[batch.rows == 0].mean()))


def test_drift_of_numbers_is_how_far_they_moved_in_standard_deviations():
    model, rows = policy(numbers=True), rows_of(policy(numbers=True), [episode(k, numbers=True) for k in range(4)])
    assert len({len(r.weights) for r in rows}) > 1
    base = take_features(model, TASK, rows, batch_tokens=24)
    with torch.no_grad():
        before = [TASK.forward(model, TASK.collate([r])).logits for r in rows]
        model.predict_action[0].weight.mul_(1.5)
        after = [TASK.forward(model, TASK.collate([r])).logits for r in rows]
    found = feature_drift(base, take_features(model, TASK, rows))
    std = torch.tensor([0.5, 2.0])
    by_hand = [float((((a - b) / std) ** 2).mean().sqrt()) for a, b in zip(after, before, strict=True)]
    assert found.measure == "action" and found.values == pytest.approx(by_hand, rel=1e-4) and min(by_hand) > 0
    some = [2, 0]
    part = feature_drift(base.of_rows(some), take_features(model, TASK, [rows[i] for i in some]))
    assert part.values == pytest.approx([by_hand[i] for i in some], rel=1e-4)


def test_drift_of_choices_is_their_divergence():
    model, rows = policy(), rows_of(policy(), [episode(k) for k in range(3)])
    reference = take_reference(model, TASK, rows)
    with torch.no_grad():
        before = [torch.log_softmax(TASK.forward(model, TASK.collate([r])).logits, -1) for r in rows]
        model.predict_action[0].weight.mul_(1.5)
        after = [torch.log_softmax(TASK.forward(model, TASK.collate([r])).logits, -1) for r in rows]
    found = kl_drift(reference, model)
    by_hand = [float((b.exp() * (b - a)).sum(-1).mean()) for a, b in zip(after, before, strict=True)]
    assert found.measure == "kl" and found.values == pytest.approx(by_hand, rel=1e-3) and min(by_hand) > 0


def test_a_share_for_validation_is_whole_episodes(tmp_path):
    write(tmp_path / "a.jsonl", [plain(9 + k) for k in range(6)])
    from tunewright.contract.task import EncodeOptions

    options = EncodeOptions(trajectories=_policies.options(policy().config, 2))
    data = stored(Source(path="a.jsonl"), TASK, None, options, tmp_path / "cache", base=tmp_path)
    asked = SimpleNamespace(data=SimpleNamespace(validation=0.3), sequence=None, train=SimpleNamespace(seed=0))
    left, held = held_out.held_out(asked, data, TASK, lambda sources: data)
    of = [{r.fields["trajectory"] for r in d.rows} for d in (left, held)]
    assert of[0] and of[1] and not of[0] & of[1] and len(left.rows) + len(held.rows) == len(data.rows)
    assert math.ceil(0.3 * len(data.rows)) <= len(held.rows) + 1


def test_an_encoder_of_texts_is_no_policy_and_a_record_without_one_says_so():
    from tunewright.contract.records import Record
    from tunewright.contract.task import EncodeOptions

    with pytest.raises(RowProblem, match="nobody says what a window is"):
        TASK.encode(Record({}, id="a"), None, EncodeOptions())
    with pytest.raises(RowProblem, match="the row holds no trajectory"):
        TASK.encode(Record({}, id="a"), None, EncodeOptions(trajectories=_policies.options(policy().config, None)))
    assert SAYS["return_scale"] == policy().config.return_scale
