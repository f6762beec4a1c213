"""grpo: the published formulas in fp64, the clip, the hold on the base; and that rewards, not chance, teach."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Cursor, spec
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.combining import bind
from tunewright.contract.method import Method, Needs, Plan
from tunewright.contract.needs import NeedContext, Provider
from tunewright.measure.intervals import paired_difference
from tunewright.methods.reinforcement._policy import clipped_loss
from tunewright.methods.reinforcement.exact_answer import ExactAnswer, exact_answer
from tunewright.methods.reinforcement.grpo import GRPO, advantages, divergence
from tunewright.methods.reinforcement.numeric_answer import NumericAnswer, last_number, numeric_answer
from tunewright.methods.reinforcement.ppo import PPO
from tunewright.methods.reinforcement.reinforce import Reinforce
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task
from tunewright.training.setting_up import set_up
from tunewright.training.stage import TrainingInputs
from tunewright.training.train import train


def test_advantages_are_in_the_groups_own_deviations():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    deviation = math.sqrt(4 * 0.25 / 3)
    assert advantages(rewards)[0].tolist() == pytest.approx([s * 0.5 / (deviation + 1e-4) for s in (1, -1, -1, 1)])
    assert advantages(rewards)[1].tolist() == [0.0] * 4, "a group of equals teaches nothing"
    assert advantages(rewards, scale=False)[0].tolist() == [0.5, -0.5, -0.5, 0.5]


def test_the_clip_takes_the_gradient_from_what_went_far_enough_and_from_nothing_else():
    change = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    loss, held = clipped_loss(change, torch.zeros(5, dtype=torch.float64), advantage, 0.2)
    ratio = change.detach().exp()
    assert loss.tolist() == pytest.approx([-1.2, -float(ratio[1]), float(ratio[2]), 0.8, -float(ratio[4])])
    loss.sum().backward()
    assert change.grad.tolist() == pytest.approx([0.0, -float(ratio[1]), float(ratio[2]), 0.0, -float(ratio[4])])
    assert held.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_at_the_sampling_policy_the_gradient_is_that_of_the_policy_gradient():
    log_probs = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    clipped_loss(log_probs, log_probs.detach(), torch.tensor([2.0, -1.0], dtype=torch.float64), 0.2)[0].sum().backward()
    assert log_probs.grad.tolist() == [-2.0, 1.0]


def test_the_divergence_estimates_kl_and_is_never_negative():
    rng = torch.Generator().manual_seed(0)
    p, q = (torch.randn(50, generator=rng, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    assert bool((divergence(p, q) >= 0).all()) and divergence(p, p).abs().max() == 0
    assert float((p.exp() * divergence(p, q)).sum()) == pytest.approx(float((p.exp() * (p - q)).sum())), (
        "unbiased under p"
    )


def test_a_samples_loss_is_its_tokens_mean():
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, rows = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 0, 0, 1, 1])
    old, reference, advantage = (
        torch.randn(n, generator=torch.Generator().manual_seed(n)) / 4 - 2.5 for n in (5, 5, 2)
    )
    batch = Batch(
        {},
        labels,
        torch.ones(5),
        rows,
        ["a#0", "a#1"],
        ["s"] * 2,
        5,
        fields={"advantage": advantage, "sampled_log_probs": old},
    )
    for temperature in (1.0, 0.5):
        told = GRPO(clip=0.1, beta=0.3, temperature=temperature).objective(
            Outputs(logits, labels), batch, Needs({"reference_log_probs": reference})
        )
        p = F.log_softmax(logits / temperature, -1)[torch.arange(5), labels]
        for i in range(2):
            terms = []
            for t in range(5):
                if rows[t] == i:
                    ratio, away = math.exp(p[t] - old[t]), float(reference[t] - p[t])
                    a = float(advantage[i])
                    terms.append(-min(ratio * a, min(max(ratio, 0.9), 1.1) * a) + 0.3 * (math.exp(away) - away - 1))
            assert float(told.value[i]) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_the_first_step_on_fresh_samples_is_on_policy_and_the_base():
    r = (
        Tiny([("grpo", GRPO(samples=4, max_new_tokens=4, reuse=2)), ("numeric-answer", NumericAnswer(near=1.0))])
        .run()
        .records
    )
    assert r[0]["clipped/grpo"] == 0 and r[0]["kl/grpo"] == pytest.approx(0, abs=1e-6) and "reward" in r[0]
    assert r[1]["clipped/grpo"] > 0 and r[1]["kl/grpo"] > 0 and "reward" not in r[1]


@pytest.mark.parametrize(
    "said, reference, reward",
    [("42", "42", 1.0), (" 4 2\n", "4 2", 1.0), ("43", "42", 0.25), ("", "42", 0.0), ("\uff14\uff12", "42", 1.0)],
)
def test_exact_answer(said, reference, reward):
    assert exact_answer(said, reference, partial=0.5) == reward
    assert exact_answer(said, reference) == float(reward == 1)


@pytest.mark.parametrize(
    "text, number",
    [
        ("so 3 + 4 = 7.", "7"),
        ("#### 1,250", "1250"),
        ("it costs $1,250.50!", "1250.50"),
        ("-3", "-3"),
        ("from 5 to \u22122", "-2"),
        ("none", None),
        ("x2", None),
        ("10-3", "3"),
        ("0.1", "0.1"),
    ],
)
def test_the_last_number_of_a_text(text, number):
    found = last_number(text)
    assert (None if found is None else str(found)) == number


def test_numeric_answer_asks_for_no_format_and_may_tell_how_near_it_is():
    assert numeric_answer("She pays 0.30 dollars", "#### 0.3") == 1.0 and numeric_answer("0.1", "0.2") == 0.0
    assert numeric_answer("9", "10", near=0.5) == 0.25 and numeric_answer("9", "10", tolerance=1) == 1.0
    assert numeric_answer("9", "10", parsed=0.1) == 0.1 and numeric_answer("none", "10", parsed=0.1) == 0.0
    assert numeric_answer("10", "10", parsed=0.1) == 1.0 and numeric_answer("9", "10", near=0.5, parsed=0.1) == 0.25
    assert NumericAnswer(parsed=0.1).reward(
        [SimpleNamespace(text="9", prompt=Row("r", "s", fields={"reference": "10"}))]
    )[0] == pytest.approx(0.1)
    assert numeric_answer("nothing", "10", near=0.5) == 0.0 and numeric_answer("1", "nothing") == 0.0


# -- what it teaches ---------------------------------------------------------------------------------------------------

DIGITS, PLUS, IS, END = list(range(10, 20)), 20, 21, tiny.EOS


PAIRS = random.Random(0).sample([(a, b) for a in range(10) for b in range(10)], 100)
TRAINED, HELD_OUT = PAIRS[:50], PAIRS[50:]


def first_of_two(pairs: list[tuple[int, int]]) -> list[Row]:
    """Rows `a + b =` to be answered with a, one token a digit."""
    rows = []
    for a, b in pairs:
        prompt, answer = [DIGITS[a], PLUS, DIGITS[b], IS], [DIGITS[a], END]
        fields = {"prompt_ids": prompt, "reference": str(answer[0])}
        rows.append(Row(f"first:{a}:{b}", "first", [*prompt, *answer], [0.0] * 4 + [1.0] * 2, fields=fields))
    return rows


class ShuffledAnswer(Method):
    """The same rewards, dealt to the samples of a step at random: as many, telling nothing."""

    def reward(self, samples):
        values = ExactAnswer().reward(samples)
        random.Random(samples[0].prompt.id).shuffle(values)
        return values


def half_taught() -> torch.nn.Module:
    """A tiny model that has seen the task with most answers drawn at random: it gives the right one sometimes."""
    model, task, rng = tiny.llama(hidden=32), get_task("text-generation"), random.Random(0)
    rows = []
    for row in 20 * first_of_two(TRAINED):
        ids = list(row.input_ids)
        if rng.random() < 0.6:
            ids[4] = rng.choice(DIGITS)
        rows.append(Row(row.id, row.source, ids, row.weights))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        batch = task.collate(rng.sample(rows, 64))
        task.loss(task.forward(model, batch), batch).value.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def reinforced(model, reward: Method, seed: int, loop: Method) -> torch.nn.Module:
    adapted, task = Adapted(model), get_task("text-generation")
    methods = bind([("grpo", loop), ("reward", reward)], seed, "main")
    plan = Plan(40, 10_000, "main", 0, 2e-3, 0)
    provider = Provider(NeedContext(adapted, task, seed))
    set_up(adapted, methods, plan, task.name, provider.statistics)
    budget = SimpleNamespace(tokens=None, steps=None, seconds=None, flops=None)
    stage = TrainingInputs(
        adapted,
        task,
        methods,
        Cursor({"first": first_of_two(TRAINED)}, 16, seed),
        plan,
        spec(learning_rate=2e-3, seed=seed),
        budget,
        provider.signals,
    )
    return train(stage).adapted.model


def right(model) -> list[float]:
    """Expected reward on the held-out pairs: the probability of the right answer and its end."""
    rows = first_of_two(HELD_OUT)
    with torch.no_grad():
        logits = model(torch.tensor([list(r.input_ids) for r in rows])).logits.log_softmax(-1)
    return [float((logits[i, 3, r.input_ids[4]] + logits[i, 4, END]).exp()) for i, r in enumerate(rows)]


ALIKE: dict[str, object] = {"samples": 8, "max_new_tokens": 2, "beta": 0.01}
LOOPS: dict[str, Method] = {
    "grpo": GRPO.model_validate(ALIKE),
    "reinforce": Reinforce.model_validate(ALIKE),
    "ppo": PPO.model_validate({**ALIKE, "reuse": 1}),
}
"""The loops over rewards, with as many samples and steps each."""


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_reward_rises_with_the_rewards_and_not_with_shuffled_ones(loop, seed):
    base = right(half_taught())
    taught, shuffled = (
        paired_difference(base, right(reinforced(half_taught(), r, seed, LOOPS[loop])))
        for r in (ExactAnswer(), ShuffledAnswer())
    )
    assert taught.low > 0.3, taught
    assert shuffled.low <= 0 and shuffled.value < 0.1, shuffled


def measured(seeds: int = 4) -> str:
    """The table in docs/reinforcement.md: `python -m tests.methods.test_grpo`."""
    base = right(half_taught())
    lines = [f"| base | {sum(base) / len(base):.3f} | |"]
    for loop in LOOPS:
        for name, reward in (("right answers rewarded", ExactAnswer()), ("the same, shuffled", ShuffledAnswer())):
            for seed in range(seeds):
                after = right(reinforced(half_taught(), reward, seed, LOOPS[loop]))
                d = paired_difference(base, after)
                lines.append(
                    f"| {loop}, {name}, seed {seed} | {sum(after) / len(after):.3f} | {d.value:+.3f} [{d.low:+.3f}, "
                    f"{d.high:+.3f}] |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    print(measured())
