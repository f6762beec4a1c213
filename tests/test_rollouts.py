"""Generation in the loop: what is sampled, how it is scored, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field

from tests import tiny
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Loss, Row
from tunewright.contract.combining import check_conflicts
from tunewright.contract.method import Method
from tunewright.errors import DataError, MethodError
from tunewright.measure.generate import greedy
from tunewright.measure.sampled import sampled
from tunewright.models.agreement import differing
from tunewright.tasks import get_task
from tunewright.training.rollouts import Rollout, Sample, carried, checked


class Told(Method):
    """Three samples a prompt, kept as rows with their reward."""

    _seen: ClassVar[list[Any]] = []

    def rollout(self, prompts, generate, score):
        groups = generate(3, 4)
        rewards = score([s for g in groups for s in g])
        self._seen.append((prompts, groups, rewards))
        return Rollout(
            [
                (i, s.row(reward=r))
                for (i, s), r in zip(((i, s) for i, g in enumerate(groups) for s in g), rewards, strict=True)
            ]
        )

    def objective(self, outputs, batch):
        return Loss(-outputs.log_probs() * batch.fields["reward"][batch.rows])


class Length(Method):
    weight: float = Field(1.0, description="in the sum")

    def reward(self, samples):
        return torch.tensor([len(s.ids) for s in samples])


class Half(Method):
    weight: float = Field(2.0, description="in the sum")

    def reward(self, samples):
        return [0.5] * len(samples)


def prompts() -> list[list[int]]:
    return [[5, 6, 7], [5, 6], [9, 10, 11, 12], [5, 6, 7]]


def rngs(n: int) -> list[random.Random]:
    return [random.Random(f"r{i}") for i in range(n)]


def test_a_samples_log_probabilities_are_those_of_the_model_that_drew_it():
    model = tiny.llama()
    for temperature in (1.0, 0.5):
        answers = sampled(model, prompts(), 6, rngs=rngs(4), stop_ids=[tiny.EOS], temperature=temperature)
        for prompt, (ids, told) in zip(prompts(), answers, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / temperature
            assert told == pytest.approx(
                logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-4
            )


def test_draws_belong_to_the_row_not_to_the_batch_and_follow_the_softmax():
    model = tiny.llama()
    together = sampled(model, prompts(), 5, rngs=rngs(4), stop_ids=[])
    alone = [sampled(model, [p], 5, rngs=[r], stop_ids=[])[0] for p, r in zip(prompts(), rngs(4), strict=True)]
    assert [a for a, _ in together] == [a for a, _ in alone]
    assert together[0][0] != together[3][0], "equal prompts have their own draws"
    many = sampled(model, [[5, 6]] * 4000, 1, rngs=[random.Random(i) for i in range(4000)], stop_ids=[])
    with torch.no_grad():
        p = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([a[0] for a, _ in many]), minlength=len(p)) / 4000
    assert float((counts - p).abs().sum()) < 0.35 and float((counts - 1 / len(p)).abs().sum()) > 0.5


def test_a_cold_sample_is_the_greedy_answer_and_stops_at_its_end():
    model = tiny.llama()
    cold = sampled(model, prompts(), 8, rngs=rngs(4), stop_ids=[], temperature=1e-4)
    assert [a for a, _ in cold] == greedy(model, None, prompts(), 8, stop_ids=[])
    first = cold[0][0][0]
    stopped = sampled(model, prompts(), 8, rngs=rngs(4), stop_ids=[first], temperature=1e-4)
    assert stopped[0][0] == [first] and greedy(model, None, prompts()[:1], 8, stop_ids=[first]) == [[]]


def test_without_a_plain_cache_the_same_is_drawn(monkeypatch):
    model = tiny.llama()
    kept = sampled(model, prompts(), 4, rngs=rngs(4), stop_ids=[tiny.EOS])
    monkeypatch.setattr("tunewright.measure._kv.caches_plainly", lambda m: False)
    whole = sampled(model, prompts(), 4, rngs=rngs(4), stop_ids=[tiny.EOS])
    assert [a for a, _ in kept] == [a for a, _ in whole]
    assert [x for _, v in kept for x in v] == pytest.approx([x for _, v in whole for x in v], abs=1e-4)


def test_rewards_are_summed_by_their_weights_and_logged():
    told = Told()
    told._seen.clear()
    t = Tiny([("told", told), ("length", Length()), ("half", Half())], steps=2).run()
    prompts, groups, rewards = told._seen[0]
    assert all(isinstance(p, Row) for p in prompts) and [len(g) for g in groups] == [3] * len(prompts)
    assert rewards == [len(s.ids) + 2 * 0.5 for g in groups for s in g]
    r = t.records[0]
    assert (
        r["reward/half"] == 0.5
        and r["reward"] == pytest.approx(r["reward/length"] + 1.0)
        and r["sample_length"] == r["reward/length"]
    )
    assert r["num_tokens"] == sum(p.size for p in prompts), "budgets count the data"


def test_the_model_is_sampled_as_it_is_at_that_step():
    told = Told()
    told._seen.clear()
    t = Tiny([("told", told), ("half", Half())], steps=1)
    before = t.loop.adapted.model
    t.run()
    _, groups, _ = told._seen[0]
    fresh = Tiny([("told", Told()), ("half", Half())]).adapted.model
    sample = groups[0][0]
    prompt = list(sample.prompt.fields["prompt_ids"])
    with torch.no_grad():
        at_start, now = (
            m(torch.tensor([prompt + list(sample.ids)])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for m in (fresh, before)
        )
    picked = torch.tensor(sample.ids)[:, None]
    assert list(sample.log_probs) == pytest.approx(at_start.gather(-1, picked)[:, 0].tolist(), abs=1e-4)
    assert list(sample.log_probs) != pytest.approx(now.gather(-1, picked)[:, 0].tolist(), abs=1e-4)


def test_carried_numbers_lie_with_their_rows_and_targets():
    row = Row("r", "s", fields={"prompt_ids": [1, 2]})
    samples = [Sample(row, 0, (3, 4), (-1.0, -2.0), "", False), Sample(row, 1, (5,), (-3.0,), "", True)]
    rows = [s.row(good=float(i), old=s.log_probs) for i, s in enumerate(samples)]
    batch = carried(get_task("text-generation").collate(rows), rows)
    assert batch.fields["good"].tolist() == [0.0, 1.0] and batch.fields["old"].tolist() == [-1.0, -2.0, -3.0]
    assert batch.labels.tolist() == [3, 4, 5] and batch.row_ids == ["r#0", "r#1"]


def test_rows_trained_on_again_outlive_a_stop():
    from tunewright.methods.reinforcement.grpo import GRPO
    from tunewright.methods.reinforcement.numeric_answer import NumericAnswer

    named = [("grpo", GRPO(samples=3, max_new_tokens=3, reuse=3)), ("numeric-answer", NumericAnswer(near=1.0))]
    whole = Tiny(named, steps=5, keep=(1, 2, 3, 4)).run()
    assert [len(s[0]["rollouts"]["held"]) > 0 for s in whole.saved.values()] == [True, True, False, True]
    for step, saved in whole.saved.items():
        again = whole.resumed(saved)
        assert not differing(whole.tensors(), again.tensors()) and again.records == whole.records[step:]


@pytest.mark.parametrize(
    "values, says",
    [
        ([1.0], "gave 1 numbers for 2 samples"),
        ([1.0, float("nan")], "gave nan for the sample 'b'"),
        (torch.tensor([float("inf"), 0]), "gave inf for the sample 'a'"),
        ([1.0, None], "gave None"),
    ],
)
def test_a_reward_that_is_no_number_a_sample_is_one_clear_error(values, says):
    row = Row("train.jsonl:3", "train")
    samples = [Sample(row, 0, (1,), (0.0,), "a", False), Sample(row, 1, (1,), (0.0,), "b", False)]
    with pytest.raises(MethodError, match=says) as error:
        checked(values, samples, "mine")
    assert "'mine'" in str(error.value) and error.value.remedy


def test_a_rollout_without_prompts_to_answer_names_the_row():
    t = Tiny([("told", Told()), ("half", Half())])
    t.loop.stage.rows.next_batch = lambda: [(Row("plain:7", "plain", [1, 2, 3], [1.0] * 3), 0)]
    with pytest.raises(DataError, match="plain:7"):
        t.loop.one_step()


def test_rewards_and_rollouts_need_each_other():
    from tunewright.methods.reinforcement.exact_answer import ExactAnswer
    from tunewright.methods.reinforcement.grpo import GRPO

    for alone in ([("grpo", GRPO())], [("exact-answer", ExactAnswer())]):
        with pytest.raises(MethodError, match=f"'{alone[0][0]}'"):
            check_conflicts(alone, stage="main")


def test_no_rollout_no_cost():
    t = Tiny([])
    assert t.loop.rollouts is None and t.loop.state()[0]["rollouts"] is None
