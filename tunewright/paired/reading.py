"""What one side gives on the rows: target, choice among labels, kept text; and how far the other side is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.contract.batch import Row
from tunewright.data.dataset import build
from tunewright.errors import DataError, NonFiniteError
from tunewright.files.cache import cache_folder
from tunewright.measure.asking import ask, questions
from tunewright.measure.choose import distinct_labels
from tunewright.measure.drift import (
    Drift,
    Features,
    Reference,
    feature_drift,
    foretold_by,
    kl_drift,
    sequence_rows,
    take_features,
    take_reference,
    told_by_features,
)
from tunewright.measure.kept import DocumentLoss, document_losses
from tunewright.measure.pack import Pack
from tunewright.measure.rows import RowResult
from tunewright.measure.sample import conditioning_ids, sample_sequences
from tunewright.measure.target import answers_and_choices, evaluate, get_metric, longest_answer
from tunewright.models.next_scale import NextScale, coding_of
from tunewright.paired.sides import Opened
from tunewright.recipe import Source
from tunewright.runs.sources import kept_options
from tunewright.tasks._detectors import count_of
from tunewright.tasks._parts import DETECTION


@dataclass(frozen=True)
class Wanted:
    """What is read of each side, the same of both. `sure`: also how sure choices among labels are."""

    data: Sequence[Source]
    keep: Mapping[str, Source]
    base: Path
    metric: str = "auto"
    rows: int | None = None
    max_new_tokens: int = 32
    beams: int | None = None
    sequences: int = 64
    tokens: int = 64
    packs: Mapping[str, Pack] = field(default_factory=dict)
    sure: bool = False


@dataclass
class Read:
    """What a side gave. `asked`: its rows, as they were encoded for it."""

    name: str
    metric: str = ""
    target: list[RowResult] = field(default_factory=list)
    choice: list[RowResult] = field(default_factory=list)
    kept: dict[str, list[DocumentLoss]] = field(default_factory=dict)
    packs: dict[str, list[RowResult]] = field(default_factory=dict)
    vocabulary: int = 0
    coding: str = ""
    unit: str = "nats per token"
    asked: list[Row] = field(default_factory=list)

    def every_answer(self) -> list[RowResult]:
        """Results by row, of the rows and then of each pack's questions."""
        return [*self.target, *(r for answers in self.packs.values() for r in answers)]


def read(side: Opened, wanted: Wanted) -> Read:
    """Everything that one side gives on the rows. DataError for rows that cannot be used."""
    out = Read(side.asked.name, vocabulary=vocabulary(side), unit=side.task.unit_of(side.model.config))
    out.coding = coding_of(side.adapted.model) if isinstance(side.adapted.model, NextScale) else ""
    model, task = side.model, side.task
    if wanted.data:
        out.asked = _rows(side, wanted)
        out.metric = task.default_metric(out.asked) if wanted.metric == "auto" else wanted.metric
        generated = get_metric(out.metric).kind == "generated"
        longest = longest_answer(task, out.asked, wanted.max_new_tokens) if generated else None
        labels = distinct_labels(out.asked) if generated and task.continues else None
        if labels:
            out.target, out.choice = answers_and_choices(
                model, side.tokenizer, out.asked, labels, out.metric, max_new_tokens=longest, full=wanted.sure
            )
        else:
            out.target = evaluate(
                model,
                side.tokenizer,
                task,
                out.asked,
                out.metric,
                max_new_tokens=longest,
                packed=side.packed,
                num_beams=wanted.beams,
            )
    for name, source in wanted.keep.items() if not task.embeds else ():
        texts = build([source], task, side.tokenizer, kept_options(side.options), cache_folder(), base=wanted.base)
        out.kept[name] = document_losses(model, side.loaded.tokenizer, task, list(texts.rows), packed=side.packed)
    for name, pack in wanted.packs.items():
        out.packs[name] = ask(model, side.tokenizer, task, questions(pack, task, side.tokenizer, side.options))
    _refuse_nonfinite(out)
    return out


def _refuse_nonfinite(found: Read) -> None:
    """NonFiniteError naming the first row or document whose figure is none."""
    figures = [(r.id, r.score) for r in (*found.target, *found.choice)]
    figures += [(d.id, d.nats) for documents in found.kept.values() for d in documents]
    if bad := next((name for name, value in figures if not math.isfinite(value)), None):
        raise NonFiniteError(
            f"what {found.name} gives of '{bad}' is not finite",
            where=bad,
            remedy="look at the model's weights, or at the precision that it was computed in",
        )


def _rows(side: Opened, wanted: Wanted) -> list[Row]:
    dataset = build(wanted.data, side.task, side.tokenizer, side.options, cache_folder(), base=wanted.base)
    return list(dataset.rows)[: wanted.rows]


def vocabulary(side: Opened) -> int:
    """A number that is equal for equal vocabularies; 0 where there is none."""
    tokenizer = side.loaded.tokenizer
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        return 0
    return hash(frozenset(tokenizer.get_vocab().items()))


@dataclass
class Origin:
    """What the first side predicts where the second is then read: `on` says in words where that is. `places`: of a
    detector, what another has to have for its proposals to be these (`_places`); features then stand beside.
    """

    on: str
    rows: list[Row]
    vocabulary: int = 0
    coding: str = ""
    reference: Reference | None = None
    features: Features | None = None
    places: tuple[Any, ...] = ()


def _places(side: Opened) -> tuple[Any, ...]:
    """The kind of detector, how many proposals it has and the classes of each."""
    config: Any = side.model.config
    return config.model_type, count_of(config), tuple(side.options.labels or ())


def origin(side: Opened, wanted: Wanted, seen: Read) -> Origin | None:
    """Where drift is measured, and what the first side says there. Causal models: text that it samples itself. Others:
    the rows themselves (what classifiers' heads read of them). None where there are no rows.
    """
    task, model = side.task, side.model
    if task.continues:
        ids = sample_sequences(model, side.tokenizer, wanted.sequences, wanted.tokens, 0)
        on, rows = "text that the first sampled", sequence_rows(ids, len(conditioning_ids(side.tokenizer)))
    else:
        on, rows = "the rows", seen.asked[:512]
    if not rows:
        return None
    boxes = task.is_a(DETECTION) and not told_by_features(task, model.config, fresh=bool(side.loaded.new))
    if (task.pools or task.embeds or task.per_token or foretold_by(task, model.config)) and not boxes:
        return Origin(on, rows, features=take_features(model, task, rows))
    return Origin(
        on,
        rows,
        seen.vocabulary,
        seen.coding,
        take_reference(model, task.compared(model.config), rows, packed=side.packed),
        take_features(model, task, rows) if boxes else None,
        _places(side) if boxes else (),
    )


def apart(there: Origin, side: Opened, seen: Read) -> Drift | None:
    """How far a side is from the one that gave the origin; None where features tell no two rows apart."""
    if there.reference is not None and (not there.places or there.places == _places(side)):
        return kl_drift(there.reference, side.model)
    assert there.features is not None
    # a classifier reads the rows through its own tokenizer: places are compared, not tokens
    own = {r.id: r for r in seen.asked}
    if any(r.id not in own for r in there.rows):
        raise DataError("the two sides do not read the same rows", where=seen.name, remedy="raise max_length")
    return feature_drift(there.features, take_features(side.model, side.task, [own[r.id] for r in there.rows]))
