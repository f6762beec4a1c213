"""What a merge's result reads its rows by: tables and policies, of runs and of folders, and nobody reads otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.task_examples import example_of
from tunewright.errors import ModelError
from tunewright.finished.export import export
from tunewright.runs.run import run
from tunewright.shipping.fusing import fuse
from tunewright.shipping.fusing import page as fused_page
from tunewright.tasks import _policies
from tunewright.weights import _forward
from tunewright.weights.changes import _stored_name
from tunewright.weights.opening import open_source
from tunewright.weights.reading import FACTS, RECIPE, adopt
from tunewright.weights.request import Part, Request
from tunewright.weights.stream import merge

POLICIES, TABLES, SERIES = "reinforcement-learning", "tabular-classification", "time-series-forecasting"
Runs = Callable[..., str]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """`runs(task, seed=1, data__x=...)`: the folder of a run of one step, made when it is first asked for."""
    cases: dict[str, TaskCase] = {}

    def made(name: str, seed: int = 0, **changes: Any) -> str:
        case = cases.setdefault(name, TaskCase(name, example_of(name)))
        out = case.folder / f"run-{seed}-{'-'.join(changes)}"
        if not out.exists():
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("TUNEWRIGHT_CACHE", str(case.folder / "cache"))
                run(case.recipe(budget__steps=1, train__seed=seed, **changes), out, quiet=True)
        return str(out)

    yield made


def merged(out: Path, *models: str, **more: Any) -> Any:
    return merge(Request("linear", [Part(m) for m in models], out, where="merge", **more), forward=False)


def test_the_keys_of_policies_are_the_tasks_own() -> None:
    assert FACTS == _policies.FACTS


def test_a_merged_policy_keeps_what_its_inputs_hang_on(runs: Runs, tmp_path: Path) -> None:
    first, second = runs(POLICIES), runs(POLICIES, seed=1)
    export(first, tmp_path / "whole", quiet=True)
    says = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert says["state_mean"] and says["context_steps"]
    base = str(Path(first).parent / "base")
    assert not merged(tmp_path / "told", first, second).notes
    for name, models, more in (
        ("runs", (first, second), {}),
        ("based", (first, second), {"base": base}),
        ("mixed", (str(tmp_path / "whole"), second), {}),
    ):
        merged(tmp_path / name, *models, **more)
        got = json.loads((tmp_path / name / "config.json").read_text())
        assert {n: got.get(n) for n in FACTS} == {n: says.get(n) for n in FACTS}, name
        assert _forward.tried(tmp_path / name)["wrong"] is None


def test_policies_that_are_scaled_otherwise_are_not_merged(runs: Runs, tmp_path: Path) -> None:
    other = runs(POLICIES, data__trajectories={"return_scale": 99})
    with pytest.raises(ModelError, match=r"return_scale is 99\.0"):
        merged(tmp_path / "out", runs(POLICIES), other)


def test_a_merged_model_of_tables_keeps_how_it_reads_them(runs: Runs, tmp_path: Path) -> None:
    first, second = runs(TABLES), runs(TABLES, seed=1)
    export(first, tmp_path / "whole", quiet=True)
    for name, models in (("runs", (first, second)), ("mixed", (str(tmp_path / "whole"), second))):
        merged(tmp_path / name, *models)
        assert (tmp_path / name / "table.json").read_text() == (tmp_path / "whole" / "table.json").read_text(), name


def test_tables_that_are_read_otherwise_are_not_merged(runs: Runs, tmp_path: Path) -> None:
    first, other = runs(TABLES), runs(TABLES, data__table={"numbers": "bins"})
    with pytest.raises(ModelError, match="a table otherwise: numbers is bins, there ") as caught:
        merged(tmp_path / "out", first, other)
    assert "--allow-crimes" in caught.value.remedy and caught.value.where == other
    done = merged(tmp_path / "out", first, other, allow_crimes=True)
    assert any("reads as the first" in note for note in done.notes)
    assert json.loads((tmp_path / "out" / "table.json").read_text())["numbers"] != "bins"
    base = str(Path(first).parent / "base")
    with pytest.raises(ModelError, match="it reads a table, and .* no table"):
        merged(tmp_path / "bare", base, first)


@pytest.mark.slow
def test_forecasters_are_tried_and_fused(runs: Runs, tmp_path: Path) -> None:
    one = Path(runs(SERIES))
    merged(tmp_path / "out", str(one), runs(SERIES, seed=1))
    assert _forward.tried(tmp_path / "out") == {"wrong": None, "notes": []}
    fused = fuse(str(one.parent / "base"), str(one / "adapter"), tmp_path / "fused")
    assert fused.logits is not None and fused.logits.largest < 1e-3
    assert "what they say differs by" in fused_page(fused) and "token" not in fused_page(fused)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image-text-to-text", "image-segmentation", "image-feature-extraction"])
def test_adapters_find_weights_that_files_call_otherwise(name: str, runs: Runs, tmp_path: Path) -> None:
    one = Path(runs(name))
    export(one, tmp_path / "whole", quiet=True)
    fused = fuse(str(one.parent / "base"), str(one / "adapter"), tmp_path / "fused")
    assert fused.logits is not None and fused.logits.largest < 1e-3 and fused.changed
    merged(tmp_path / "merged", str(one), str(one))
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    loads = getattr(transformers, config["architectures"][0]).from_pretrained
    with torch.no_grad():
        whole = loads(tmp_path / "whole").state_dict()
        bare = loads(one.parent / "base").state_dict()
        moved = {n for n, t in whole.items() if not n.startswith("pooler.") and not torch.equal(t, bare[n])}
        # where attention has a single place to look at, queries and keys have no gradient, and nothing moves
        learnt = load_file(next((one / "adapter").glob("*.safetensors")))
        still = [n for n, t in learnt.items() if "lora_B" in n and not t.any()]
        assert len(moved) == fused.changed - len(still) > 0 and all("attention" in n for n in still)
        for folder in ("fused", "merged"):
            theirs = loads(tmp_path / folder).state_dict()
            for n in sorted(n for n in whole if not n.startswith("pooler.")):
                torch.testing.assert_close(theirs[n], whole[n], rtol=1e-5, atol=1e-6, msg=f"{folder}: {n}")


def test_a_head_that_its_run_made_is_merged_whole(runs: Runs, tmp_path: Path) -> None:
    adapter = Path(runs(TABLES)) / "adapter"
    assert (adapter.parent / RECIPE).is_file()
    whole: Any = transformers.BertForSequenceClassification.from_pretrained(adapter.parent.parent / "base")
    whole.bert.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ModelError, match=r"the base has no tensor 'classifier\.weight'") as caught:
        _stored_name(open_source(str(tmp_path / "encoder")), "classifier.weight", adapter)
    assert f"tunewright export {adapter.parent}" in caught.value.remedy
    with pytest.raises(ModelError) as caught:
        _stored_name(open_source(str(tmp_path / "encoder")), "classifier.weight", tmp_path)
    assert "export" not in caught.value.remedy


def test_a_base_that_says_nothing_of_a_policys_inputs_has_what_all_models_say() -> None:
    models: list[Any] = [
        SimpleNamespace(config={"state_mean": [1.0], "return_scale": 2.0}),
        SimpleNamespace(config={"state_mean": [1.0], "return_scale": 3.0}),
    ]
    base: Any = SimpleNamespace(config={"action_space": 4})
    adopt(base, models)
    assert base.config == {"action_space": 4, "state_mean": [1.0]}  # they differ in the scale
    adopt(None, models)
