"""The lab's tasks: what a claim's arms learn, on which base, and what they must not lose. A recipe without methods
each.

Rows to train, to choose settings on (validation) and to judge on (eval) are kept apart; 200 rows or more are judged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tunewright.claims.lab import rows
from tunewright.claims.lab.overlay import merged
from tunewright.errors import ClaimError, did_you_mean

Scale = Literal["nano", "real"]
Parts = Mapping[str, str]


@dataclass(frozen=True)
class LabTask:
    """A task by scale. `scales` maps a scale to a recipe without methods; `needs_data`: reads TUNEWRIGHT_DATA.

    `parts`, where there is one, makes the rows' files; a recipe names them as "<train>", "<validation>", "<eval>" and
    so on.
    """

    name: str
    about: str
    scales: Mapping[str, Mapping[str, Any]]
    needs_data: bool = False
    parts: Callable[[], Parts] | None = field(default=None, repr=False)

    def recipe(self, scale: Scale = "nano") -> dict[str, Any]:
        """A copy of the recipe.

        ClaimError where the task has no base of this scale, DataError where its data are not here.
        """
        if scale not in self.scales:
            raise ClaimError(
                f"the lab task '{self.name}' has no base at scale '{scale}'", remedy=f"it has: {', '.join(self.scales)}"
            )
        recipe = copy.deepcopy(dict(self.scales[scale]))
        return _filled(recipe, self.parts()) if self.parts is not None else recipe


def _filled(value: Any, parts: Parts) -> Any:
    """`value` with every "<part>" replaced by that part's path, names of keys too."""
    if isinstance(value, Mapping):
        return {_filled(k, parts): _filled(v, parts) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, parts) for v in value]
    return parts[value[1:-1]] if isinstance(value, str) and value.startswith("<") and value.endswith(">") else value


def _data(**more: Any) -> dict[str, Any]:
    named = {part: [{"path": f"<{part}>", "name": part}] for part in ("train", "validation", "eval")}
    return {**named, "max_length": 256, **more}


def _nano(**over: Any) -> dict[str, Any]:
    """Defaults of the nano causal base, with `over` laid on them."""
    base = {
        "model": "nano",
        "task": "text-generation",
        "data": _data(),
        "keep": [{"data": "quickstart:keep", "name": "general", "limit": 8}],
        "train": {"batch_tokens": 512, "precision": "float32", "learning_rate": 1e-3},
        "budget": {"tokens": 16_000},
        "evaluation": {"rows": 200, "max_new_tokens": 12, "drift_sequences": 16, "drift_tokens": 48, "few_shot": 0},
    }
    return merged(base, over)


def _real(**over: Any) -> dict[str, Any]:
    """Defaults of SmolLM2-135M-Instruct, with `over` laid on them."""
    base = {
        "model": "smollm2-135m-instruct",
        "task": "text-generation",
        "data": _data(system=""),
        "keep": [{"data": "quickstart:keep", "name": "general"}],
        "train": {"batch_tokens": 256, "precision": "float32"},
        "budget": {"tokens": 20_000},
        "evaluation": {"rows": 200, "max_new_tokens": 16, "drift_sequences": 32, "drift_tokens": 48},
    }
    return merged(base, over)


INTENTS = LabTask(
    "intents",
    "Which of twelve topics is a bank customer's message about? Written out by the model; exact match on 200 rows.",
    {
        "nano": _nano(
            data={
                "train": "quickstart:train",
                "validation": [{"path": "quickstart:validation"}],
                "eval": [{"path": "quickstart:test"}],
            }
        ),
        "real": {
            "model": "smollm2-135m-instruct",
            "task": "text-generation",
            "data": {
                "train": "quickstart:train",
                "validation": [{"path": "quickstart:validation"}],
                "eval": [{"path": "quickstart:test"}],
                "system": "",
                "max_length": 256,
            },
            "keep": [{"data": "quickstart:keep", "name": "general"}],
            "train": {"batch_tokens": 256, "precision": "float32"},
            "budget": {"tokens": 20_000},
            "evaluation": {"rows": 200, "max_new_tokens": 12, "drift_sequences": 32, "drift_tokens": 48},
        },
    },
)

INDUCTION = LabTask(
    "induction",
    (
        "Eight kinds of short instructions (letters, plurals, sums, numbers in words, the larger animal, sentiment), "
        "mixed; exact match on 200 rows."
    ),
    {
        "nano": _nano(evaluation={"max_new_tokens": 24}, budget={"tokens": 24_000}),
        "real": _real(evaluation={"max_new_tokens": 24}),
    },
    needs_data=True,
    parts=rows.induction,
)

ARITHMETIC = LabTask(
    "arithmetic",
    (
        "Programs of two assignments modulo 10, answered by their trace, and functions of lists of digits; exact match "
        "of the whole answer on 200 rows."
    ),
    {
        "nano": _nano(evaluation={"max_new_tokens": 24}, budget={"tokens": 30_000}),
        "real": _real(evaluation={"max_new_tokens": 32}),
    },
    parts=rows.arithmetic,
)

TOPICS = LabTask(
    "topics",
    "Which of ten domains is a query about? A new head on a text encoder; accuracy on 300 rows.",
    {
        scale: {
            "model": model,
            "task": "text-classification",
            "data": _data(max_length=64),
            "train": {"batch_tokens": 512, "precision": "float32", "learning_rate": 1e-3},
            "budget": {"tokens": tokens},
            "evaluation": {"rows": 300, "few_shot": 0, "drift_sequences": 64},
        }
        for scale, model, tokens in (("nano", "nano-encoder", 20_000), ("real", "minilm-l6", 20_000))
    },
    needs_data=True,
    parts=rows.topics,
)

DIGITS = LabTask(
    "digits",
    (
        "Handwritten digits turned by a right angle, on a small ViT that knows them upright; accuracy on 400 pictures, "
        "the upright ones kept."
    ),
    {
        "nano": {
            "model": "nano-vit",
            "task": "image-classification",
            "data": _data(),
            "keep": [{"data": "<keep>", "name": "upright"}],
            "train": {"batch_tokens": 32, "precision": "float32", "learning_rate": 3e-4},
            "budget": {"epochs": 1},
            "evaluation": {"rows": 400, "few_shot": 0, "drift_sequences": 64},
        },
        "real": {  # a new head: its 1,000 classes know no digit, upright or turned, so none are kept
            "model": "efficientnet-lite0",
            "task": "image-classification",
            "data": _data(),
            "train": {"batch_tokens": 32, "precision": "float32", "learning_rate": 1e-3},
            "budget": {"epochs": 1},
            "evaluation": {"rows": 400, "few_shot": 0, "drift_sequences": 64},
        },
    },
    needs_data=True,
    parts=rows.digits,
)

PREFERENCES = LabTask(
    "preferences",
    (
        "The right topic of a message preferred to a wrong one, after a short supervised stage; exact match of "
        "what the "
        "model writes on 200 rows."
    ),
    {
        scale: make(
            stages=[
                {
                    "name": "supervised",
                    "methods": ["full"],
                    "budget": {"tokens": 8_000},
                    "train": {"learning_rate": rate},
                },
                {"name": "preference"},
            ],
            evaluation={"max_new_tokens": 12},
            budget={"tokens": 12_000},
        )
        for scale, make, rate in (("nano", _nano, 1e-3), ("real", _real, 1e-4))
    },
    parts=rows.preferences,
)

DOMAIN = LabTask(
    "domain",
    (
        "Plain text of a second language and domain (German law); its loss in nats per token on 250 sentences, English "
        "prose kept."
    ),
    {
        "nano": _nano(budget={"tokens": 24_000}, evaluation={"metric": "loss", "rows": 250}),
        "real": _real(evaluation={"metric": "loss", "rows": 250}),
    },
    needs_data=True,
    parts=rows.domain,
)

SELECTION = LabTask(
    "selection",
    (
        "A pool of five kinds of text in which one in eight is a bank customer's message; loss in nats per "
        "token on 250 "
        "such messages."
    ),
    {
        "nano": _nano(evaluation={"metric": "loss", "rows": 250}),
        "real": _real(evaluation={"metric": "loss", "rows": 250}),
    },
    needs_data=True,
    parts=rows.selection,
)


def _sequence() -> dict[str, str]:
    """Three kinds of instructions, each a stage's training rows; judged on all of them."""
    kinds = ("letters_list", "singular_to_plural", "num_to_verbal")
    together = rows.induction(kinds)
    each = {f"train-{i}": rows.induction((kind,), validation=40)["train"] for i, kind in enumerate(kinds, 1)}
    return {**together, **each}


def _stages(tokens: int) -> dict[str, Any]:
    stages = [
        {"name": f"task-{i}", "data": {"train": [{"path": f"<train-{i}>", "name": f"task-{i}"}]}} for i in (1, 2, 3)
    ]
    return {"stages": stages, "budget": {"tokens": tokens}, "evaluation": {"metric": "loss", "rows": 200}}


SEQUENCE = LabTask(
    "sequence",
    (
        "Three kinds of instructions one after the other (letters, plurals, numbers in words), a stage each; loss a "
        "token of the answers, 200 rows of all."
    ),
    {"nano": _nano(**_stages(8_000)), "real": _real(**_stages(8_000))},
    needs_data=True,
    parts=_sequence,
)

CALIBRATED = LabTask(
    "intents-calibrated",
    (
        "`intents` with general text of other documents beside what is kept (`calibration`), for methods that look at "
        "such text before they train."
    ),
    {
        scale: merged(INTENTS.scales[scale], {"keep": [{"data": "<calibration>", "name": "calibration"}]})
        for scale in ("nano", "real")
    },
    needs_data=True,
    parts=rows.calibration,
)

PAIRS = LabTask(
    "preferences-pairs",
    (
        "`preferences` judged by how often the right topic is likelier than the wrong one, summed over its tokens; "
        "200 pairs."
    ),
    {
        scale: merged(PREFERENCES.scales[scale], {"evaluation": {"metric": "pair_accuracy"}})
        for scale in ("nano", "real")
    },
    parts=rows.preferences,
)

REPLAY = LabTask(
    "domain-replay",
    (
        "`domain` with general text to replay, which is not the text whose loss is kept; a quarter of the "
        "tokens unless "
        "a method says otherwise."
    ),
    {scale: merged(DOMAIN.scales[scale], {"data": {"replay": {"<replay>": 0.25}}}) for scale in ("nano", "real")},
    needs_data=True,
    parts=rows.domain_replay,
)


def _arriving(model: str, tokens: int) -> dict[str, Any]:
    """Two classes a stage; each stage trains on what the one before left, with its deltas."""
    stages = [
        {"name": f"classes-{i + 1}", "data": {"train": [{"path": f"<train-{i + 1}>", "name": f"train-{i + 1}"}]}}
        for i in range(len(rows.DOMAINS) // 2)
    ]
    later = [{**stage, "carry": "training"} for stage in stages[1:]]
    recipe = merged(
        TOPICS.scales["nano"], {"model": model, "data": {"labels": list(rows.DOMAINS)}, "budget": {"tokens": tokens}}
    )
    return {**recipe, "stages": [stages[0], *later]}


ARRIVING = LabTask(
    "classes",
    (
        "The ten domains of `topics` in five stages of two each, no old row kept; accuracy among all ten on 300 rows "
        "after the last."
    ),
    {"nano": _arriving("nano-encoder", 8_000), "real": _arriving("minilm-l6", 8_000)},
    needs_data=True,
    parts=rows.classes,
)


_BY_LEVEL = {"tasks": {"by": "level", "scenario": "task-incremental"}, "train": {"head": "random"}}
LEVELS = LabTask(
    "levels",
    "Queries by their domain (five) and, others, by their intent (four of each), in two tasks; accuracy on 400 rows.",
    {
        scale: merged(recipe, {**_BY_LEVEL, "budget": {"tokens": 30_000}, "evaluation": {"rows": 400}})
        for scale, recipe in TOPICS.scales.items()
    },
    needs_data=True,
    parts=rows.levels,
)


def _unequal(make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    recipe = make(budget={"tokens": 40_000}, evaluation={"metric": "loss", "rows": 250})
    sources = [{"path": f"<{part}>", "name": part} for part in ("large", "small")]
    return {**recipe, "data": {**recipe["data"], "train": sources}}


UNEQUAL = LabTask(
    "unequal",
    (
        "Plain text of two new sources, German law and a hundredth as many lines of Genesis in Finnish; loss in nats a "
        "token on 125 rows of each."
    ),
    {"nano": _unequal(_nano), "real": _unequal(_real)},
    needs_data=True,
    parts=rows.unequal,
)

TRANSLATION = LabTask(
    "translation",
    (
        "English and Japanese, both ways, from 200 pairs of short sentences; loss in nats a token of the "
        "translation on 250."
    ),
    {
        scale: make(budget={"tokens": 12_000}, evaluation={"metric": "loss", "rows": 250})
        for scale, make in (("nano", _nano), ("real", _real))
    },
    needs_data=True,
    parts=rows.translation,
)

TASKS: dict[str, LabTask] = {
    t.name: t
    for t in (
        *(INTENTS, INDUCTION, ARITHMETIC, TOPICS, DIGITS, PREFERENCES, DOMAIN, SELECTION, SEQUENCE),
        *(CALIBRATED, PAIRS, REPLAY, ARRIVING, LEVELS, UNEQUAL, TRANSLATION),
    )
}
"""The lab's tasks by name."""


def task(name: str) -> LabTask:
    """A task by its name. ClaimError with the nearest names."""
    if name not in TASKS:
        raise ClaimError(f"the lab has no task '{name}'", remedy=did_you_mean(name, TASKS))
    return TASKS[name]
