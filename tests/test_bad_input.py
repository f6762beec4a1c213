"""What a user gets wrong, as one table: each case gives one clear message, its exit code and no traceback.

To extend: append a `Case`. `recipe` is the recipe's text (None: the arguments name it themselves), `files` what lies
beside it, `arguments` the command line with {recipe} and {folder} filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunewright import errors
from tunewright.catalogue import build
from tunewright.commands import cli
from tunewright.recipe import Recipe

GOOD = """\
model: smollm2-135m-instruct
task: text-generation
data:
  train: rows.jsonl
train:
  learning_rate: 2e-4
methods:
  - lora: {rank: 16}
budget: {steps: 2}
"""


@dataclass(frozen=True)
class Case:
    id: str
    says: tuple[str, ...]
    recipe: str | bytes | None = GOOD
    code: int = errors.RecipeError.code
    arguments: tuple[str, ...] = ("load", "{recipe}")
    files: dict[str, str | bytes] = field(default_factory=dict)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def flag(*values: str) -> tuple[str, ...]:
    return ("load", "{recipe}", *(part for v in values for part in ("--set", v)))


STAGES = "model: m\ntask: text-generation\ndata: {train: a.jsonl}\nstages:\n"

CASES = [
    # Keys
    Case("misspelt key at the top", ("r.yaml:3", "unknown key 'dta'", "did you mean 'data'"), changed("data:", "dta:")),
    Case(
        "misspelt key inside",
        ("r.yaml:6", "unknown key 'learning_rat'", "did you mean 'learning_rate'"),
        changed("learning_rate", "learning_rat"),
    ),
    Case(
        "key of another tool",
        ("r.yaml:6", "batch_tokens"),
        changed("learning_rate: 2e-4", "per_device_train_batch_size: 8"),
    ),
    Case(
        "two misspelt keys at once",
        ("unknown key 'sede'", "also", "unknown key 'epss'"),
        changed("learning_rate: 2e-4", "sede: 1\n  epss: 1e-8"),
    ),
    Case("key written twice", ("r.yaml:10", "'task' is written twice", "line 2"), GOOD + "task: fill-mask\n"),
    Case(
        "two names of one key",
        ("mean the same",),
        changed("rows.jsonl", "rows.jsonl\n  max_length: 5\n  cutoff_len: 6"),
    ),
    Case("no model", ("'model' is missing", "write model:"), changed("model: smollm2-135m-instruct\n", "")),
    Case(
        "no training data",
        ("r.yaml:3", "'train' is missing", "write train:"),
        changed("train: rows.jsonl", "eval: rows.jsonl"),
    ),
    Case(
        "no methods", ("'methods' is missing", "write methods: [lora]"), changed("methods:\n  - lora: {rank: 16}\n", "")
    ),
    Case("methods beside stages", ("both written",), GOOD + "stages: [{name: a, methods: lora}]\n"),
    # Types and values
    Case(
        "text for a number",
        ("r.yaml:6", "must be a number, got 'fast'", "write learning_rate: "),
        changed("2e-4", "fast"),
    ),
    Case("true for a number", ("must be a number",), changed("2e-4", "true")),
    Case("fraction of a token", ("r.yaml:9", "must be a whole number"), changed("steps: 2", "tokens: 1.5")),
    Case("negative learning rate", ("must be greater than 0, got -1",), changed("2e-4", "-1")),
    Case("infinite learning rate", ("finite",), changed("2e-4", ".inf")),
    Case("learning rate that is no number", ("r.yaml:6",), changed("2e-4", ".nan")),
    Case(
        "budget of zero steps", ("r.yaml:9", "'steps' must be greater than 0, got 0"), changed("steps: 2", "steps: 0")
    ),
    Case("negative budget", ("'tokens' must be greater than 0, got -5",), changed("steps: 2", "tokens: -5")),
    Case("budget as a number", ("'budget' must be a mapping", "write budget: "), changed("{steps: 2}", "7")),
    Case("empty value", ("an empty value is null",), changed("smollm2-135m-instruct", "")),
    Case(
        "unknown choice",
        ("'precision' must be", "got 'flaot32'", "did you mean 'float32'"),
        changed("learning_rate: 2e-4", "precision: flaot32"),
    ),
    Case(
        "warm-up that is neither steps nor share",
        ("warmup_steps: 3%",),
        changed("learning_rate: 2e-4", "warmup_steps: 1.5"),
    ),
    Case(
        "three betas", ("too many values: 3 instead of 2",), changed("learning_rate: 2e-4", "betas: [0.9, 0.99, 0.999]")
    ),
    Case("beta of one", ("must be less than 1",), changed("learning_rate: 2e-4", "betas: [0.9, 1]")),
    Case(
        "validation of two",
        ("between 0 and 1", "validation: 10%"),
        changed("rows.jsonl", "rows.jsonl\n  validation: 2"),
    ),
    Case(
        "replay of everything", ("must be less than 1",), changed("rows.jsonl", "rows.jsonl\n  replay: {general: 1.0}")
    ),
    Case("no sources", ("'train' is empty",), changed("rows.jsonl", "[]")),
    Case("template without a place", ("{text}",), changed("rows.jsonl", "rows.jsonl\n  template: Hello")),
    Case(
        "remote code", ("r.yaml:1", "never run"), changed("smollm2-135m-instruct", "{name: m, trust_remote_code: true}")
    ),
    Case("run name with a slash", ("'name' may hold",), GOOD + "name: a/b\n"),
    Case("unknown tracker", ("'tensorboard'",), changed("learning_rate: 2e-4", "report_to: [tensorbord]")),
    Case(
        "early stopping without evaluations",
        ("r.yaml:6", "early_stopping needs evaluations", "eval_steps"),
        changed("learning_rate: 2e-4", "early_stopping: 3"),
    ),
    Case(
        "keeping the best without rows",
        ("needs rows to evaluate on",),
        changed("learning_rate: 2e-4", "{keep_best: target, eval_steps: 5}").replace("train:\n  {", "train: {"),
    ),
    # Names
    Case(
        "unknown task",
        ("r.yaml:2", "no task 'text-generatoin'", "did you mean 'text-generation'"),
        changed("text-generation", "text-generatoin"),
    ),
    Case(
        "unknown method", ("r.yaml:8", "no method is named 'lorra'", "did you mean 'lora'"), changed("lora:", "lorra:")
    ),
    Case("method named twice", ("'lora' is named twice",), changed("  - lora: {rank: 16}", "  - lora\n  - lora")),
    Case(
        "method named twice by an alias",
        ("is named twice",),
        changed("  - lora: {rank: 16}", "  - hft\n  - half-fine-tuning"),
    ),
    Case(
        "after step among methods",
        ("'lines' does not go here", "write after: [lines]"),
        changed("lora: {rank: 16}", "lines"),
    ),
    Case("method among after steps", ("'lora' does not go here", "write methods: [lora]"), GOOD + "after: [lora]\n"),
    Case(
        "unknown optimizer",
        ("no optimizer is named 'adamx'", "did you mean 'adamw'"),
        changed("learning_rate: 2e-4", "optimizer: adamx"),
    ),
    Case(
        "parameters of a built-in optimizer",
        ("train.betas",),
        changed("learning_rate: 2e-4", "optimizer: {adamw: {lr: 1}}"),
    ),
    Case(
        "parameters beside their method",
        ("one method is expected", "indent"),
        changed("lora: {rank: 16}", "lora:\n    rank: 16"),
    ),
    Case("parameters that are no mapping", ("must be a mapping",), changed("{rank: 16}", "16")),
    Case(
        "rank 0",
        ("r.yaml:8", "lora.rank", "greater than 0, got 0", "> 0"),
        changed("rank: 16", "rank: 0"),
        arguments=("build", "{recipe}"),
    ),
    Case(
        "unknown parameter",
        ("r.yaml:8", "'lora' has no parameter 'rnak'", "did you mean 'rank'"),
        changed("rank: 16", "rnak: 16"),
        arguments=("build", "{recipe}"),
    ),
    Case(
        "no space after a colon",
        ("r.yaml:8", "'lora' has no parameter 'rank:16'", "write a space after the colon: rank: 16"),
        changed("rank: 16", "rank:16"),
        arguments=("build", "{recipe}"),
    ),
    Case(
        "parameter of the wrong type",
        ("lora.rank", "got 'many'"),
        changed("rank: 16", "rank: many"),
        arguments=("build", "{recipe}"),
    ),
    # Stages
    Case(
        "start from an unknown stage",
        ("r.yaml:6", "'domian'", "did you mean 'domain'"),
        STAGES + "  - {name: domain, methods: lora}\n  - {name: b, start: stages.domian, methods: lora}\n",
    ),
    Case(
        "start from a later stage",
        ("no earlier stage is named 'b'",),
        STAGES + "  - {name: a, start: stages.b, methods: lora}\n  - {name: b, methods: lora}\n",
    ),
    Case(
        "start from itself", ("cannot start from itself",), STAGES + "  - {name: a, start: stages.a, methods: lora}\n"
    ),
    Case(
        "two stages of one name",
        ("two stages are named 'a'",),
        STAGES + "  - {name: a, methods: lora}\n  - {name: a, methods: lora}\n",
    ),
    Case(
        "unknown carry",
        ("'carry' must be", "did you mean 'fold'"),
        STAGES + "  - {name: a, carry: flod, methods: lora}\n",
    ),
    Case("stage without methods", ("'methods' is missing",), STAGES + "  - {name: a}\n"),
    Case("stage with an empty list of methods", ("'methods' is empty",), STAGES + "  - {name: a, methods: []}\n"),
    Case("empty override", ("cannot be empty",), STAGES + "  - {name: a, methods: lora, train: {seed: null}}\n"),
    Case("no stages", ("'stages' is empty",), STAGES.replace("stages:", "stages: []")),
    # The file
    Case("no such file", ("no such recipe",), None, arguments=("load", "{folder}/nothing.yaml")),
    Case("no such file, a near one", ("did you mean 'r.yaml'",), arguments=("load", "{folder}/rr.yaml")),
    Case("no such packaged recipe", ("did you mean 'quickstart'",), None, arguments=("load", "quikstart")),
    Case("a folder", ("a folder, not a recipe",), None, arguments=("load", "{folder}")),
    Case("an empty file", ("is empty", "tunewright init"), ""),
    Case("a list", ("a recipe is a mapping",), "- a\n- b\n"),
    Case("plain text", ("a recipe is a mapping",), "hello"),
    Case("broken YAML", ("r.yaml:", "not valid YAML"), GOOD + "keep: [a, b\n"),
    Case("a tab", ("tab", "spaces"), "data:\n\ttrain: a\n"),
    Case("a Python tag", ("not allowed",), "model: !!python/object/apply:os.system [true]\n"),
    Case("a binary file", ("r.yaml:1", "UTF-8"), b"\x89PNG\r\n\xff\xfe\x00"),
    Case("a Latin-1 file", ("r.yaml:2", "UTF-8"), "model: m\nname: café\n".encode("latin-1")),
    Case("zero bytes", ("r.yaml", "YAML"), b"model: m\x00\n"),
    # Flags
    Case("flag without a value", ("--set train.seed", "key=value"), arguments=flag("train.seed")),
    Case("flag to an unknown key", ("--set train.sede=1", "did you mean 'seed'"), arguments=flag("train.sede=1")),
    Case("flag with a wrong value", ("--set train.seed=x", "whole number"), arguments=flag("train.seed=x")),
    Case("flag to a stage that is not there", ("no place in a list of 1",), arguments=flag("stages.3.budget.steps=1")),
    Case("flag into a plain value", ("plain value",), arguments=flag("task.name=x")),
    Case("flag to another method", ("the method here is 'lora'",), arguments=flag("methods.0.lroa.rank=1")),
    Case("flag with broken YAML", ("--set train=", "YAML"), arguments=flag("train={a")),
    # Verbs
    Case("unknown verb", ("No such command",), None, arguments=("rnu",)),
    Case("unknown option", ("No such option",), None, arguments=("methods", "--jsn")),
    Case("unknown method asked for", ("did you mean 'lora'",), None, arguments=("methods", "lroa")),
    Case("init without data", ("no such file",), None, errors.DataError.code, ("init", "m", "{folder}/none.jsonl")),
    Case(
        "init for an unknown task",
        ("did you mean 'fill-mask'",),
        None,
        arguments=("init", "m", "{folder}/d.jsonl", "--task", "fil-mask"),
        files={"d.jsonl": '{"text": "a"}\n'},
    ),
    Case(
        "init on rows of no shape",
        ("d.jsonl:1", "no known shape"),
        None,
        errors.DataError.code,
        ("init", "m", "{folder}/d.jsonl"),
        {"d.jsonl": '{"foo": 1}\n'},
    ),
]


def _load(recipe: str, sets: list[str], with_methods: bool) -> None:
    """What every verb that takes a recipe does first: load it, and build its methods."""
    loaded = Recipe.load(recipe, sets)
    if with_methods:
        for _, kind, use in loaded.uses():
            if kind == "method":
                build(use)


def outcome(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and standard error of a command line.

    `load` and `build` go through the group's handler like any verb.
    """
    if arguments[0] in ("load", "build"):
        from tunewright.commands import doctor

        sets = [a for flag_, a in zip(arguments[2:], arguments[3:], strict=False) if flag_ == "--set"]
        action, recipe = arguments[:2]
        monkeypatch.setattr(doctor, "examine", lambda: _load(recipe, sets, action == "build"))
        arguments = ["doctor"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_bad_input_gives_one_clear_message(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "r.yaml"
    if case.recipe is not None:
        recipe.write_bytes(case.recipe if isinstance(case.recipe, bytes) else case.recipe.encode())
    for name, content in case.files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    code, message = outcome(
        [a.replace("{recipe}", str(recipe)).replace("{folder}", str(tmp_path)) for a in case.arguments], monkeypatch
    )
    assert code == case.code, message
    assert message.startswith("error: ") and message.count("error: ") == 1
    assert "Traceback" not in message
    for part in case.says:
        assert part in message, message
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before, "something was written or lost"


def test_the_good_recipe_is_good(tmp_path: Path) -> None:
    """What every case above spoils is accepted as it stands, so that a refusal is the case's own."""
    from tunewright.recipe import Recipe

    (tmp_path / "r.yaml").write_text(GOOD)
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.stages and all(stage.methods for stage in recipe.stages)
