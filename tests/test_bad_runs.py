"""What goes wrong once per run looks at its data, models and methods: one clear message, the exit code, nothing lost.

The table goes on from `test_bad_input.py`: a case's recipe is `tests/small.py`'s with some values changed, `spoil` does
to the inputs what a user might have done. To extend: append a `Run`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import small
from tests.spoiling import (
    Spoil,
    a_stage,
    classifier,
    half_a_file,
    held,
    no_template,
    offline,
    only_a_pickle,
    remove,
    rows,
    tokenizer,
    wheel_of_another_hash,
)
from tests.test_bad_input import outcome
from tunewright import errors

DATA, MODEL, METHOD = errors.DataError.code, errors.ModelError.code, errors.MethodError.code
CHECKPOINT, FOLDER, OFFLINE = errors.CheckpointError.code, errors.FolderError.code, errors.MissingExtraError.code


@dataclass(frozen=True)
class Run:
    """`leaves`: whether the run's folder stays, since work was done in it before the error."""

    id: str
    code: int
    says: tuple[str, ...]
    spoil: Spoil = lambda folder: None
    changes: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("run", "{recipe}", "--out", "{folder}/out", "-q")
    leaves: bool = False
    patch: Callable[[pytest.MonkeyPatch, ExitStack, Path], object] = lambda monkeypatch, stack, folder: None


CLASSES = {"task": "text-classification", "data": {"train": "train.jsonl"}, "keep": []}


def lora(**parameters: Any) -> dict[str, Any]:
    return {"stages__0__methods": [{"lora": parameters}]}


def methods(*names: Any) -> dict[str, Any]:
    return {"stages__0__methods": list(names)}


GOOD_ROW = {"prompt": "lost card", "completion": "lost card"}

RUNS = [
    # Files
    Run(
        "no training file",
        DATA,
        ("trian.jsonl", "no such file", "did you mean 'train.jsonl'"),
        changes={"data__train": "trian.jsonl"},
    ),
    Run("no file to evaluate on", DATA, ("test.jsonl", "no such file"), remove("test.jsonl")),
    Run("no text to keep", DATA, ("keep.txt", "no such file"), remove("keep.txt")),
    Run("an empty data file", DATA, ("train.jsonl", "empty"), rows("")),
    Run("an empty text to keep", DATA, ("keep.txt", "empty"), rows("", file="keep.txt")),
    Run("a binary data file", DATA, ("train.jsonl", "binary"), rows(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00")),
    Run(
        "a Latin-1 data file",
        DATA,
        ("train.jsonl:2", "UTF-8"),
        rows(GOOD_ROW, '{"prompt": "café", "completion": "b"}'.encode("latin-1")),
    ),
    Run(
        "a file of another kind",
        DATA,
        ("d.docx", "cannot be read", "JSONL"),
        rows("a", file="d.docx"),
        {"data__train": "d.docx"},
    ),
    Run(
        "a folder without data",
        DATA,
        ("base", "no data file"),
        changes={"data__train": "base/original"},
        patch=lambda m, s, f: (f / "base/original").mkdir(),
    ),
    # Rows
    Run("a broken line", DATA, ("train.jsonl:2", "JSON"), rows(GOOD_ROW, '{"prompt": "a", ')),
    Run("a row that is a list", DATA, ("train.jsonl:2",), rows(GOOD_ROW, [1, 2])),
    Run("a row without its answer", DATA, ("train.jsonl:3", "completion"), rows(GOOD_ROW, GOOD_ROW, {"prompt": "a"})),
    Run(
        "an empty answer",
        DATA,
        ("train.jsonl:2", "completion", "empty"),
        rows(GOOD_ROW, {"prompt": "a", "completion": ""}),
    ),
    Run(
        "an answer that is a number",
        DATA,
        ("train.jsonl:2", "completion"),
        rows(GOOD_ROW, {"prompt": "a", "completion": 3}),
    ),
    Run(
        "messages of no known role",
        DATA,
        ("train.jsonl:1", "role"),
        rows({"messages": [{"role": "usr", "content": "a"}]}),
    ),
    Run(
        "nothing that is trained",
        DATA,
        ("train.jsonl", "would be trained"),
        rows({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}),
    ),
    Run(
        "a weight that is no number",
        DATA,
        ("train.jsonl:1", "weight"),
        rows('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": NaN}]}'),
    ),
    Run(
        "a row that is too long",
        DATA,
        ("train.jsonl:1", "max_length", "split"),
        changes={"data__max_length": 8, "data__truncation": "fail"},
    ),
    Run("all rows too long", DATA, ("train.jsonl", "max_length (8)"), changes={"data__max_length": 8}),
    Run(
        "a column that is not there",
        DATA,
        ("quesion", "prompt"),
        changes={"data__train": {"path": "train.jsonl", "columns": {"prompt": "quesion"}}},
    ),
    Run("a replayed text that is not there", DATA, ("genral", "keep"), changes={"data__replay": {"genral": 0.1}}),
    Run(
        "a share that leaves nothing",
        DATA,
        ("data.validation", "no row to train on"),
        rows(GOOD_ROW),
        {"data__validation": 0.9},
    ),
    # Labels
    Run(
        "a label that is NaN",
        DATA,
        ("train.jsonl:2", "label"),
        classifier({"text": "a", "label": "x"}, '{"text": "b", "label": NaN}', {"text": "c", "label": "y"}),
        CLASSES,
    ),
    Run(
        "a label id beyond the classes",
        DATA,
        ("train.jsonl:3", "label", "7"),
        classifier(*({"text": t, "label": i} for t, i in (("a", 0), ("b", 1), ("c", 7)))),
        {**CLASSES, "data": {"train": "train.jsonl", "labels": ["x", "y", "z"]}},
    ),
    Run(
        "a label that is no class",
        DATA,
        ("train.jsonl:2", "w", "x"),
        classifier({"text": "a", "label": "x"}, {"text": "b", "label": "w"}),
        {**CLASSES, "data": {"train": "train.jsonl", "labels": ["x", "y", "z"]}},
    ),
    Run(
        "a negative label",
        DATA,
        ("train.jsonl:2", "label"),
        classifier({"text": "a", "label": 0}, {"text": "b", "label": -1}, {"text": "c", "label": 1}),
        CLASSES,
    ),
    Run("rows without labels", DATA, ("label", "columns"), classifier({"text": "a"}, {"text": "b"}), CLASSES),
    Run(
        "one class only",
        MODEL,
        ("at least two",),
        classifier({"text": "a", "label": "x"}, {"text": "b", "label": "x"}),
        CLASSES,
    ),
    # Tokenizers
    Run("messages without a chat template", DATA, ("train.jsonl:1", "chat template"), no_template),
    Run("neither pad nor end token", MODEL, ("base", "pad", "tokenizer_config.json"), tokenizer(pad=False, eos=False)),
    Run("no tokenizer", MODEL, ("base", "tokenizer"), lambda f: [p.unlink() for p in (f / "base").glob("tokenizer*")]),
    # Models
    Run("no such model", MODEL, ("bse",), changes={"model": "./bse"}),
    Run("a model that is only a pickle", MODEL, ("pytorch_model.bin", "safetensors"), only_a_pickle),
    Run("a model file cut off", MODEL, ("model.safetensors",), half_a_file),
    Run("no config", MODEL, ("config.json",), remove("base/config.json")),
    Run("a config that is no JSON", MODEL, ("config.json",), rows("{", file="base/config.json")),
    Run("a model for another task", MODEL, ("base",), changes={"task": "fill-mask", "data": {"train": "keep.txt"}}),
    Run(
        "a built-in model whose hash differs",
        MODEL,
        ("sha256",),
        changes={"model": "smollm2-135m-instruct"},
        patch=wheel_of_another_hash,
    ),
    Run(
        "a hub model without a network",
        OFFLINE,
        ("some-one/some-model",),
        changes={"model": "some-one/some-model"},
        patch=offline,
    ),
    Run(
        "a hub data set without a network",
        OFFLINE,
        ("some-one/some-rows",),
        changes={"data__train": "some-one/some-rows"},
        patch=offline,
    ),
    # Methods
    Run("two that choose", METHOD, ("'hft' and 'lift'", "'choose'", "stages:"), changes=methods("hft", "lift")),
    Run("targets that no layer has", METHOD, ("q_prj", "q_proj"), changes=lora(target_modules=["q_prj"])),
    Run("one target of two unknown", METHOD, ("v_prjo", "v_proj"), changes=lora(target_modules=["q_proj", "v_prjo"])),
    Run("a rank pattern that fits no layer", METHOD, ("q_prj",), changes=lora(rank_pattern={"q_prj": 4})),
    Run("a method of another task", METHOD, ("core-tuning", "text-generation"), changes=methods("core-tuning")),
    Run(
        "a probe among methods",
        errors.RecipeError.code,
        ("'calibration' does not go here", "measure"),
        changes=methods("calibration"),
    ),
    Run(
        "a need that no data serves",
        METHOD,
        ("'corda'", "rows of 'keep'", "add `keep:`"),
        changes={"keep": [], **methods({"corda": {"mode": "keep"}})},
    ),
    Run("nothing to merge with", METHOD, ("model-soups", "of:"), changes={"after": ["model-soups"]}, leaves=True),
    Run("a GPU that is not there", METHOD, ("cuda", "device: auto"), changes={"train__device": "cuda"}),
    # Stages and checkpoints
    Run(
        "a start that is no stage",
        MODEL,
        ("elsewhere", "finished stage"),
        changes={"stages__0__start": "./elsewhere"},
        leaves=True,
    ),
    Run(
        "a stage of another base",
        CHECKPOINT,
        ("another base", "recipe.yaml"),
        a_stage(),
        {"stages__0__start": "./stage"},
        leaves=True,
    ),
    Run(
        "a stage with a pickle",
        CHECKPOINT,
        ("optimizer.pt", "pickle"),
        a_stage(harm="pickle"),
        {"stages__0__start": "./stage"},
        leaves=True,
    ),
    Run(
        "a damaged stage",
        CHECKPOINT,
        ("trained.safetensors", "hash"),
        a_stage(harm="trained.safetensors"),
        {"stages__0__start": "./stage"},
        leaves=True,
    ),
    Run(
        "a damaged manifest",
        CHECKPOINT,
        ("cannot be read",),
        a_stage(harm="manifest.json"),
        {"stages__0__start": "./stage"},
        leaves=True,
    ),
    # Folders
    Run(
        "a folder that is not empty",
        FOLDER,
        ("not empty", "another --out"),
        rows("mine", file="out/notes.txt"),
        patch=lambda m, s, f: None,
    ),
    Run("a file for a folder", FOLDER, ("out",), rows("mine", file="out")),
    Run("a folder in use", FOLDER, ("live run (process 4242)",), patch=held, leaves=True),
    Run(
        "resuming a folder in use",
        FOLDER,
        ("live run (process 4242)",),
        arguments=("resume", "{folder}/out"),
        patch=held,
        leaves=True,
    ),
    Run("resuming no run", FOLDER, ("no run's folder",), arguments=("resume", "{folder}/base")),
    Run(
        "a budget of nothing",
        errors.RecipeError.code,
        ("'steps' must be greater than 0",),
        changes={"stages__0__budget__steps": 0},
    ),
    Run(
        "a rate that breaks the weights",
        errors.NonFiniteError.code,
        ("step", "learning_rate"),
        changes={
            "train__learning_rate": 1e30,
            "train__optimizer": "sgd",
            "train__max_grad_norm": None,
            **methods("full"),
        },
        leaves=True,
    ),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    small.write_inputs(folder, train=8, test=2)
    return folder


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def contents(folder: Path, leaves: bool) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}
    return {n: content for n, content in found.items() if not (leaves and Path(n).parts[0] == "out")}


@pytest.mark.parametrize("case", RUNS, ids=lambda c: c.id)
def test_a_run_that_cannot_be_says_why(
    case: Run, inputs: Path, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.id.startswith("a GPU") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    recipe = small.write_recipe(tmp_path, **case.changes)
    if case.id.startswith("a folder that is not"):
        (tmp_path / "out").mkdir()
    case.spoil(tmp_path)
    with ExitStack() as stack:
        case.patch(monkeypatch, stack, tmp_path)
        before = contents(tmp_path, case.leaves)
        code, message = outcome(
            [a.replace("{recipe}", str(recipe)).replace("{folder}", str(tmp_path)) for a in case.arguments], monkeypatch
        )
    assert code == case.code, message
    errors_said = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(errors_said) == 1 and "Traceback" not in message, message
    for part in case.says:
        assert part in message, message
    assert contents(tmp_path, case.leaves) == before, "something was written or lost"


def test_the_small_recipe_is_good(inputs: Path, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    recipe = small.write_recipe(tmp_path, stages__0__budget={"steps": 1}, measurement__strengths=[1.0])
    code, message = outcome(["run", str(recipe), "--out", str(tmp_path / "out"), "-q"], monkeypatch)
    assert code == 0, message
