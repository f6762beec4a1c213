"""Measures one run's model: target, choice by likelihood, few shots, kept text and drift, at any strength.

The base is read first, untouched, by the same code and on the same rows; what it gave is kept outside the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Row
from tunewright.data.dataset import Dataset
from tunewright.measure.cache import BaseCache, rows_hash
from tunewright.measure.choose import distinct_labels
from tunewright.measure.cost import Cost
from tunewright.measure.drift import (
    Drift,
    Features,
    Reference,
    feature_drift,
    kl_drift,
    restore_reference,
    sequence_rows,
    take_features,
    take_reference,
)
from tunewright.measure.few_shot import few_shot
from tunewright.measure.kept import DocumentLoss, document_losses
from tunewright.measure.linear_probe import commonest_results, probe_results
from tunewright.measure.rows import RowResult
from tunewright.measure.sample import Sequences, conditioning_ids, sample_sequences, shipped_sequences
from tunewright.measure.target import answers_and_choices, evaluate, get_metric
from tunewright.runs.head_start import probe_of
from tunewright.runs.session import Session

ROWS = ("target", "choice", "few_shot", "probe", "commonest")
"""What readings hold a result a row of."""


@dataclass
class Readings:
    """What one model gave. Empty where the recipe has no rows for it."""

    target: list[RowResult] = field(default_factory=list)
    choice: list[RowResult] = field(default_factory=list)
    few_shot: list[RowResult] = field(default_factory=list)
    probe: list[RowResult] = field(default_factory=list)
    commonest: list[RowResult] = field(default_factory=list)
    kept: dict[str, list[DocumentLoss]] = field(default_factory=dict)
    drift: Drift | None = None

    def values(self) -> dict[str, Any]:
        """JSON values of all but the drift."""
        rows = {k: [r.model_dump() for r in getattr(self, k)] for k in ROWS}
        return {**rows, "kept": {n: [vars(d) for d in docs] for n, docs in self.kept.items()}}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Readings:
        rows = {k: [RowResult(**r) for r in values[k]] for k in ROWS}
        return cls(**rows, kept={n: [DocumentLoss(**d) for d in docs] for n, docs in values["kept"].items()})


class Meter:
    """Reads the session's model. `prepare_base()` first, while the model is the untouched base."""

    def __init__(self, session: Session, cost: Cost):
        self.session, self.cost = session, cost
        spec = session.recipe.measurement
        self.spec = spec
        rows = list(session.eval.rows) if session.eval is not None else []
        self.rows: list[Row] = rows[: spec.rows] if spec.rows else rows
        self.metric = (
            (session.task.default_metric(self.rows) if spec.metric == "auto" else spec.metric) if self.rows else ""
        )
        generated = bool(self.metric) and get_metric(self.metric).kind == "generated"
        self.labels = distinct_labels(self.rows) if generated else None
        self.generated = generated
        self.base = Readings()
        self.reference: Reference | None = None
        self.features: Features | None = None
        self.drift_on = ""
        self.choices = True
        self.probed = session.task.labelled and bool(self.rows)
        self.drift_rows: list[Row] = []
        self.predictor: nn.Module | None = None  # what decodes in the tuned model's place (predicting.py)

    def figures_only(self, *, choices: bool) -> None:
        """Leave out what only a page shows: the base's few shots, what a linear probe and the commonest class give and,
        without `choices`, the choice among labels.
        """
        self.spec = self.spec.model_copy(update={"few_shot": 0})
        self.probed = False
        self.choices = choices

    @property
    def model(self) -> Any:
        return self.predictor or self.session.adapted.outer

    # -- the base ------------------------------------------------------------------------------------------------------

    def prepare_base(self) -> bool:
        """Measure the untouched base, or read what it gave before; True when it came from the cache."""
        with self.cost.phase("base measured"):
            self.drift_rows = self._drift_rows()
            (values, tensors), known = BaseCache().cached(self._key(), self._read_base)
            self.base = Readings.of(values)
            self._hold(tensors)
        return known

    def _read_base(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        readings = self._read(choice=self.choices)
        k = self.spec.few_shot
        train = self.session.stages[-1].rows.rows
        if self.generated and k and sum(1 for r in train if r.fields.get("reference")) > k:
            shown = few_shot(self.session.tokenizer, self.rows, train, k, self.session.seed)
            readings.few_shot = evaluate(
                self.model,
                self.session.tokenizer,
                self.session.task,
                shown,
                self.metric,
                max_new_tokens=self._longest(),
            )
        if self.probed:
            self._read_probe(readings)
        tensors: dict[str, Tensor] = {}
        if self.drift_rows and self.session.task.labelled:
            features = take_features(self.model, self.session.task, self.drift_rows)
            tensors = {"features": features.values}
        elif self.drift_rows:
            tensors = self._reference().tensors()
        return readings.values(), tensors

    def _learnt(self) -> list[Dataset]:
        """What the run's stages learn from, each set of rows once."""
        return list({part.rows.hash: part.rows for part in self.session.stages}.values())

    def _read_probe(self, readings: Readings) -> None:
        """What the base's frozen features and the commonest class give, learnt from the training rows alone."""
        s = self.session
        names, learnt = self.model.config.id2label, self._learnt()
        with self.cost.phase("linear probe"):
            probe = probe_of(s, learnt)
            features = take_features(self.model, s.task, self.rows).values.cpu()
        readings.probe = probe_results(probe, self.rows, features, names)
        labels = [row.label for d in learnt for row in d.rows if row.label is not None]
        readings.commonest = commonest_results(labels, self.rows, names)

    def _reference(self) -> Reference:
        return take_reference(
            self.model, self.session.task, self.drift_rows, packed=self.session.packed, copy_head=True
        )

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        if "features" in tensors:
            head = self._own_head()
            self.features = (
                Features(tensors["features"])
                if head is None
                else Features(
                    tensors["features"],
                    head.weight.detach().clone(),
                    None if head.bias is None else head.bias.detach().clone(),
                )
            )
        elif tensors:
            self.reference = restore_reference(
                tensors, self.model, self.session.task, self.drift_rows, packed=self.session.packed, copy_head=True
            )

    def _own_head(self) -> nn.Linear | None:
        """The base's own classification head; None when it was made afresh for this task."""
        if self.session.loaded.new:
            return None
        heads = [
            s.module
            for s in self.session.adapted.structure.sites
            if s.role == "head" and isinstance(s.module, nn.Linear)
        ]
        return heads[-1] if heads else None  # type: ignore[return-value]

    def _drift_rows(self) -> list[Row]:
        """Causal: what the base itself samples. Masked: kept (else evaluated) rows. Classifiers: evaluated rows."""
        s = self.session
        if s.task.generates:
            self.drift_on = "text that the base sampled"
            shape = (self.spec.drift_sequences, self.spec.drift_tokens)
            shipped = shipped_sequences(s.loaded.hash, s.loaded.beside)
            if shipped is not None and len(shipped.ids) >= shape[0] and self.spec.drift_tokens <= 64:
                sequences = shipped.first(*shape)
            else:
                sequences = self._sampled(*shape)
            return sequence_rows(sequences.ids, sequences.conditioning)
        kept = [r for d in s.keep.values() for r in d.rows]
        self.drift_on = "kept rows" if kept and not s.task.labelled else "evaluated rows"
        rows = kept if kept and not s.task.labelled else self.rows
        return rows[: self.spec.drift_sequences] if not s.task.labelled else rows[:512]

    def known(self) -> tuple[bool, bool]:
        """Whether (the base's readings, its drift sequences) are there already. Computes nothing of either."""
        s = self.session
        n, tokens = self.spec.drift_sequences, self.spec.drift_tokens
        shipped = shipped_sequences(s.loaded.hash, s.loaded.beside) if s.task.generates else None
        sampled = not s.task.generates or (shipped is not None and len(shipped.ids) >= n and tokens <= 64)
        if not sampled and BaseCache().get(self._sequences_key(n, tokens)) is None:
            return False, False
        self.drift_rows = self._drift_rows()
        return BaseCache().get(self._key()) is not None, True

    def _base(self) -> str:
        """What names the untouched model: its weights, and the files that decide what they compute."""
        return f"{self.session.loaded.hash}/{self.session.loaded.beside}"

    def _key(self) -> str:
        return BaseCache().key(self._base(), self._rows_hash(), self._settings())

    def _sequences_key(self, n: int, tokens: int) -> str:
        s = self.session
        return BaseCache().key(self._base(), "drift sequences", {"n": n, "tokens": tokens, "precision": s.precision})

    def _sampled(self, n: int, tokens: int) -> Sequences:
        """Sequences of the base, kept by its hash."""
        s, cache, key = self.session, BaseCache(), self._sequences_key(n, tokens)
        with self.cost.phase("drift sequences sampled"):
            (values, _), _ = cache.cached(
                key, lambda: ({"ids": sample_sequences(s.adapted.model, s.tokenizer, n, tokens, 0)}, {})
            )
        return Sequences(values["ids"], len(conditioning_ids(s.tokenizer)))

    def _rows_hash(self) -> str:
        s = self.session
        # training rows: only the few shots and the probe see them
        shown = [s.stages[-1].rows.hash] if self.spec.few_shot else []
        shown += [d.hash for d in self._learnt()] if self.probed else []
        parts = [
            rows_hash(self.rows),
            *shown,
            *(f"{n}={d.hash}" for n, d in s.keep.items()),
            rows_hash(self.drift_rows),
        ]
        return "/".join(parts)

    def _settings(self) -> dict[str, Any]:
        s = self.session
        fixed = self.spec.model_dump(exclude={"strengths", "split"})
        return {
            **fixed,
            "metric": self.metric,
            "precision": s.precision,
            "device": s.device,
            "packed": s.packed,
            "seed": s.seed if self.spec.few_shot else None,
            "choices": self.choices,
            "probed": self.probed,
            "vocabulary": s.recipe.new_tokens,
            "threads": torch.get_num_threads(),
            "task": s.task.name,
        }

    # -- any strength --------------------------------------------------------------------------------------------------

    def _longest(self) -> int | None:
        """Tokens an answer may have: the longest reference's and two, never more than the recipe allows."""
        from tunewright.measure.target import answer_length

        return min(self.spec.max_new_tokens, answer_length(self.rows)) if self.generated else None

    def _read(self, *, choice: bool) -> Readings:
        s, readings = self.session, Readings()
        if self.rows and choice and self.labels:
            readings.target, readings.choice = answers_and_choices(
                self.model, s.tokenizer, self.rows, self.labels, self.metric, max_new_tokens=self._longest()
            )
        elif self.rows:
            readings.target = self.read_target()
        for name, dataset in s.keep.items():
            readings.kept[name] = document_losses(self.model, s.tokenizer, s.task, list(dataset.rows), packed=s.packed)
        return readings

    def read(self, *, choice: bool = True) -> Readings:
        """Read the model as it is now (call inside `adapted.at_strength`)."""
        readings = self._read(choice=choice)
        if self.reference is not None:
            readings.drift = kl_drift(self.reference, self.model)
        elif self.features is not None:
            tuned = take_features(self.model, self.session.task, self.drift_rows)
            readings.drift = feature_drift(self.features, tuned)
        return readings

    def read_target(self) -> list[RowResult]:
        """The target alone, of the model as it is now."""
        return evaluate(
            self.model,
            self.session.tokenizer or self.session.loaded.processor,
            self.session.task,
            self.rows,
            self.metric,
            max_new_tokens=self._longest(),
            packed=self.session.packed,
        )

    def quick(self, rows: Sequence[Row], most: int = 64) -> dict[str, float]:
        """Loss, and the target on at most `most` rows, while training."""
        s = self.session
        losses = evaluate(self.model, s.tokenizer, s.task, list(rows), "loss", packed=s.packed)
        figures = {"loss": sum(r.score * r.weight for r in losses) / max(1e-9, sum(r.weight for r in losses))}
        if self.metric and self.metric != "loss":
            some = evaluate(
                self.model, s.tokenizer, s.task, list(rows)[:most], self.metric, max_new_tokens=self._longest()
            )
            figures["target"] = sum(r.score for r in some) / len(some)
            self.samples = [(r.prompt, r.answer, r.reference) for r in some[:2]]
        return figures

    samples: list[tuple[str, str, str]] = []
