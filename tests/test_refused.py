"""A recipe with one fault: `check`, `plan` and `run` refuse it in the same words, with the same exit code, before the
base is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.small import write_inputs, write_recipe
from tests.tasks.playing import CART, carts, policy, write
from tunewright.errors import TunewrightError
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.meter import Meter
from tunewright.runs.run import run

LORA = [{"lora": {"rank": 4}}]


def stage(**changes: Any) -> dict[str, Any]:
    return {"stages": [{"name": "main", "methods": LORA, "budget": {"steps": 2}, **changes}]}


def after(*steps: Any, **more: Any) -> dict[str, Any]:
    return {"after": list(steps), **more}


TWO_STAGES = [
    {"name": "one", "methods": LORA, "budget": {"steps": 1}},
    {"name": "two", "start": "stages.one", "methods": LORA, "budget": {"steps": 1}},
]
LONG = "n" * 300

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    # names of methods, their parameters and places
    "a method that is not there": (stage(methods=["lorra"]), "did you mean 'lora'"),
    "a parameter that is not there": (stage(methods=[{"lora": {"rnk": 4}}]), "did you mean 'rank'"),
    "a parameter out of its range": (stage(methods=[{"lora": {"rank": 0}}]), "rank"),
    "a merge among the methods": (stage(methods=["slerp"]), "does not go here"),
    "a training method afterwards": (after("lora"), "does not go here"),
    "a training method as a probe": ({"probes": ["lora"]}, "does not go here"),
    "a method alone that stands beside others": (stage(methods=["ist"]), "works beside a method"),
    "two methods in each other's way": (stage(methods=["hft", "lift"]), "main"),
    # modules
    "modules that no layer has": (stage(methods=[{"lora": {"target_modules": ["nothing_proj"]}}]), "nothing_proj"),
    "one module of two": (stage(methods=[{"lora": {"target_modules": ["q_proj", "w_proj"]}}]), "w_proj"),
    "a module that is no linear": (stage(methods=[{"lora": {"target_modules": ["embed_tokens"]}}]), "embed_tokens"),
    "a pattern that fits no layer": (stage(methods=[{"lora": {"rank_pattern": {"x_proj": 2}}}]), "x_proj"),
    "a rank above a layer's": (stage(methods=[{"corda": {"rank": 4096}}]), "rank"),
    "a budget of bits that no choice keeps": (
        stage(methods=[{"lq-lora": {"rank": 2, "average_bits": 1.5}}]),
        "average_bits is 1.5",
    ),
    # starts
    "a start that is not there": (stage(start="./nofolder"), "neither a run's folder nor a finished stage"),
    "a start that is a model": (stage(start="./base"), "neither a run's folder nor a finished stage"),
    "a start that is an adapter of another shape": (stage(start="./adapter"), "adapter"),
    "a start that is a stage of another base": (stage(start="./stage"), "another base"),
    "a stage that is not there": (stage(start="stages.nowhere"), "nowhere"),
    "a later stage": (
        {"stages": [{**TWO_STAGES[1], "name": "one", "start": "stages.two"}, {**TWO_STAGES[1], "start": "base"}]},
        "two",
    ),
    # packs
    "a pack that is not there": ({"keep": ["pack:tool-call"]}, "did you mean 'tool-calls'"),
    "a pack that is named as a text is": ({"keep": ["facts"]}, "write pack:facts"),
    "a pack of a task that writes nothing": (
        {"keep": ["pack:facts"], "task": "reward-modeling"},
        "'pack:facts' asks questions, and models of reward-modeling do not write answers",
    ),
    # steps afterwards
    "a merge without others": (after("slerp"), "names no other model"),
    "a merge with too many others": (
        after({"slerp": {"of": ["stages.one", "base"]}}, stages=TWO_STAGES),
        "takes exactly 2 models",
    ),
    "a merge with a stage that is not there": (after({"linear": {"of": ["stages.none"]}}), "no such stage"),
    "a merge with a folder that is not there": (after({"linear": {"of": ["./nofolder"]}}), "neither a run's folder"),
    "a merge that chooses by nothing": (
        after({"model-soups": {"of": ["stages.one"]}}, stages=TWO_STAGES),
        "holds nothing out",
    ),
    "an edit of a wrapped model": (after("lines") | stage(methods=["prompt-tuning"]), "cannot be folded"),
    "a wrapped model that is folded": (
        {"stages": [{**TWO_STAGES[0], "name": "one", "methods": ["prompt-tuning"]}, {**TWO_STAGES[1], "name": "two"}]},
        "'prompt-tuning' of the stage 'one' wraps the model: it cannot be folded",
    ),
    "a predictor without its model": (after("emulated-fine-tuning"), "the recipe names none"),
    "a step after a predictor": (
        after({"emulated-fine-tuning": {}}, "lines", models={"small": "./base", "small-tuned": "./base"}),
        "changes weights after a predictor",
    ),
    # data
    "rows that are not there": ({"data__train": "none.jsonl"}, "no such file"),
    "rows to measure on that are not there": ({"data__eval": "none.jsonl"}, "no such file"),
    "kept text that is not there": ({"keep": ["none.txt"]}, "no such file"),
    "nothing to learn from": ({"data__train": "empty.jsonl"}, "empty.jsonl"),
    "a bad row": ({"data__train": "bad.jsonl"}, "bad.jsonl:2"),
    "one file twice": ({"data__train": ["train.jsonl", "train.jsonl"]}, "train.jsonl"),
    "a share that leaves nothing": ({"data__validation": 0.999}, "leaves no row to train on"),
    "a share of 1": ({"data__validation": 1}, "between 0 and 1"),
    "replay of nothing known": ({"data__replay": {"nowhere": 0.1}}, "neither a `keep` entry nor a file"),
    "replay above 1": ({"data__replay": {"keep": 1.5}}, "less than 1"),
    "replay below 0": ({"data__replay": {"keep": -0.5}}, "greater than 0"),
    "replay of all there is": ({"data__replay": {"keep": 0.6, "test.jsonl": 0.5}}, "leaves none to learn from"),
    "a selector that is none": ({"data__select": ["lora"]}, "does not go here"),
    "a selector without an aim": ({"data__select": ["dsir"]}, "selects by a target"),
    "two that make one optimizer": (
        {"train__optimizer": "adamw-8bit", **stage(methods=["full", "fedavg"])},
        "both make the optimizer of the group 'all'",
    ),
    "preferences without pairs": (stage(methods=["dpo", "lora"]), "compares two"),
    "validation rows to measure on, and none": ({"measurement__split": "validation"}, "no validation rows"),
    "a metric that rows do not have": ({"measurement__metric": "accuracy"}, "needs a class a row"),
    "a metric that is none": ({"measurement__metric": "acuracy"}, "did you mean 'accuracy'"),
    "rewards of nothing": (stage(methods=["grpo", "lora"]), "grpo"),
    # models
    "a model that is not there": ({"model": "./nomodel"}, "no such model folder"),
    "a teacher that is not named": (stage(methods=["unic", "lora"]), "needs the model 'teacher'"),
    "a teacher that is not there": (stage(methods=["unic", "lora"]) | {"models": {"teacher": "./nomodel"}}, "nomodel"),
    "a tokenizer of another model": ({"model": "./small"}, "but the model embeds"),
    "a task that the model does not do": ({"task": "image-classification", "model": "./base"}, "-> "),
    "a head that the model has no class for": ({"task": "fill-mask", "model": "./base"}, "-> "),
    # values and names
    "a name of 300 letters": ({"name": LONG}, "300 letters, and takes at most 200"),
    "a stage's name of 300 letters": (stage(name=LONG), "300 letters, and takes at most 200"),
    "a name that is a path": ({"name": "a/b"}, "name"),
    "a budget of nothing": (stage(budget={"steps": 0}), "greater than 0"),
    "a key of the whole run in a stage": (stage(train={"threads": 1}), "holds for the whole run"),
    "a GPU that is not here": ({"train__device": "mps"}, "torch sees no"),
    "stopping early without rows": ({"train__early_stopping": 2}, "eval_steps"),
    "an optimizer that is none": ({"train__optimizer": "adamm"}, "adamm"),
    "a method as the optimizer": ({"train__optimizer": "dft"}, "-> "),
    "a warm-up of more than all": ({"train__warmup_steps": 1.5}, "neither a number of steps nor a share"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A sound recipe's files, and those that faults name."""
    folder = tmp_path_factory.mktemp("refused")
    write_inputs(folder, train=6, test=3)
    (folder / "empty.jsonl").write_text("")
    (folder / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    small = tiny.llama()
    small.resize_token_embeddings(100)
    small.save_pretrained(folder / "small")
    tiny.tokenizer().save_pretrained(folder / "small")
    _adapter(folder / "adapter")
    _stage(folder / "stage")
    return folder


def _adapter(folder: Path) -> None:
    """A PEFT adapter of another model's layers."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny.llama(hidden=64), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)


def _stage(folder: Path) -> None:
    """A finished stage of another base."""
    from tunewright.models.adapted import Adapted
    from tunewright.training import carry

    carry.save_stage(folder, Adapted(tiny.llama(seed=9), base_hash="another"), {"result": {}})


@pytest.fixture
def no_measuring(monkeypatch):
    def measured(self: Meter) -> None:
        raise AssertionError("the base is measured: nothing was refused before")

    monkeypatch.setattr(Meter, "prepare_base", measured)


def of_check(recipe: Path) -> tuple[str, int]:
    """The first thing that a check says against a recipe, and its exit code."""
    try:
        checked = check_recipe(recipe)
    except TunewrightError as error:
        return str(error), error.code
    if checked.report.errors:
        return str(checked.report.errors[0]), checked.code
    return (str(checked.bad_rows[0]), checked.code) if checked.bad_rows else ("ok", 0)


def of_run(recipe: Path, out: Path) -> tuple[str, int]:
    with pytest.raises(TunewrightError) as refused:
        run(recipe, out, quiet=True)
    assert not out.exists(), "what is refused leaves no folder"
    return str(refused.value), refused.value.code


def of_plan(recipe: Path) -> tuple[str, int]:
    with pytest.raises(TunewrightError) as refused:
        plan(recipe, quiet=True)
    return str(refused.value), refused.value.code


def told(text: str, *folders: Path) -> str:
    """A message without the inputs' own place."""
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_alike(fault, inputs, tmp_path, no_measuring):
    changes, says = FAULTS[fault]
    recipe = write_recipe(inputs, "faulty", **{k: v for k, v in changes.items() if k != "name"})
    if "name" in changes:
        recipe.write_text(f"name: {changes['name']}\n{recipe.read_text()}")
    checked, ran, planned = of_check(recipe), of_run(recipe, tmp_path / "out"), of_plan(recipe)
    assert says in checked[0]
    assert {code for _, code in (checked, ran, planned)} == {checked[1]} and checked[1] != 0
    assert told(ran[0], inputs) == told(planned[0], inputs)
    if fault == "a bad row":  # a check lists every bad row, and the others count them
        assert told(checked[0], inputs).split(" (")[0] in told(ran[0], inputs)
    else:
        assert told(checked[0], inputs) == told(ran[0], inputs)


def _policy_recipe(folder: Path, **sizes: Any) -> dict[str, Any]:
    """A recipe of one step on a policy, without methods."""
    policy(**{**CART, **sizes}).save_pretrained(folder / "base")
    write(folder / "rows.jsonl", carts(4))
    data = {"train": str(folder / "rows.jsonl"), "trajectories": {"context": 4}}
    return {
        "model": str(folder / "base"),
        "task": "reinforcement-learning",
        "data": data,
        "budget": {"steps": 1},
        "train": {"precision": "float32", "threads": 1},
    }


ANNEALED = {"infinite-lr": {"warmup_steps": 1, "anneal_steps": 1}}


@pytest.mark.parametrize("method", ["loreft", "bert2bert", "pela", ANNEALED], ids=str)
def test_check_refuses_what_a_stage_of_a_policy_would_refuse_when_it_is_set_up(method: Any, tmp_path: Path) -> None:
    """These passed `check` on a policy, and ended the run behind the measuring of its base."""
    tree = _policy_recipe(tmp_path)
    (told,) = check_recipe(Recipe.model_validate({**tree, "methods": [method]})).report.errors
    with pytest.raises(TunewrightError) as refused:
        run(Recipe.model_validate({**tree, "methods": [method]}), out=tmp_path / "out", quiet=True)
    assert type(told) is type(refused.value) and told.what == refused.value.what and told.remedy
    assert check_recipe(Recipe.model_validate({**tree, "methods": ["lora"]})).ok


@pytest.mark.parametrize("method", ["telly", {"infinite-lr": {"warmup_steps": 0, "anneal_steps": 1}}], ids=str)
def test_what_check_takes_of_a_policy_is_run(method: Any, tmp_path: Path) -> None:
    """A policy reads three tokens a step under a mask of steps; annealing may begin with a step that has a rate."""
    recipe = Recipe.model_validate({**_policy_recipe(tmp_path, hidden_size=12, n_head=4), "methods": [method]})
    assert check_recipe(recipe).ok
    run(recipe, out=tmp_path / "out", quiet=True)
