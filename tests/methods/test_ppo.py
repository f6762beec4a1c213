"""ppo and reinforce: the published formulas in plain loops, through the slots that the loop calls."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Row
from tunewright.contract.method import Method
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.reinforcement._policy import clipped_loss
from tunewright.methods.reinforcement.ppo import PPO, advantages_of, value_loss, whitened
from tunewright.methods.reinforcement.reinforce import Reinforce, others_mean
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

ROOT = Path(__file__).parents[2]


class Even(Method):
    """1 for each even token."""

    def reward(self, samples):
        return [[float(i % 2 == 0) for i in s.ids] for s in samples]


class Whole(Method):
    """The same, given for the whole answer."""

    def reward(self, samples):
        return [sum(i % 2 == 0 for i in s.ids) for s in samples]


def prompts(n: int = 8) -> list[Row]:
    made = []
    for row in text_rows(n):
        fields = {"prompt_ids": list(row.input_ids[:2]), "reference": "1"}
        made.append(Row(row.id, row.source, row.input_ids, row.weights, fields=fields))
    return made


def started(method: Method, reward: Method | None = None, beside=None, **changes) -> Run:
    named = {**(beside or {}), "it": method, "even": reward or Even()}
    return Run(named, sources={"new": prompts()}, **changes)


def by_sums(rewards, values, gamma, lam):
    """A_t = sum over k of (gamma lambda)^k (r_(t+k) + gamma V_(t+k+1) - V_(t+k)), term by term."""
    values = [*values, 0.0]
    deltas = [r + gamma * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))]


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_advantages_are_the_discounted_sum_of_what_values_did_not_foresee(gamma, lam):
    draw = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 7, generator=draw, dtype=torch.float64).tolist()
    found, targets = advantages_of(rewards, values, gamma, lam)
    assert found == pytest.approx(by_sums(rewards, values, gamma, lam))
    assert targets == pytest.approx([a + v for a, v in zip(found, values, strict=True)])
    if lam == 1.0:
        returns = [sum(gamma**k * r for k, r in enumerate(rewards[t:])) for t in range(7)]
        assert targets == pytest.approx(returns), "at lambda 1 the target is the sampled return, whatever V says"
    if lam == 0.0:
        assert targets == pytest.approx([r + gamma * v for r, v in zip(rewards, [*values[1:], 0.0], strict=True)])


def test_whitening_has_trls_numbers():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    mean, variance = 4.0, (9 + 4 + 0 + 25) / 3
    assert whitened(values).tolist() == pytest.approx(
        [(v - mean) / math.sqrt(variance + 1e-8) for v in values.tolist()]
    )
    assert whitened(torch.tensor([3.0])).tolist() == [0.0]


def test_a_value_is_moved_no_further_than_the_clip_at_a_time():
    now = torch.tensor([0.5, 0.1, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    before, target = torch.zeros(4, dtype=torch.float64), torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    loss, held = value_loss(now, before, target, 0.2)
    both = zip(now.tolist(), target.tolist(), strict=True)
    by_hand = [max((n - t) ** 2, (min(max(n, -0.2), 0.2) - t) ** 2) / 2 for n, t in both]
    assert loss.tolist() == pytest.approx(by_hand) and held.tolist() == [1.0, 0.0, 0.0, 0.0]
    loss.sum().backward()
    assert now.grad[0] == 0, "it went as far as it may"
    assert now.grad[1:].tolist() == pytest.approx([-0.9, -1.5, 2.0])


def log_probs_alone(model, row: Row, temperature: float) -> tuple[list[float], torch.Tensor]:
    """Of a row's answer by a plain forward in fp64, and the states before its tokens."""
    start, exact = len(row.input_ids) - int(sum(row.weights)), copy.deepcopy(model).double().eval()
    with torch.no_grad():
        out = exact(torch.tensor([list(row.input_ids)]), output_hidden_states=True)
    said = (out.logits[0] / temperature).log_softmax(-1)[start - 1 : -1]
    picked = said.gather(-1, torch.tensor(row.input_ids[start:])[:, None])[:, 0].tolist()
    return picked, out.hidden_states[-1][0, start - 1 : -1]


def test_a_step_is_the_published_one_token_by_token():
    method = PPO(
        samples=2, max_new_tokens=4, temperature=0.7, beta=0.3, gamma=0.9, lam=0.6, clip=0.1, value_clip=0.05, reuse=3
    )
    run, seen = started(method, beside={"full": FullFineTuning()}, steps=1), []
    loop_of = SimpleNamespace(loop=None)

    def listen(loop):
        loop_of.loop = loop

    run.stage.listen = lambda loop, record: (seen.append(record), listen(loop))
    base = copy.deepcopy(run.adapted.model)
    run.train()
    loop = loop_of.loop
    with torch.no_grad():  # a policy and a value head that are no longer those that sampled
        for p in loop.trained.parameters().values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        loop.trained.write_back()
    loop.rollouts.left = 0
    taken, _ = loop.rollouts.take()
    rows, now = [row for row, _ in taken], loop.adapted.model
    head = run.state("it").value
    flat, told = [], []
    for row in rows:
        old, states = log_probs_alone(now, row, 0.7)
        q, _ = log_probs_alone(base, row, 0.7)
        start = len(row.input_ids) - len(old)
        value = (states @ head.weight[0].double() + head.bias.double()).tolist()
        rewards = [float(i % 2 == 0) - 0.3 * (p - r) for i, p, r in zip(row.input_ids[start:], old, q, strict=True)]
        above = by_sums(rewards, value, 0.9, 0.6)
        told.append((old, q, value, [a + v for a, v in zip(above, value, strict=True)]))
        flat += above
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in flat) / (len(flat) - 1) + 1e-8)
    white = iter((a - mean) / deviation for a in flat)
    with torch.no_grad():  # and once more: now rho is not 1
        for p in loop.trained.parameters().values():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
        loop.trained.write_back()
    terms, kls = [], []
    for row, (old, q, value, target) in zip(rows, told, strict=True):
        new, states = log_probs_alone(now, row, 0.7)
        v = (states @ head.weight[0].double() + head.bias.double()).tolist()
        for t in range(len(old)):
            ratio, a = math.exp(new[t] - old[t]), next(white)
            held = value[t] + min(max(v[t] - value[t], -0.05), 0.05)
            policy = max(-ratio * a, -min(max(ratio, 0.9), 1.1) * a)
            terms.append(policy + 0.1 * 0.5 * max((v[t] - target[t]) ** 2, (held - target[t]) ** 2))
            kls.append(new[t] - q[t])
    record = loop.gradients(taken)
    assert record["loss"] == pytest.approx(sum(terms) / len(terms), rel=1e-3, abs=1e-4)
    assert record["kl/it"] == pytest.approx(sum(kls) / len(kls), rel=1e-3, abs=1e-4)
    assert 0 < record["clipped/it"] < 1 and 0 < record["value_clipped/it"] < 1


def test_the_clip_is_grpos():
    log_probs = torch.tensor([0.5, -0.5], requires_grad=True)
    loss, _ = clipped_loss(log_probs, torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2)
    assert loss.tolist() == pytest.approx([-1.2, -math.exp(-0.5)])


def test_before_anything_moved_the_values_are_zero_and_the_policy_is_the_reference():
    record = Tiny([("ppo", PPO(samples=4, max_new_tokens=4)), ("even", Even())], steps=1).run().records[0]
    assert record["kl/ppo"] == pytest.approx(0, abs=1e-6) and record["clipped/ppo"] == record["value_clipped/ppo"] == 0


def test_the_value_head_learns_what_answers_earn_and_is_no_part_of_the_result():
    class One(Method):
        def reward(self, samples):
            return [1.0] * len(samples)

    method = PPO(samples=4, max_new_tokens=3, beta=0.0, value_weight=1.0, value_clip=10.0, lam=1.0)
    run = started(method, One(), steps=60, beside={"full": FullFineTuning()})
    loop = run.train()
    assert run.records[0]["value_loss/it"] == pytest.approx(0.5) and run.records[-1]["value_loss/it"] < 0.1
    assert not [n for n in loop.adapted.model.state_dict() if "value" in n]
    assert {n for n in loop.trained.owned} == {"it.value.weight", "it.value.bias"}


@pytest.mark.parametrize("reference, same", [("start", 0.0), ("base", None)])
@pytest.mark.parametrize("kind", [PPO, Reinforce])
def test_the_reference_is_the_base_or_what_the_stage_started_with(kind, reference, same):
    """A model that an earlier stage moved: its divergence from itself is 0, that from the base is not."""

    def make(listen=None):
        run = started(
            kind(samples=2, max_new_tokens=4, reference=reference, **({"reuse": 1} if kind is PPO else {})),
            beside={"lora": LoRA(rank=2)},
            steps=3,
            listen=listen,
        )
        with torch.no_grad():
            for parts in run.adapted.deltas().values():
                for delta in parts.values():
                    for p in delta.parameters():
                        p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        return run

    run = make()
    run.train()
    kls = [r["kl/it"] for r in run.records]
    assert kls[0] == pytest.approx(0, abs=1e-5) if same == 0.0 else abs(kls[0]) > 0.01
    assert abs(kls[-1]) > 1e-4, "the start stays where it was while the model moves"
    assert_resumes(make, 2)


def test_weights_of_the_base_are_held_to_the_start_too():
    method = PPO(samples=2, max_new_tokens=4, reference="start", reuse=2)
    run = started(method, beside={"full": FullFineTuning()}, steps=4)
    run.train()
    assert run.records[0]["kl/it"] == pytest.approx(0, abs=1e-5) and abs(run.records[-1]["kl/it"]) > 1e-4
    assert_resumes(lambda listen: started(method, beside={"full": FullFineTuning()}, steps=4, listen=listen), 3)


def test_a_reward_of_the_whole_answer_lies_at_its_last_token():
    run = started(PPO(samples=1, max_new_tokens=4, beta=0.0, gamma=1.0, lam=0.0, whiten=False), Whole(), steps=1)
    held = []
    run.stage.listen = lambda loop, record: held.extend(loop.rollouts.held)
    run.train()
    for row, _ in held:
        carried = row.fields["carried"]
        *before, last = carried["target"]
        assert before == [0.0] * len(before) and last == sum(i % 2 == 0 for i in row.input_ids[-len(before) - 1 :])


def test_a_model_without_a_linear_language_head_is_refused():
    with pytest.raises(MethodError, match="language head is no linear layer"):
        model = tiny.llama()
        model.set_output_embeddings(torch.nn.Identity())
        PPO().setup(SimpleNamespace(adapted=SimpleNamespace(model=model)))


@pytest.mark.slow
def test_reft_warms_up_and_then_holds_to_what_the_warm_up_left(tmp_path, monkeypatch):
    """The recipe reft-rl.yaml on sums of two digits, on a tiny base."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.llama().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    problems = [{"prompt": f"{a} + {b}", "completion": f"so {a + b}"} for a in range(6) for b in range(6)]
    for name, some in (("problems", problems[:28]), ("problems-test", problems[28:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    text = (ROOT / "recipes" / "reft-rl.yaml").read_text().replace("smollm2-135m-instruct", "./base")
    (tmp_path / "reft-rl.yaml").write_text(text)
    quick = ["train.batch_tokens=256", "train.threads=1", "stages.0.budget.steps=40", "stages.0.budget.epochs=null"]
    quick += ["stages.0.train.learning_rate=1e-2", "stages.1.train.batch_tokens=128", "stages.1.budget.steps=4"]
    quick += ["stages.1.budget.epochs=null", "measurement.max_new_tokens=6", "measurement.strengths=[1.0]"]
    quick += ["stages.1.methods.1.ppo.max_new_tokens=6", "measurement.drift_sequences=2", "measurement.drift_tokens=8"]
    out = run(tmp_path / "reft-rl.yaml", out=tmp_path / "out", quiet=True, sets=quick).folder
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    second = [x for x in lines if x["stage"] == "reinforced"]
    assert [("reward" in x) for x in second] == [True, False, True, False], "each set of samples is trained on twice"
    assert second[0]["kl/ppo"] == pytest.approx(0, abs=1e-4), "it begins as the reference: what the warm-up left"
    assert 0 <= second[0]["reward/numeric-answer"] <= 1
    sft = load_file(out / "stages" / "warm-up" / "trained.safetensors")
    assert any(float(t.abs().max()) > 0 for t in sft.values()), "and that is not the base"


@pytest.mark.parametrize("budget", [{"epochs": 1}, {"tokens": 200}, {"steps": 5}])
def test_a_budget_of_rows_counts_each_once_however_often_its_samples_are_trained_on(tmp_path, monkeypatch, budget):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path, train=20, test=2)
    methods = ["lora", {"ppo": {"reuse": 3, "max_new_tokens": 2}}, "exact-answer"]
    quick = {"strengths": [1.0], "drift_sequences": 2, "drift_tokens": 4}
    file = small.write_recipe(
        tmp_path, stages__0__methods=methods, stages__0__budget=budget, measurement=quick, train__batch_tokens=128
    )
    session = assemble(Recipe.load(file))
    sizes = [row.size for row in session.stages[0].rows.rows]
    planned = session.plan(session.stages[0])
    done = run(file, out=tmp_path / "out", quiet=True)
    records = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    read = [r["num_tokens"] for r in records]
    assert len(records) == planned.steps and planned.tokens == read[-1] == done.report.cost.tokens
    if "epochs" in budget:
        assert read[-1] == sum(sizes)
    assert len(records) == budget.get("steps", 3 * len(set(read))), "each set of samples is trained on three times"


# -- reinforce ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_compared_with_the_others_to_its_prompt():
    worth = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert others_mean(worth).tolist() == [[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]]


@pytest.mark.parametrize("baseline", ["leave-one-out", "moving-average", "none"])
def test_an_answers_loss_is_its_advantage_times_its_log_probability(baseline):
    method = Reinforce(samples=3, max_new_tokens=4, temperature=0.7, beta=0.4, baseline=baseline, momentum=0.75)
    run, held = started(method, beside={"full": FullFineTuning()}, steps=2), []
    base = copy.deepcopy(run.adapted.model)
    run.stage.listen = lambda loop, record: held.append((record, [r for r, _ in loop.rollouts.held]))
    models = [copy.deepcopy(run.adapted.model)]
    run.train()
    record, rows = held[0]
    worth, said = [], []
    for row in rows:
        p, _ = log_probs_alone(models[0], row, 0.7)
        q, _ = log_probs_alone(base, row, 0.7)
        reward = sum(i % 2 == 0 for i in row.input_ids[-len(p) :])
        worth.append(reward - 0.4 * (sum(p) - sum(q)))
        said.append(sum(p))
    if baseline == "leave-one-out":
        groups = [worth[i : i + 3] for i in range(0, len(worth), 3)]
        below = [(sum(g) - w) / 2 for g in groups for w in g]
    else:
        below = [sum(worth) / len(worth) if baseline == "moving-average" else 0.0] * len(worth)
    losses = [-(w - b) * s for w, b, s in zip(worth, below, said, strict=True)]
    assert record["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-3, abs=1e-4)
    if baseline == "moving-average":
        mean = sum(worth) / len(worth)
        second = [r.fields["carried"]["advantage"] for r in held[1][1]]
        rewards = [sum(i % 2 == 0 for i in r.input_ids[-int(sum(r.weights)) :]) for r in held[1][1]]
        away = [r.fields["carried"]["away"] for r in held[1][1]]
        then = [w - 0.4 * d for w, d in zip(rewards, away, strict=True)]
        assert second == pytest.approx([w - mean for w in then], abs=1e-4)
        after = 0.75 * mean + 0.25 * sum(then) / len(then)
        assert run.state("it").data["average"] == pytest.approx(after, abs=1e-4)


def test_one_answer_has_no_others():
    with pytest.raises(ValidationError, match="no others to compare with"):
        Reinforce(samples=1)
    assert Reinforce(samples=1, baseline="none").samples == 1
