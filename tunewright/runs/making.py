"""What makes the rows of a stage: the methods of `data.synthesize` in order, and the judges (rewards) that they ask.

A maker's `synthesize` gets the stage's records and gives `Made`: what is trained on, and what was thrown away, with the
reason. Models are asked by name (`speakers()`): "start" (what the stage starts from), "base", "previous" (what the
stage before made; before the first the base), "stages.NAME" of an earlier stage, or one of the recipe's `models`, which
may be an address. When and where it is done stands in `made.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewright import catalogue
from tunewright.contract.combining import check_serves
from tunewright.contract.made import Made
from tunewright.contract.method import Method, Needs, State, arguments, call
from tunewright.contract.needs import NeedContext
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.returned import number, told
from tunewright.contract.task import EncodeOptions
from tunewright.contract.writer import Writer, Written
from tunewright.data.shapes import canonical
from tunewright.errors import MethodError
from tunewright.loading.address import key_of
from tunewright.recipe import MethodUse, Recipe, StageSpec
from tunewright.runs.sources import STAGES, task_for
from tunewright.training.rollouts import Sample, checked, whole

START, BASE, PREVIOUS = "start", "base", "previous"
Named = list[tuple[str, Method]]


@dataclass(frozen=True)
class Makers:
    """The methods of a stage's `synthesize` by name, and its judges."""

    makers: Named
    judges: Named

    @property
    def names(self) -> str:
        return " and ".join(name for name, _ in self.makers)

    def speakers(self) -> list[str]:
        """The models that are asked, as the methods name them."""
        return list(dict.fromkeys(n for _, m in self.makers for n in m.speakers()))


def makers_of(uses: Sequence[MethodUse], where: str) -> Makers:
    """Those of a `synthesize`. MethodError for what makes and judges nothing, for judges that nobody asks, and for a
    method that asks judges where there are none.
    """
    makers: Named = []
    judges: Named = []
    for use in uses:
        method, name = catalogue.build(use), catalogue.canonical(use.name)
        slots = type(method).slots()
        if "synthesize" not in slots and ("reward" not in slots or "rollout" in slots):
            raise MethodError(
                f"'{use.name}' makes no records and judges none: it fills {', '.join(slots)}",
                where=use.place or where,
                remedy="write it under methods:",
            )
        (makers if "synthesize" in slots else judges).append((name, method))
    for name, method in judges:
        if not all(need.of_models for need in method.needs()):
            raise MethodError(
                f"'{name}' judges by statistics of a model, which are not there before a stage is set up",
                where=where,
                remedy="judge by texts alone, or in a rollout under methods:",
            )
    asking = [name for name, method in makers if "score" in arguments(type(method), "synthesize")]
    if uses and not makers:
        raise MethodError(
            f"'{judges[0][0]}' judges what is made, and nothing makes any",
            where=where,
            remedy=f"write what makes records before it: synthesize: [s3ft, {judges[0][0]}]",
        )
    if asking and not judges:
        raise MethodError(
            f"'{asking[0]}' asks a judge which answers are right, and there is none",
            where=where,
            remedy=f"write one beside it: synthesize: [{asking[0]}, exact-answer]",
        )
    if judges and not asking:
        raise MethodError(
            f"'{judges[0][0]}' judges what is made, and '{makers[0][0]}' asks no judge",
            where=where,
            remedy="leave it out; data.select takes filters of what was made",
        )
    return Makers(makers, judges)


def place_of(stage: StageSpec) -> str:
    """What an error about a stage's `synthesize` names."""
    return f"stages.{stage.name}.data.synthesize"


def check_makers(recipe: Recipe) -> None:
    """MethodError for methods of `synthesize` that cannot do there what they are named for; ModelError where the key of
    an address is not in the environment.
    """
    for stage in recipe.stages:
        uses = recipe.data_for(stage).synthesize
        for use, one in zip(uses, (catalogue.build(use) for use in uses), strict=True):
            check_serves(use.name, one, task_for(recipe), use.place or place_of(stage))
        for name, method in makers_of(uses, place_of(stage)).makers:
            _check_speakers(name, method, recipe, stage)
            if type(method).stand_in is not Method.stand_in and _shares(recipe, stage):
                raise MethodError(
                    f"'{name}' fills in what rows lack, and a share of these rows is held out for validation",
                    where="data.validation",
                    remedy="write a file of whole rows as data.validation, or the stage's own data.train",
                )


def _shares(recipe: Recipe, stage: StageSpec) -> bool:
    """Whether a share of the rows that a stage makes others of is held out."""
    own = stage.data is not None and "train" in stage.data.model_fields_set
    return isinstance(recipe.data.validation, float) and not own


def _check_speakers(name: str, method: Method, recipe: Recipe, stage: StageSpec) -> None:
    asks = arguments(type(method), "synthesize")
    writes, reads = "writers" in asks, "readers" in asks
    if (writes or reads) and type(method).speakers is Method.speakers:
        raise MethodError(
            f"'{name}' asks a model and names none",
            where=place_of(stage),
            remedy=f'define speakers(self): return ("{START}",)',
        )
    for asked in method.speakers() if writes or reads else ():
        speaker = resolved(asked, recipe, stage)
        if speaker in recipe.models:
            spec = recipe.models[speaker]
            if reads and spec.url is not None:
                raise MethodError(
                    f"'{name}' reads records with '{speaker}', which is an address: it gives answers alone",
                    where=f"models.{speaker}",
                    remedy="name a model whose weights are here",
                )
            key_of(spec, speaker)
        elif writes and not task_for(recipe).continues:
            raise MethodError(
                f"'{name}' asks '{speaker}' to write, and a model for {recipe.task} writes nothing",
                where=place_of(stage),
                remedy="name one of `models`: models: {writer: FOLDER-OR-HUB-ID}, and model: writer",
            )


def resolved(name: str, recipe: Recipe, stage: StageSpec) -> str:
    """A speaker as "start", "base", "stages.NAME" or a name of `models`. MethodError where it is none of them."""
    names = [s.name for s in recipe.stages]
    earlier = names[: names.index(stage.name)]
    if name == PREVIOUS:
        return f"{STAGES}{earlier[-1]}" if earlier else BASE
    if name in (START, BASE) or name in recipe.models or name.removeprefix(STAGES) in earlier:
        return name
    if name.startswith(STAGES):
        known = ", ".join(f"{STAGES}{n}" for n in earlier) or "none: this is the first stage"
        raise MethodError(
            f"'{name}' is asked to write, and is no earlier stage", where=place_of(stage), remedy=f"earlier: {known}"
        )
    raise MethodError(
        f"the model '{name}' is asked, and the recipe names none",
        where="models",
        remedy=f"write models: {{{name}: ./folder-or-hub-id}}, or models: {{{name}: {{url: http://..., name: ...}}}}",
    )


def check_judges(makers: Makers | None, context: NeedContext) -> None:
    """MethodError where a judge needs what cannot be served."""
    for name, method in makers.judges if makers is not None else ():
        for need in method.needs():
            try:
                need.check(context)
            except MethodError as e:
                e.where = f"'{name}', {e.where}"
                raise


Score = Callable[[Sequence[tuple[Record, str]]], list[float]]


def judged_by(
    judges: Named, row_of: Callable[[Record], Any], ids_of: Callable[[str], Sequence[int]], context: NeedContext
) -> Score:
    """What judges give answers to records. `row_of` gives a record's row, with its prompt and reference; `context`
    serves what they need of other models.
    """
    served = {name: {n.name: n.compute(context) for n in method.needs()} for name, method in judges}

    def score(answers: Sequence[tuple[Record, str]]) -> list[float]:
        samples = [
            Sample(row_of(record), i, tuple(ids_of(text)), (), text, True) for i, (record, text) in enumerate(answers)
        ]
        total = [0.0] * len(samples)
        for name, method in judges if samples else ():
            given = call(method, "reward", name, samples=samples, needs=Needs(served[name]), state=State())
            values = checked(given, samples, name)
            total = [t + method.share_of_sum * whole(v) for t, v in zip(total, values, strict=True)]
        return total

    return score


def rng_of(seed: int, stage: str, name: str, place: int) -> random.Random:
    """What a stage's maker draws from; `place`: the how manieth it is."""
    return random.Random(f"{seed}/synthesize/{stage}/{name}/{place}")


def usable(one: Made, task: Any, tokenizer: Any, options: EncodeOptions) -> Made:
    """A record that is kept and can be no row is thrown away with what is wrong with it."""
    if one.thrown:
        return one
    try:
        values, _ = canonical(one.values, {})
        task.encode(Record(values, id=one.of.id), tokenizer, options)
    except RowProblem as problem:
        return replace(one, thrown=f"it can be no row: {problem.field}: {problem.reason}")
    return one


def kept_of(name: str, made: Sequence[Made]) -> list[Record]:
    """What is kept, as records of their own."""
    kept = [one for one in made if not one.thrown]
    return [
        Record(one.values, id=f"{name}:{i}", where=f"{name}:{i} (made of {one.of.where})", source=name)
        for i, one in enumerate(kept, 1)
    ]


def made_by(
    name: str,
    method: Method,
    records: Sequence[Record],
    *,
    writers: Mapping[str, Writer],
    readers: Mapping[str, Reader],
    score: Score,
    labels: Sequence[str] | None,
    round: int,
    rng: random.Random,
    where: str,
) -> list[Made]:
    """What a maker makes of records, checked. MethodError for what is no list of `Made` of these records in JSON."""
    given = call(
        method,
        "synthesize",
        name,
        records=records,
        writers={n: writers[n] for n in method.speakers() if n in writers},
        readers={n: readers[n] for n in method.speakers() if n in readers},
        score=score,
        labels=tuple(labels) if labels is not None else None,
        round=round,
        rng=rng,
    )
    made = list(given)
    known = {id(r) for r in records}
    for one in made:
        if not isinstance(one, Made) or id(one.of) not in known:
            raise MethodError(
                f"'{name}' gave {type(one).__name__ if not isinstance(one, Made) else 'a record that is made of none'}",
                where=where,
                remedy="return a list of Made(values, of=record), of the records that were offered",
            )
        if not isinstance(one.thrown, str) or not isinstance(one.written, Written | None):
            raise MethodError(
                f"'{name}' made a record whose `thrown` is {told(one.thrown)} and `written` {told(one.written)}",
                where=one.of.where,
                remedy='thrown is a reason, or "" for what is kept; written an answer of a writer, or None',
            )
        if not isinstance(one.verdict, str):
            raise MethodError(
                f"'{name}' made a record whose `verdict` is {told(one.verdict)}",
                where=one.of.where,
                remedy="a verdict is a few words, or empty",
            )
        if wrong := next((n for n, v in dict(one.scores).items() if not number(v)), None):
            raise MethodError(
                f"'{name}' made a record whose score '{wrong}' is {told(one.scores[wrong])}",
                where=one.of.where,
                remedy="a score is a finite number",
            )
        try:
            json.dumps([dict(one.values), dict(one.scores)], allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as e:
            raise MethodError(
                f"'{name}' made a record that is no JSON: {e}",
                where=one.of.where,
                remedy="give columns that are texts, finite numbers, lists and mappings",
            ) from None
        if not one.thrown and not one.values:
            raise MethodError(
                f"'{name}' made an empty record and kept it",
                where=one.of.where,
                remedy="give it columns, or say in `thrown` why it is not trained on",
            )
    return made
