"""Every field of a recipe's parts changes a run. A field without a case here fails the test at the end of each part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import classifying, small
from tests.options import inputs, session_of
from tunewright import catalogue
from tunewright.contract.method import Method
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.files import checkpoint
from tunewright.models.streamed import streamed
from tunewright.recipe import DataSpec, MethodUse, TrainSpec
from tunewright.runs.folder import RunFolder
from tunewright.runs.run import run
from tunewright.runs.session import Session
from tunewright.runs.stages import TrainingCallback, TrainingOutcome, run_stage
from tunewright.training import carry
from tunewright.training.trained import Trained

__all__ = ["inputs"]

# -- train -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(inputs: Path) -> Session:
    return session_of(inputs)


def trained(session: Session, folder: Path, **fields: Any) -> dict[str, Any]:
    """Train the only stage with other `train` fields; what came out of it."""
    part = session.stages[0]
    held, steps = part.train, part.spec.budget.steps
    part.train = TrainSpec.model_validate({**held.model_dump(), "optimizer": held.optimizer, **fields})
    blocks: list[int] = []
    watched = next(s.module for s in session.adapted.structure.sites if s.block == 0 and s.kind == "linear")
    hook = watched.register_forward_hook(lambda *_: blocks.append(1))
    try:
        carry.begin(session.adapted, "base", "fold", folder, "")
        stage, provider = session.training_inputs(part)
        worse = iter(range(100))
        keeper = TrainingCallback(
            RunFolder(folder), part.train, "main", 0, 0, lambda loop: {"loss": float(next(worse))}
        )
        keeper.show = lambda record: None
        seen: list[tuple[int, int]] = []
        collate = stage.task.collate

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(session.task, name)

            def collate(self, rows: Any, *a: Any, **k: Any) -> Any:
                seen.append((len(rows), sum(r.size for r in rows)))
                return collate(rows, *a, **k)

        stage.task = Watched()
        result: TrainingOutcome = run_stage(stage, keeper, provider.statistics, None)
    finally:
        hook.remove()
        part.train, part.spec.budget.steps = held, steps
    return {
        "weights": {n: t.clone() for n, t in Trained(session.adapted, {}).changed().items()},
        "metrics": RunFolder(folder).metrics(),
        "checkpoints": [p.name for _, p in checkpoint.listed(folder)],
        "batches": seen,
        "forwards": len(blocks),
        "result": result,
    }


def weights_differ(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return any(not torch.equal(t, b["weights"][n]) for n, t in a["weights"].items())


def same_weights(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.allclose(t, b["weights"][n], atol=1e-5) for n, t in a["weights"].items())


def evaluated(a: dict[str, Any]) -> list[int]:
    return [m["step"] for m in a["metrics"] if "eval_loss" in m]


Difference = Callable[[dict[str, Any], dict[str, Any]], bool]
STAGED: dict[str, tuple[dict[str, Any], dict[str, Any], Difference]] = {
    # field: (other fields of both runs, the changed field, what must hold of the plain run a and the changed one b)
    "learning_rate": ({}, {"learning_rate": 1e-3}, weights_differ),
    "batch_tokens": (
        {},
        {"batch_tokens": 100},
        lambda a, b: max(t for _, t in b["batches"]) <= 100 < max(t for _, t in a["batches"]),
    ),
    "micro_tokens": (
        {},
        {"micro_tokens": 100},
        lambda a, b: len(b["batches"]) > len(a["batches"]) and same_weights(a, b),
    ),
    "optimizer": ({}, {"optimizer": MethodUse(name="sgd")}, weights_differ),
    "weight_decay": ({}, {"weight_decay": 0.5}, weights_differ),
    "betas": ({}, {"betas": (0.5, 0.9)}, weights_differ),
    "eps": ({}, {"eps": 1e-2}, weights_differ),
    "momentum": ({"optimizer": MethodUse(name="sgd")}, {"momentum": 0.9}, weights_differ),
    "seed": ({}, {"seed": 1}, weights_differ),
    "lr_scheduler_type": (
        {},
        {"lr_scheduler_type": "cosine"},
        lambda a, b: [m["learning_rate"] for m in a["metrics"]] != [m["learning_rate"] for m in b["metrics"]],
    ),
    "warmup_steps": (
        {},
        {"warmup_steps": 3},
        lambda a, b: b["metrics"][0]["learning_rate"] < a["metrics"][0]["learning_rate"],
    ),
    "max_grad_norm": ({"optimizer": MethodUse(name="sgd")}, {"max_grad_norm": 1e-3}, weights_differ),
    "save_steps": (
        {},
        {"save_steps": 1},
        lambda a, b: a["checkpoints"] == [] and b["checkpoints"] == ["checkpoint-2", "checkpoint-3"],
    ),
    "save_total_limit": (
        {"save_steps": 1},
        {"save_total_limit": 1},
        lambda a, b: len(a["checkpoints"]) == 2 and len(b["checkpoints"]) == 1,
    ),
    "eval_steps": ({}, {"eval_steps": 2}, lambda a, b: (evaluated(a), evaluated(b)) == ([], [2, 4])),
    "keep_best": (
        {"eval_steps": 1},
        {"keep_best": "loss"},
        lambda a, b: a["result"].best_step is None and b["result"].best_step == 0 and weights_differ(a, b),
    ),
    "early_stopping": (
        {"eval_steps": 1},
        {"early_stopping": 1},
        lambda a, b: (b["result"].steps, b["result"].ended_by) == (2, "early stopping"),
    ),
    "logging_steps": ({}, {"logging_steps": 2}, lambda a, b: [m["step"] for m in b["metrics"]] == [2, 4]),
    "activation_checkpointing": (
        {},
        {"activation_checkpointing": True},
        lambda a, b: b["forwards"] > a["forwards"] and same_weights(a, b),
    ),
}


@pytest.mark.parametrize("field", STAGED)
def test_a_field_of_train_changes_the_stage(field: str, shared: Session, tmp_path: Path) -> None:
    both, changed, differ = STAGED[field]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    a, b = trained(shared, tmp_path / "a", **both), trained(shared, tmp_path / "b", **both, **changed)
    assert differ(a, b), field


def test_checkpointing_is_off_again_after_the_stage(shared: Session, tmp_path: Path) -> None:
    trained(shared, tmp_path, activation_checkpointing=True)
    assert not shared.adapted.model.is_activation_checkpointing  # type: ignore[union-attr]


def test_a_model_that_cannot_recompute_activations_is_refused() -> None:
    from tunewright.models.recompute import recomputing

    with pytest.raises(MethodError, match="activation_checkpointing"), recomputing(torch.nn.Linear(2, 2), True):
        pass


def test_precision_device_and_threads_are_the_whole_runs(inputs: Path) -> None:
    made = session_of(inputs, train__precision="bfloat16", train__device="cpu", train__threads=2)
    assert (made.precision, made.loaded.dtype, made.device, torch.get_num_threads()) == (
        "bfloat16",
        torch.bfloat16,
        "cpu",
        2,
    )
    if not torch.cuda.is_available():
        with pytest.raises(MethodError, match="train.device"):
            session_of(inputs, train__device="cuda")


OF_THE_RUN = [
    ("data", "eval", "test.jsonl"),
    ("data", "packing", False),
    ("train", "precision", "float32"),
    ("train", "threads", 1),
    ("train", "offload_param", "disk"),
    ("train", "fsdp", "full_shard"),
]


@pytest.mark.parametrize("part, key, value", OF_THE_RUN)
def test_a_stage_cannot_have_its_own_of_what_holds_for_the_run(inputs: Path, part: str, key: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=f"stages.main.{part}.{key}"):
        session_of(inputs, **{f"stages__0__{part}": {key: value}})


def test_blocks_stay_on_disk_where_the_recipe_says_so(inputs: Path) -> None:
    made = session_of(inputs, train__offload_param="disk")
    assert streamed(made.adapted.model) is not None and streamed(session_of(inputs).adapted.model) is None


def test_activations_that_lie_on_the_host_anyway_are_said_to(inputs: Path) -> None:
    def said(on: bool) -> list[str]:
        return [n for n in session_of(inputs, train__activation_offloading=on).notes if "activation_offloading" in n]

    assert said(False) == [] and len(said(True)) == 1 and "does nothing here: on cpu" in said(True)[0]


def test_a_head_that_is_made_anew_starts_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    classifying.write_inputs(tmp_path)
    first = {}
    for head in ("probe", "random"):
        file = small.write_recipe(tmp_path, head, **classifying.recipe(train__head=head))
        done = run(file, tmp_path / f"out-{head}", quiet=True)
        first[head] = RunFolder(done.folder).metrics()[0]["loss"]
    assert first["probe"] < 0.6 < first["random"]


def test_every_field_of_train_has_a_case() -> None:
    of_a_gpu = {"activation_offloading"}  # tests/pretend_device/test_activations.py
    of_blocks = {"compile"}  # tests/models/test_compiled.py: whoever watches blocks sees them as they are written
    of_the_run = {"precision", "device", "threads", "offload_param", "fsdp", "report_to", "head"}
    assert set(STAGED) | of_a_gpu | of_blocks | of_the_run == set(TrainSpec.model_fields)


# -- data --------------------------------------------------------------------------------------------------------------


class FirstHalf(Method):
    """A selector: the first half of the records, last one first, the last at twice the weight."""

    def select(self, records: Any) -> Any:
        half = list(range(len(records) // 2))[::-1]
        return half, [2.0] + [1.0] * (len(half) - 1)


class Nearest(Method):
    """A selector that wants a target."""

    def select(self, records: Any, target: Any, rng: Any) -> list[int]:
        return rng.sample(range(len(records)), min(len(target), len(records)))


@pytest.fixture
def selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"first-half": FirstHalf, "nearest": Nearest}
    kept, entry = catalogue.load_method, catalogue.entries()["lora"]
    for module in (catalogue, catalogue.resolve):
        monkeypatch.setattr(module, "load_method", lambda name, where=None: found.get(name) or kept(name, where))
    known = {**catalogue.entries(), **{n: catalogue.Entry(n, "data/select", entry.module) for n in found}}
    for module in (catalogue, catalogue.folders):
        monkeypatch.setattr(module, "entries", lambda: known)


def rows_of(session: Session) -> list[tuple[str, list[int], list[float]]]:
    return [(r.id, list(r.input_ids), list(r.weights)) for r in session.stages[0].rows.rows]


def long_rows(folder: Path) -> str:
    (folder / "long.jsonl").write_text("\n".join(json.dumps({"text": "card lost " * n}) for n in (3, 60)))
    return "long.jsonl"


DATA: dict[str, tuple[dict[str, Any], Callable[[Session, Session, Path], bool]]] = {
    "train": ({"data__train": "test.jsonl"}, lambda a, b, f: rows_of(a) != rows_of(b)),
    "eval": ({"data__eval": "train.jsonl"}, lambda a, b, f: len(b.eval.rows) == 40 != len(a.eval.rows)),  # type: ignore[union-attr]
    "validation": (
        {"data__validation": 0.25},
        lambda a, b, f: (
            len(b.validation.rows) == 10
            and not {r.id for r in b.validation.rows} & {r[0] for r in rows_of(b)}
            and a.validation is None
        ),  # type: ignore[union-attr]
    ),
    "replay": (
        {"data__replay": {"keep": 0.5}},
        lambda a, b, f: "keep.txt" in {d.rsplit("/", 1)[-1] for d in b.cursor(b.stages[0]).weights},
    ),
    "max_length": (
        {"data__max_length": 42},
        lambda a, b, f: max(len(i) for _, i, _ in rows_of(b)) <= 42 < max(len(i) for _, i, _ in rows_of(a)),
    ),
    "template": ({"data__template": "Topic? {text}"}, lambda a, b, f: rows_of(a) != rows_of(b)),
    "system": ({"data__system": "Be brief."}, lambda a, b, f: rows_of(a) != rows_of(b)),
    "chat": ({"data__chat": False}, lambda a, b, f: rows_of(a) != rows_of(b)),
    "shuffle": ({"data__shuffle": False}, lambda a, b, f: in_order(b) and not in_order(a)),
    "packing": ({"data__packing": False}, lambda a, b, f: a.packed and not b.packed),
}


def in_order(session: Session) -> bool:
    numbers = [int(row.id.rsplit(":", 1)[-1]) for row, _ in session.cursor(session.stages[0]).next_batch()]
    return numbers == sorted(numbers)


@pytest.mark.parametrize("field", DATA)
def test_a_field_of_data_changes_the_rows(field: str, inputs: Path, shared: Session) -> None:
    changes, differ = DATA[field]
    assert differ(shared, session_of(inputs, **changes), inputs), field


def test_truncation_drops_or_splits(inputs: Path) -> None:
    name = long_rows(inputs)
    sizes = {}
    for policy in ("drop", "split"):
        made = session_of(inputs, data__train=name, data__max_length=32, data__truncation=policy)
        sizes[policy] = len(made.stages[0].rows.rows)
    assert sizes["drop"] == 1 < sizes["split"]


def test_labels_name_the_classes(inputs: Path, tmp_path: Path) -> None:
    from tests import tiny

    tiny.bert_classifier(labels=2).save_pretrained(tmp_path / "bert")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(tmp_path / "bert")
    rows = [{"text": f"card {i}", "label": ["no", "yes"][i % 2]} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    changes = {
        "model": str(tmp_path / "bert"),
        "task": "text-classification",
        "keep": [],
        "data": {"train": str(tmp_path / "rows.jsonl")},
    }
    plain, named = session_of(inputs, **changes), session_of(inputs, **changes, data__labels=["yes", "no"])
    assert [r.label for r in plain.stages[0].rows.rows] == [0, 1, 0, 1]
    assert [r.label for r in named.stages[0].rows.rows] == [1, 0, 1, 0]
    assert named.loaded.model.config.id2label == {0: "yes", 1: "no"}  # type: ignore[union-attr]


def test_selectors_keep_order_and_weigh(inputs: Path, shared: Session, selectors: None) -> None:
    whole, kept = rows_of(shared), rows_of(session_of(inputs, data__select=["first-half"], data__shuffle=False))
    assert [r[0] for r in kept] == [r[0] for r in whole[:20]][::-1]
    assert kept[0][2] == [2 * w for w in whole[19][2]] and kept[1][2] == whole[18][2]


def test_a_selector_aims_at_the_validation_rows(inputs: Path, selectors: None) -> None:
    lines = (inputs / "test.jsonl").read_text().splitlines()
    (inputs / "apart.jsonl").write_text("\n".join(line.replace('"prompt": "', '"prompt": "pin ') for line in lines))
    made = session_of(inputs, data__select=["nearest"], data__validation="apart.jsonl")
    assert len(made.stages[0].rows.rows) == 8
    with pytest.raises(DataError, match="one that the run is measured on"):
        session_of(inputs, data__select=["nearest"], data__validation="test.jsonl")
    some = [*lines[:3], *(inputs / "apart.jsonl").read_text().splitlines()[:2]]
    (inputs / "mixed.jsonl").write_text("\n".join(some))
    mixed = session_of(inputs, data__select=["nearest"], data__validation="mixed.jsonl")
    assert len(mixed.stages[0].rows.rows) == 2 and any("3 of 5 rows that selectors" in n for n in mixed.notes)
    with pytest.raises(MethodError, match="data.validation"):
        session_of(inputs, data__select=["nearest"])
    with pytest.raises(MethodError, match="selects no rows"):
        from tunewright.runs.selecting import select

        select([MethodUse(name="lora")], made.stages[0].rows, [], [], 0, "main")


def test_a_stage_with_its_own_encoding_does_not_train_on_held_out_rows(inputs: Path) -> None:
    made = session_of(inputs, data__validation=0.25, stages__0__data={"template": "Topic? {text}"})
    assert made.validation is not None
    assert len(made.stages[0].rows.rows) == 30 and not {r.id for r in made.validation.rows} & {
        r[0] for r in rows_of(made)
    }


def test_holding_rows_out_keeps_the_weights_of_sources(inputs: Path) -> None:
    sources = [{"path": "train.jsonl", "weight": 3.0}, {"path": "test.jsonl", "weight": 1.0}]
    made = session_of(inputs, data__train=sources, data__validation=0.25)
    assert sorted(made.stages[0].rows.shares().values()) == [0.25, 0.75]


def test_every_field_of_data_has_a_case() -> None:
    # tests of their own: synthesize in tests/runs/test_made.py, what streams have in tests/runs/test_streamed.py
    staged = {"truncation", "labels", "select", "synthesize", "bad_rows", "shuffle_buffer"}
    staged |= {"problem_type"}  # tests/tasks/test_problem_types.py
    staged |= {"series"}  # tests/tasks/test_time_series_forecasting.py
    staged |= {"trajectories"}  # tests/tasks/test_reinforcement_learning_episodes.py
    staged |= {"masks"}  # tests/tasks/test_image_segmentation.py
    staged |= {"boxes"}  # tests/tasks/test_object_detection.py
    staged |= {"views"}  # tests/tasks/test_image_feature_extraction.py
    staged |= {"target", "features", "table"}  # tests/tasks/test_tabular.py
    assert set(DATA) | staged == set(DataSpec.model_fields)
