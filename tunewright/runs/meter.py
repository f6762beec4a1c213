"""Measures one run's model: target, choice by likelihood, few shots, kept text and drift, at any strength.

The base is read first, untouched, by the same code and on the same rows; what it gave is kept outside the run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tunewright import catalogue
from tunewright.contract.batch import Row
from tunewright.contract.task import Task
from tunewright.data.dataset import Dataset, joined
from tunewright.measure import episodes, trees
from tunewright.measure.cache import BaseCache
from tunewright.measure.choose import distinct_labels
from tunewright.measure.cost import Cost
from tunewright.measure.drift import (
    Drift,
    Features,
    Reference,
    feature_drift,
    foretold_by,
    kl_drift,
    kl_of,
    restore_reference,
    sequence_rows,
    take_features,
    take_reference,
    told_by_features,
)
from tunewright.measure.forecasts import without_model
from tunewright.measure.kept import check_predicts
from tunewright.measure.linear_probe import (
    always,
    by_chance,
    commonest_by_token,
    commonest_results,
    predicted_results,
    probe_results,
)
from tunewright.measure.rows import RowResult
from tunewright.measure.sample import Sequences, conditioning_ids, sample_sequences, shipped_sequences
from tunewright.measure.target import evaluate, figure_of, get_metric, longest_answer
from tunewright.runs import base_key, packs
from tunewright.runs.head_start import probe_of
from tunewright.runs.heads import Head, heads_of, practice_of, read_rows
from tunewright.runs.parted import Part, spread
from tunewright.runs.readings import Readings
from tunewright.runs.session import Session
from tunewright.runs.sharing import Sharing
from tunewright.tasks._parts import FORECASTING, PLAYING, TREES


class Meter:
    """Reads the session's model. `prepare_base()` first, while the model is the untouched base."""

    def __init__(self, session: Session, cost: Cost):
        self.session, self.cost = session, cost
        spec = session.recipe.measurement
        self.spec = spec
        head, self.others = heads_of(session)
        self.rows, self.metric = head.rows, head.metric
        self.named = head.name
        self.evaluated = read_rows(head, self.others)
        generated = bool(self.metric) and get_metric(self.metric).kind == "generated"
        self.labels = distinct_labels(self.rows) if generated and session.task.continues else None
        self.generated = generated
        self.shows = generated and session.task.continues
        self.base = Readings()
        self.reference: Reference | None = None
        self.features: Features | None = None
        self.drift_on = ""
        self.choices = True
        # a label that cannot win is not read to its end, and then nobody knows how sure the choice is
        self.full = any(catalogue.canonical(use.name) == "calibration" for use in session.recipe.probes)
        # what a task of its own predicts may be anything: a class that was guessed is none of it
        comparable = bool(self.rows) and get_metric(self.metric).kind != "predicted"
        of = get_metric(self.metric).of if self.rows else ""
        self.probed = session.task.classifies and comparable or session.task.other_problem and bool(of)
        guesses = session.task.per_token and session.task.labelled and session.task.likelihoods
        self.guessed = guesses and self.metric not in ("", "loss")
        self.drift_rows: list[Row] = []
        self._written: dict[str, Any] | None = None  # sequences of the base, where drift is told on them
        self.sharing = Sharing(self)
        self.predictor: nn.Module | None = None  # what decodes in the tuned model's place (predicting.py)

    def figures_only(self, *, choices: bool) -> None:
        """Leave out what only a page shows: the base's few shots, what a linear probe and the commonest class give and,
        without `choices`, the choice among labels. The dial is read on all rows: trials are compared at the strength
        that gives an equal target.
        """
        self.spec = self.spec.model_copy(update={"few_shot": 0, "dial_rows": None})
        self.probed = self.guessed = False
        self.choices = choices

    @property
    def by_features(self) -> bool:
        """Whether drift is told from what the head reads: a head that was just drawn says nothing of the base."""
        s = self.session
        return told_by_features(s.task, self.model.config, fresh=bool(s.loaded.new))

    @property
    def model(self) -> Any:
        return self.predictor or self.session.adapted.outer

    # -- the base ------------------------------------------------------------------------------------------------------

    def prepare_base(self) -> bool:
        """Measure the untouched base, or read what it gave before; True when it came from the cache."""
        with self.cost.phase("base measured"):
            self.drift_rows = self._drift_rows()
            (values, tensors), known = BaseCache().cached(self._key(), self._read_base, self.sharing.all_know)
            self.base = Readings.of(values)
            self._hold(tensors)
            if self.reference is not None:  # what others help to read; features are compared all at once
                self.sharing.hold(self._written, tensors)
        return known

    def hold(self, written: dict[str, Any] | None, tensors: dict[str, Tensor]) -> None:
        """Take over what the base predicted from who read it; `written`: the sequences, if it wrote any."""
        self.drift_rows = self._drift_rows() if written is None else sequence_rows(written["ids"], written["given"])
        self._hold(tensors)

    def _read_base(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        s, readings = self.session, self._read(choice=self.choices)
        k = self.spec.few_shot
        if self.shows and k and sum(1 for r in self.shots().rows if r.fields.get("reference")) > k:
            readings.few_shot = self.sharing.read("few_shot", range(len(self.rows)))
        if self.probed:
            self._read_probe(readings)
        if self.guessed:
            learnt = (row for d in self.learnt() for row in d.rows)
            readings.commonest = commonest_by_token(self.model, s.tokenizer, s.task, learnt, self.rows, self.metric)
        if self.metric == "choice_accuracy":
            readings.commonest = by_chance(s.task, self.rows)
        if s.task.is_a(FORECASTING) and self.metric not in ("", "loss"):
            readings.baselines = without_model(self.rows, self.metric)
        if self.plays:
            told = episodes.at_random(self.rows, get_metric(self.metric), self.model.config)
            readings.baselines = {"actions at random": told}
        if self.probed and s.options.table is not None and trees.has_columns(s.options.table) and self._comparable():
            every = [row for d in self.learnt() for row in d.rows]
            names = self.model.config.id2label if s.task.classifies else None
            with self.cost.phase(TREES):
                said = trees.results(s.options.table, every, self.rows, self.metric, names)
            readings.baselines[TREES] = said
        tensors: dict[str, Tensor] = {}
        if self.drift_rows and self.by_features:
            features = take_features(self.model, self.session.task, self.drift_rows)
            tensors = {"features": features.values}
        elif self.drift_rows:
            tensors = self._reference().tensors()
        return readings.values(), tensors

    def _comparable(self) -> bool:
        """Whether the target's own metric scores what something else than the model tells."""
        metric = get_metric(self.metric)
        return metric.kind == "classified" or bool(metric.of)

    def learnt(self) -> list[Dataset]:
        """What the run's stages learn from, each set of rows once."""
        return list({part.rows.hash: part.rows for part in self.session.stages}.values())

    def shots(self) -> Dataset:
        """What the base may be shown examples of: what is learnt last, of a sequence of tasks all of it."""
        whole = self.session.recipe.sequence is not None
        return joined([p.rows for p in self.session.stages]) if whole else self.session.stages[-1].rows

    def _read_probe(self, readings: Readings) -> None:
        """What the base's frozen features and the commonest class give, learnt from the training rows alone."""
        s = self.session
        names, learnt = self.model.config.id2label, self.learnt()
        with self.cost.phase("linear probe"):
            probe = probe_of(s, learnt)
            features = take_features(self.model, s.task, self.rows).values.cpu()
        if s.task.other_problem:
            readings.probe = predicted_results(s.task, probe.logits(features), self.rows, self.metric)
            same = always([row.fields["target"] for d in learnt for row in d.rows], regression=s.task.scores)
            readings.commonest = predicted_results(s.task, same.expand(len(self.rows), -1), self.rows, self.metric)
            return
        readings.probe = probe_results(probe, self.rows, features, names)
        labels = [row.label for d in learnt for row in d.rows if row.label is not None]
        readings.commonest = commonest_results(labels, self.rows, names)

    def _reference(self) -> Reference:
        return take_reference(self.model, self._compared(), self.drift_rows, packed=self.session.packed, copy_head=True)

    def _compared(self) -> Task:
        return self.session.task.compared(self.model.config)

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        if "features" in tensors:
            head = self._own_head()
            self.features = (
                Features(tensors["features"], foretold=foretold_by(self.session.task, self.model.config))
                if head is None
                else Features(
                    tensors["features"],
                    head.weight.detach().clone(),
                    None if head.bias is None else head.bias.detach().clone(),
                )
            )
        elif tensors:
            self.reference = restore_reference(
                tensors, self.model, self._compared(), self.drift_rows, packed=self.session.packed, copy_head=True
            )

    def _own_head(self) -> nn.Linear | None:
        """The base's own classification head; None when it was made afresh for this task, or gives no classes."""
        if self.session.loaded.new or not self.session.task.classifies:
            return None
        heads = [
            s.module
            for s in self.session.adapted.structure.sites
            if s.role == "head" and isinstance(s.module, nn.Linear)
        ]
        return heads[-1] if heads else None  # type: ignore[return-value]

    def _drift_rows(self) -> list[Row]:
        """Causal: what the base itself samples. Masked: kept (else evaluated) rows. Classifiers, and models of pictures
        in texts: evaluated rows.
        """
        s = self.session
        if s.task.continues:
            self.drift_on = "text that the base sampled"
            shape = (self.spec.drift_sequences, self.spec.drift_tokens)
            shipped = shipped_sequences(s.loaded.hash, s.loaded.beside)
            if shipped is not None and len(shipped.ids) >= shape[0] and self.spec.drift_tokens <= 64:
                sequences = shipped.first(*shape)
            else:
                sequences = self._sampled(*shape)
            self._written = {"ids": sequences.ids, "given": sequences.conditioning}
            return sequence_rows(sequences.ids, sequences.conditioning)
        kept = [r for d in s.keep.values() for r in d.rows]
        on_kept = bool(kept) and not s.task.makes_head and not any(r.fields.get("picture_tokens") for r in self.rows)
        self.drift_on = "kept rows" if on_kept else "evaluated rows"
        rows = kept if on_kept else self.evaluated
        if not rows and s.task.is_a(PLAYING):
            self.drift_on, rows = "training rows", list(s.stages[0].rows.rows[: self.spec.drift_sequences])
        return rows[:512] if s.task.makes_head or s.task.embeds else rows[: self.spec.drift_sequences]

    def known(self) -> tuple[bool, bool]:
        """Whether (the base's readings, its drift sequences) are there already. Computes nothing of either."""
        s = self.session
        n, tokens = self.spec.drift_sequences, self.spec.drift_tokens
        shipped = shipped_sequences(s.loaded.hash, s.loaded.beside) if s.task.continues else None
        sampled = not s.task.continues or (shipped is not None and len(shipped.ids) >= n and tokens <= 64)
        if not sampled and BaseCache().get(self._sequences_key(n, tokens)) is None:
            return False, False
        self.drift_rows = self._drift_rows()
        return BaseCache().get(self._key()) is not None, True

    def _base(self) -> str:
        """What names the untouched model: its weights, and the files that decide what they compute."""
        return f"{self.session.loaded.hash}/{self.session.loaded.beside}"

    def _key(self) -> str:
        return BaseCache().key(self._base(), base_key.rows_of(self), base_key.settings_of(self))

    def _sequences_key(self, n: int, tokens: int) -> str:
        s = self.session
        return BaseCache().key(self._base(), "drift sequences", {"n": n, "tokens": tokens, "precision": s.precision})

    def _sampled(self, n: int, tokens: int) -> Sequences:
        """Sequences of the base, kept by its hash."""
        s, cache, key = self.session, BaseCache(), self._sequences_key(n, tokens)
        with self.cost.phase("drift sequences sampled"):
            (values, _), _ = cache.cached(
                key,
                lambda: ({"ids": sample_sequences(s.adapted.model, s.tokenizer, n, tokens, 0)}, {}),
                self.sharing.all_know,
            )
        values = self.sharing.of_first(values)
        return Sequences(values["ids"], len(conditioning_ids(s.tokenizer)))

    # -- any strength --------------------------------------------------------------------------------------------------

    def longest(self) -> int | None:
        """Tokens an answer may have: the longest reference's and two, never more than the recipe allows."""
        if not self.generated:
            return None
        return longest_answer(self.session.task, self.rows, self.spec.max_new_tokens)

    def part(self) -> Part | None:
        """What strengths between base and tuned are read on, where the recipe asks for fewer rows than there are: kept
        documents and drift sequences in the same share, two at least. None: all."""
        n, most = len(self.rows), self.spec.dial_rows
        # rows that are read beside one another are others without these
        if most is None or n <= most or self.session.task.couples == "batch":
            return None

        def share(items: int) -> list[int]:
            return spread(items, max(2, -(-items * most // n)))

        kept = {name: share(len(dataset.rows)) for name, dataset in self.session.keep.items()}
        return Part(spread(n, most), kept, share(len(self.scored())))

    def scored(self) -> list[int]:
        """The drift rows that have a value, by their places among `drift_rows`."""
        if self.reference is None:
            return list(range(len(self.drift_rows)))
        return sorted(set(self.reference.owner.tolist()))

    def _read(self, *, choice: bool, part: Part | None = None, scores_only: bool = False) -> Readings:
        s, readings, read = self.session, Readings(), self.sharing.read
        rows = list(range(len(self.rows))) if part is None else part.rows
        if rows and choice and self.labels:
            readings.target, readings.choice = map(list, zip(*read("answers", rows), strict=True))
        elif rows:
            readings.target = self.read_target(rows, scores_only=scores_only)
        if part is None and not scores_only:
            readings.others = {o.key: self._beside(o) for o in self.others}
        for name, dataset in s.keep.items() if not s.task.embeds else ():
            texts = range(len(dataset.rows)) if part is None else part.kept[name]
            readings.kept[name] = check_predicts(read("kept", texts, name=name))
        if s.packs and not scores_only:  # of base and tuned model alone: the dial would ask all again at each strength
            with self.cost.phase(packs.PHASE):
                readings.packs = {n: read("pack", range(len(asked.rows)), name=n) for n, asked in s.packs.items()}
        return readings

    def read(self, *, choice: bool = True, part: Part | None = None, scores_only: bool = False) -> Readings:
        """Read the model as it is now (call inside `adapted.at_strength`), on all rows or a part of them.
        `scores_only`: answers are not written beyond what their scores need."""
        readings = self._read(choice=choice, part=part, scores_only=scores_only)
        places = self.scored() if part is None else [self.scored()[i] for i in part.drift]
        if self.reference is not None:
            readings.drift = kl_of(self.sharing.read("drift", places))
        elif self.features is not None:
            rows = [self.drift_rows[i] for i in places]
            readings.features = take_features(self.model, self.session.task, rows)
            readings.drift = feature_drift(self.features.of_rows(places), readings.features)
        return readings

    def drift_now(self) -> Drift | None:
        """The drift of the model as it is now, over all rows; None where there is none."""
        if self.reference is not None:
            return kl_drift(self.reference, self.model)
        if self.features is None:
            return None
        return feature_drift(self.features, take_features(self.model, self.session.task, self.drift_rows))

    def read_target(self, places: Sequence[int] | None = None, *, scores_only: bool = False) -> list[RowResult]:
        """The target alone, of the model as it is now, on all rows or on some of them, by their places."""
        read = self.sharing.read if self._apart(self.metric) else self.sharing.alone
        return read("target", range(len(self.rows)) if places is None else places, scores_only=scores_only)

    def _beside(self, other: Head) -> list[RowResult]:
        """What stands beside the target, by this process alone."""
        s = self.session
        return evaluate(self.model, s.tokenizer, s.task, other.rows, other.metric, packed=s.packed)

    @property
    def plays(self) -> bool:
        """Whether the headline is what episodes give."""
        return bool(self.metric) and get_metric(self.metric).kind == "played"

    def _apart(self, metric: str) -> bool:
        """Whether each row has its result whatever rows are read beside it: then rows are shared out. Episodes go on
        from what was said before, so that rounding of other batches would add up.
        """
        return get_metric(metric).kind not in ("ranked", "played") and self.session.task.couples != "batch"

    def base_read(self) -> Readings:
        """What `read` gives of the untouched base, which has no drift from itself."""
        readings = replace(self.base, features=self.features)
        if self.reference is not None:
            readings.drift = kl_of([0.0] * len(self.scored()))
        elif self.features is not None:
            readings.drift = feature_drift(self.features, self.features)
        return readings

    def restricted(self, readings: Readings, part: Part | None) -> Readings:
        """What a part of the rows gave of a reading of all; None: the reading itself."""
        if part is None:
            return readings
        kept = {name: [docs[i] for i in part.kept[name]] for name, docs in readings.kept.items()}
        drift = readings.drift
        if self.reference is not None and drift is not None:
            drift = kl_of([drift.values[i] for i in part.drift])
        elif self.features is not None and readings.features is not None:
            drift = feature_drift(self.features.of_rows(part.drift), readings.features.of_rows(part.drift))
        return Readings(target=[readings.target[i] for i in part.rows], kept=kept, drift=drift)

    def quick(self, rows: Sequence[Row], most: int = 64, *, together: bool = False) -> dict[str, float]:
        """Loss, and the target on at most `most` rows, while training. `together`: every process of the run comes here
        with the same rows.
        """

        s = self.session

        def read(some: Sequence[Row], metric: str, **how: Any) -> list[RowResult]:
            def of(own: Sequence[Row]) -> list[RowResult]:
                return evaluate(self.model, s.tokenizer, s.task, own, metric, **how)

            return self.sharing.together(some, of) if together and self._apart(metric) else of(some)

        losses = read(rows, "loss", packed=s.packed)
        found = {"loss": losses}
        figures = {"loss": sum(r.score * r.weight for r in losses) / max(1e-9, sum(r.weight for r in losses))}
        if self.metric and self.metric != "loss":
            asked = practice_of(s) if self.plays else rows[:most]
            some = read(asked, self.metric, max_new_tokens=self.longest(), num_beams=self.spec.num_beams)
            found[self.metric] = some
            figures["target"] = figure_of(some, self.metric)
            self.samples = [(r.prompt, r.answer, r.reference) for r in some[:2]]
        self.lately = found
        return figures

    samples: list[tuple[str, str, str]] = []
    lately: Mapping[str, list[RowResult]] = {}  # metric -> rows of the last evaluation while training
