"""model-reward: what a reward model says of samples, each read once; whole runs with a reward model that a run made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tests.tasks.test_reward_modeling import alone, recipe_of, scorer, write_pairs
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Row
from tunewright.contract.method import Method, Needs
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import CheckpointError, Interrupted, MethodError, ModelError
from tunewright.finished.export import export
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.reinforcement.grpo import GRPO
from tunewright.methods.reinforcement.model_reward import ModelReward, earned
from tunewright.methods.reinforcement.ppo import PPO
from tunewright.models.adapted import Adapted
from tunewright.models.flops import counting
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan as plan_of
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run
from tunewright.tasks import get_task
from tunewright.training.judging import Judge
from tunewright.training.rollouts import Sample

ROOT = Path(__file__).parents[2]


def sample(prompt, ids, text="", ended=False, number=0) -> Sample:
    row = Row("p:1", "p", fields={"prompt_ids": list(prompt), "reference": ""})
    return Sample(row, number, tuple(ids), (0.0,) * len(ids), text, ended)


def judge_of(model, tokenizer=None, own=None) -> Judge:
    return Judge("judge", Adapted(model, own), tokenizer)


SAMPLES = [sample([9, 10], [11, 12, 13]), sample([9, 10], [14]), sample([8], [11, 12]), sample([9, 10], [11, 12, 13])]


def test_a_sample_gets_what_the_model_says_of_prompt_and_answer():
    model = scorer()
    given = judge_of(model).scores(SAMPLES)
    for s, (score,) in zip(SAMPLES, given, strict=True):
        assert score == pytest.approx(alone(model, [*s.prompt.fields["prompt_ids"], *s.ids]), abs=1e-4)
    each = judge_of(model).scores(SAMPLES, each=True)
    for s, scores in zip(SAMPLES, each, strict=True):
        prompt = s.prompt.fields["prompt_ids"]
        whole = [alone(model, [*prompt, *s.ids[:t]]) for t in range(len(s.ids) + 1)]
        assert scores == pytest.approx(whole, abs=1e-4)


def test_equal_samples_are_read_once_and_its_work_is_counted():
    judge, other = judge_of(scorer()), judge_of(scorer())
    with counting() as counted:
        judge.scores(SAMPLES)
    assert judge.read == 3 and counted.total > 0
    with counting() as alone_:
        other.scores(SAMPLES[:3])
    assert counted.total == alone_.total


@pytest.mark.parametrize("partial", ["none", "rise", "score"])
def test_partial_answers_earn_what_is_said(partial):
    model = scorer()
    method = ModelReward(models={"judge": 2.0, "other": -1.0}, partial=partial)
    needs = Needs({"reward_model": {"judge": judge_of(model), "other": judge_of(scorer(1))}})
    given = method.reward(SAMPLES[:2], needs)
    for s, value in zip(SAMPLES, given, strict=False):
        prompt = s.prompt.fields["prompt_ids"]
        steps = [
            2 * alone(model, [*prompt, *s.ids[:t]]) - alone(scorer(1), [*prompt, *s.ids[:t]])
            for t in range(len(s.ids) + 1)
        ]
        if partial == "none":
            assert value == pytest.approx(steps[-1], abs=1e-4)
        elif partial == "score":
            assert value == pytest.approx(steps[1:], abs=1e-4)
        else:
            assert value == pytest.approx([b - a for a, b in zip(steps, steps[1:], strict=False)], abs=1e-4)
            assert sum(value) == pytest.approx(steps[-1] - steps[0], abs=1e-4)
    assert earned([1.0, 3.0, 2.0], "rise") == [2.0, -1.0] and earned([1.0, 3.0, 2.0], "score") == [3.0, 2.0]


def test_another_tokenizer_reads_the_text():
    ours, theirs, model = tiny.tokenizer(chat=False), tiny.tokenizer(chat=False), scorer()
    theirs.add_tokens(["the card"])
    model.resize_token_embeddings(len(theirs), mean_resizing=False)
    judge = judge_of(model, ours, theirs)
    prompt = ours("Which topic?", add_special_tokens=False)["input_ids"]
    said = " of the card"
    (score,) = judge.scores([sample(prompt, ours(said)["input_ids"], said)])
    read = [*theirs("Which topic?")["input_ids"], *theirs(said)["input_ids"], tiny.EOS]
    assert len(theirs(said)["input_ids"]) < len(ours(said)["input_ids"])
    assert score == pytest.approx([alone(model, read)], abs=1e-4)
    (empty,) = judge.scores([sample(prompt, [tiny.EOS], "", True)])
    assert empty == pytest.approx([alone(model, theirs("Which topic?")["input_ids"])], abs=1e-4)
    with pytest.raises(MethodError, match="no score after each sampled token"):
        judge.scores([sample(prompt, [9])], each=True)
    chat = tiny.tokenizer().apply_chat_template([{"role": "user", "content": "a"}], add_generation_prompt=True)
    with pytest.raises(MethodError, match="chat template"):
        judge.check(Row("r", "r", fields={"prompt_ids": chat["input_ids"]}), each=False)


class Counting(Method):
    """A reward that notes what it was asked."""

    def reward(self, samples, state):
        state.data.setdefault("asked", []).extend([s.prompt.id, s.number] for s in samples)
        return [float(len(s.ids)) for s in samples]


class Asking(GRPO):
    """Asks for rewards more often than it needs them."""

    def rollout(self, generate, score, token_rewards):
        groups = generate(self.samples, self.max_new_tokens, self.temperature)
        flat = [s for g in groups for s in g]
        first, again, tokens = score(flat), score(flat[:2]), token_rewards(flat)
        assert first[:2] == again and first == [sum(t) for t in tokens]
        assert all(t[:-1] == [0.0] * (len(t) - 1) for t in tokens), "it lies at the last token"
        return super().rollout(generate=lambda *a: groups, score=score)


def test_a_reward_sees_a_sample_once_however_often_it_is_asked_for():
    t = Tiny([("asking", Asking(samples=3, max_new_tokens=3, beta=0.0, reuse=2)), ("counting", Counting())], steps=2)
    t.run()
    asked = next(b.state.data["asked"] for b in t.loop.methods if b.name == "counting")
    assert len(asked) == len({tuple(a) for a in asked}) > 0, "and not again where samples are trained on again"


class Short(Method):
    def reward(self, samples):
        return [[0.0] * (len(s.ids) + 1) for s in samples]


def test_rewards_of_tokens_that_do_not_fit_the_sample_are_one_clear_error():
    with pytest.raises(MethodError, match="tokens of a sample") as error:
        Tiny([("grpo", GRPO(samples=2, max_new_tokens=3)), ("short", Short())]).run()
    assert "'short'" in str(error.value) and error.value.remedy


def judged(named, **changes) -> Run:
    rows = [
        Row(r.id, r.source, r.input_ids, r.weights, fields={"prompt_ids": list(r.input_ids[:2]), "reference": ""})
        for r in text_rows(8)
    ]
    return Run(named, sources={"new": rows}, judges={"judge": judge_of(scorer(3))}, **changes)


def test_it_composes_with_lora_and_resumes_to_the_same_bits():
    def make(listen):
        named = {"lora": LoRA(rank=2), "ppo": PPO(samples=2, max_new_tokens=3, reuse=2), "reward": ModelReward()}
        return judged(named, steps=5, listen=listen)

    for at in (2, 3):
        assert_resumes(make, at)


def test_what_is_rewarded_becomes_likelier():
    """Upwards with its weight, downwards against it."""
    for sign in (1.0, -1.0):
        named = {
            "full": FullFineTuning(),
            "ppo": PPO(samples=8, max_new_tokens=2, beta=0.0, reuse=2),
            "reward": ModelReward(models={"judge": sign}),
        }
        run_ = judged(named, steps=40, learning_rate=1e-2)
        run_.train()
        rewards = [r["reward"] for r in run_.records if "reward" in r]
        assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1, rewards


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A folder with a finished run of task reward-modeling (rm), its export (plain), and prompts."""
    folder = tmp_path_factory.mktemp("taught")
    write_pairs(folder)
    run(Recipe.load(recipe_of(folder)), folder / "rm", quiet=True)
    export(folder / "rm", folder / "plain")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    asked = [{"prompt": r["prompt"], "completion": "card"} for r in rows]
    for name, some in (("prompts", asked[:40]), ("asked", asked[40:48])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    return folder


def policy(folder: Path, judge: str, **changes) -> Path:
    given = {
        "task": "text-generation",
        "models": {"judge": judge},
        "keep": [],
        "data": {"train": "prompts.jsonl", "eval": "asked.jsonl", "max_length": 128},
        "train__batch_tokens": 96,
        "stages__0__methods": [{"lora": {"rank": 4}}, {"ppo": {"samples": 2, "max_new_tokens": 3}}, "model-reward"],
        **changes,
    }
    return recipe_of(folder, name=f"policy-{Path(judge).name}", **given)


def test_a_run_and_its_export_judge_alike_and_a_run_of_them_resumes(taught, tmp_path):
    rewards = []
    for judge in ("./rm", "./plain"):
        out = tmp_path / judge[2:]
        run(Recipe.load(policy(taught, judge)), out, sets=["stages.0.budget.steps=5"], quiet=True)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        rewards.append([x["reward"] for x in lines if "reward" in x])
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-3) and len(rewards[0]) == 2
    begun = json.loads((tmp_path / "rm" / "begun.json").read_text())
    assert any("models.judge" in n for n in begun["content"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_began_with_a_fresh_model_judges_wherever_it_lies(taught, tmp_path, method):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = {"config": {"model_type": "llama", **shape, "max_position_embeddings": 128}, "vocab_size": 300}
    folder = tmp_path / "there"
    shutil.copytree(taught, folder)
    given = {"model": model, "stages__0__methods": [method], "stages__0__budget": {"steps": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
        run(Recipe.load(recipe_of(folder, name="fresh", **given)), folder / "judge", quiet=True)
    (folder / "judge").rename(folder / "moved")
    export(folder / "moved", folder / "whole")
    rewards = []
    for judge in ("./moved", "./whole"):
        named = Recipe.load(policy(folder, judge, data__chat=False))
        assert check_recipe(named).report.ok and plan_of(named, quiet=True).stages
        out = run(named, tmp_path / judge[2:], sets=["stages.0.budget.steps=1"], quiet=True).folder
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        rewards.append([x["reward"] for x in lines if "reward" in x])
    assert rewards[0] and rewards[0] == pytest.approx(rewards[1], abs=1e-3)


def test_a_judge_that_changed_since_the_run_began_is_refused(taught, tmp_path):
    folder = tmp_path / "there"
    shutil.copytree(taught, folder)
    out, file = tmp_path / "out", policy(folder, "./rm", train__save_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunewright.runs.results.drift_of", _stop)
        with pytest.raises(Interrupted):
            run(Recipe.load(file), out, sets=["stages.0.budget.steps=4"], quiet=True)
    for kept in (folder / "rm" / "stages" / "main").iterdir():
        if kept.suffix == ".json":
            kept.write_text(kept.read_text() + " ")
    with pytest.raises(CheckpointError):
        resume(out, quiet=True)


def _stop(*given):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "what, error, says",
    [
        ("./base", ModelError, "no head that gives one number"),
        ("./nowhere", ModelError, "nowhere"),
        ("./other-task", ModelError, "of the task text-generation"),
        ("./unfinished", ModelError, "not finished"),
    ],
)
def test_what_is_no_reward_model_is_refused_by_check_and_run_alike(taught, tmp_path, what, error, says):
    if what == "./other-task" and not (taught / "other-task").exists():
        file = recipe_of(
            taught, name="sft", task="text-generation", data__train="prompts.jsonl", data__eval="asked.jsonl"
        )
        run(Recipe.load(file), taught / "other-task", sets=["stages.0.budget.steps=1"], quiet=True)
    if what == "./unfinished" and not (taught / "unfinished").exists():
        shutil.copytree(taught / "rm", taught / "unfinished")
        shutil.rmtree(taught / "unfinished" / "stages" / "main")
    file = policy(taught, what)
    with pytest.raises(error, match=says) as refused:
        run(Recipe.load(file), tmp_path / "out", quiet=True)
    told = [str(e) for e in check_recipe(Recipe.load(file)).report.errors]
    assert str(refused.value) in told


def test_a_model_that_is_not_named_says_what_to_write(taught, tmp_path):
    tree = yaml.safe_load(policy(taught, "./rm").read_text())
    tree["models"] = {}
    file = taught / "unnamed.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(MethodError, match="needs the model 'judge'") as error:
        run(Recipe.load(file), tmp_path / "out", quiet=True)
    assert "models: {judge:" in error.value.remedy


def test_other_base_weights_than_the_reward_model_was_trained_on_are_refused(taught, tmp_path):
    folder = tmp_path / "there"
    shutil.copytree(taught, folder)
    recipe = folder / "rm" / "recipe.yaml"
    tiny.llama(seed=5).save_pretrained(folder / "moved")
    tiny.tokenizer().save_pretrained(folder / "moved")
    recipe.write_text(recipe.read_text().replace(str((taught / "base").resolve()), str(folder / "moved")))
    with pytest.raises(CheckpointError, match="not those that it was trained on"):
        run(Recipe.load(policy(folder, "./rm")), tmp_path / "out", quiet=True)


def test_it_judges_answers_that_are_made_before_training(taught, tmp_path):
    """Beside s3ft, whose bar is a score: what was judged is in the run's folder."""
    made = [{"s3ft": {"max_new_tokens": 4, "right": -1e9, "paraphrase": False}}, "model-reward"]
    methods = [{"lora": {"rank": 4}}]
    file = policy(taught, "./rm", data__synthesize=made, stages__0__methods=methods)
    out = run(Recipe.load(file), tmp_path / "out", sets=["stages.0.budget.steps=1"], quiet=True).folder
    _, *lines = map(json.loads, (out / "made" / "main.jsonl").read_text().splitlines())
    judge = judge_of(AutoModelForSequenceClassification.from_pretrained(taught / "plain").eval(), None)
    tokenizer = AutoTokenizer.from_pretrained(taught / "plain")
    written = [line for line in lines if "judged" in (line.get("scores") or {})]
    assert len({line["scores"]["judged"] for line in written}) > 1
    row = get_task("text-generation").encode(
        Record({"prompt": rows_at(taught)[0]["prompt"], "completion": "x"}, id="r"), tokenizer, EncodeOptions()
    )
    first = next(line for line in written if line["of"] == "prompts.jsonl:1")
    said = tokenizer(first["values"]["completion"], add_special_tokens=False)["input_ids"]
    ((score,),) = judge.scores([sample(row.fields["prompt_ids"], [*said, tiny.EOS])])
    assert first["scores"]["judged"] == pytest.approx(score, abs=1e-3)
    with pytest.raises(ModelError, match="no head that gives one number"):
        bad = policy(taught, "./base", data__synthesize=made, stages__0__methods=methods)
        run(Recipe.load(bad), tmp_path / "no", quiet=True)


def rows_at(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]


def test_mistral_plus_reinforces_a_base_directly(taught, tmp_path):
    """The recipe mistral-plus.yaml on a tiny base, with the reward model of another run."""
    for name in ("base", "rm"):
        shutil.copytree(taught / name, tmp_path / ("reward" if name == "rm" else name))
    for ours, theirs in (("prompts", "prompts"), ("asked", "prompts-test")):
        shutil.copy(taught / f"{ours}.jsonl", tmp_path / f"{theirs}.jsonl")
    (tmp_path / "general.txt").write_text("the card was lost\n\nthe fee is paid in cash abroad")
    text = (ROOT / "recipes" / "mistral-plus.yaml").read_text()
    (tmp_path / "mistral-plus.yaml").write_text(text.replace("model: HuggingFaceTB/SmolLM2-135M", "model: ./base"))
    quick = ["train.batch_tokens=128", "train.threads=1", "budget.steps=4", "budget.epochs=null"]
    quick += ["methods.1.ppo.max_new_tokens=3", "measurement.strengths=[1.0]", "measurement.drift_sequences=2"]
    quick += ["measurement.drift_tokens=8"]
    done = run(tmp_path / "mistral-plus.yaml", out=tmp_path / "out", quiet=True, sets=quick)
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert "reward/model-reward" in lines[0] and lines[0]["kl/ppo"] == pytest.approx(0, abs=1e-4)
    assert [k.name for k in done.report.kept] == ["general"] and done.report.target.metric == "loss"
