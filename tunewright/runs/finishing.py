"""The end of a run: the tuned model measured, the change dialled and saved, the report written."""

from __future__ import annotations

import datetime
from functools import partial
from typing import TYPE_CHECKING

from tunewright.report import words
from tunewright.runs import streamed, target_report
from tunewright.runs.dialling import dial
from tunewright.runs.folder import ROWS
from tunewright.runs.result import Result
from tunewright.runs.work import Work

if TYPE_CHECKING:
    from tunewright.report.adaptations import Adaptation
    from tunewright.report.answer import Answer
    from tunewright.report.schema import Report
    from tunewright.runs.meter import Meter


def finish(work: Work, cached: list[str]) -> Result:
    """Measure the tuned model, dial the change down, run the probes, save the change, and report.

    `cached`: what was found in a cache instead of computed.
    """
    from tunewright.measure.rows import pair, write_rows
    from tunewright.measure.target import get_metric
    from tunewright.report import page
    from tunewright.report.schema import Report
    from tunewright.runs import (
        along,
        artefacts,
        drawn_pictures,
        intact,
        pictures,
        probes,
        results,
        sequenced,
        telling,
    )
    from tunewright.runs.in_short import in_short

    adapted, meter = work.session.adapted, work.meter
    work.screen.say("measuring the tuned model")
    with work.cost.phase("tuned measured"), adapted.at_strength(1.0):
        tuned = meter.read(choice=meter.choices)
    for line in telling.of_tuned(meter, tuned):
        work.screen.say(line)
    points = dial(work, tuned)
    adapted_online = _test_time(work)
    with work.cost.phase("probes"):
        probe_results = probes.run_all(work.recipe.probes, work.session, meter.base, tuned)
    with work.cost.phase("save"):
        stored = artefacts.save(work.folder.path, work.session)
    if (meter.base.target or meter.base.packs) and not work.figures_only:
        asked = [row for name, base in meter.base.packs.items() for row in pair(base, tuned.packs[name])]
        write_rows(work.folder.file(ROWS), [*pair(meter.base.target, tuned.target), *asked])
    metrics = work.folder.metrics()
    work.folder.note_progress(finished=now())
    progress = work.folder.progress()
    report = Report(
        run=results.run_info(work.session, work.folder.path.name, progress, work.cost),
        model=results.model_info(work.session),
        task=work.session.task.name,
        data=results.data_of(work.session, work.results),
        target=target_report.target_of(meter, tuned),
        kept=results.kept_of(meter, tuned),
        packs=results.packs_of(meter, tuned),
        drift=results.drift_of(meter, tuned),
        trade=points,
        cost=results.cost_of(work.session, work.cost, work.results, stored, cached),
        trained=results.trained_of(work.session, work.results),
        stages=results.stages_of(work.session, work.results, metrics, work.stage_tasks(tuned)),
        sequence=sequenced.report(work.folder, meter, work.results, tuned),
        along=along.report(work.folder, meter, [p.spec.name for p in work.session.stages]),
        training=results.training_of(metrics, work.results),
        tokens_view={} if work.figures_only else results.views_of(work.session),
        answers=_answers(meter, results.answers_of(meter.base.target, tuned.target))
        if meter.base.target and not work.figures_only
        else [],
        probes={**probes.found(work.session, work.results), **probe_results},
        test_time=adapted_online,
        notes=_notes(work),
        files=artefacts.described(work.folder.path),
    )
    _judge(work, report)
    each = (meter.base.target, tuned.target) if meter.metric and get_metric(meter.metric).figure is None else None
    if work.figures_only:
        return Result(work.folder.path, report, results.order_of(work.session, work.results), rows=each)
    rows = [r.model_dump() for r in pair(meter.base.target, tuned.target)]
    rows = [in_short(meter, r) for r in rows]
    seen = pictures.beside(meter)
    if drawn_pictures.are_drawn(meter.rows):
        made = drawn_pictures.drawn(meter)
        drawn_pictures.write(made, work.folder.path)
        seen = pictures.of(made, seen)
    page.render(report, metrics, rows, work.folder.path, seen, pictures.legend(meter))
    work.note()  # the last that is written before the files are hashed
    report.hashes = intact.hashes_of(work.folder.path)
    report.save(work.folder.path)
    return Result(work.folder.path, report, rows=each)


def _answers(meter: Meter, told: list[Answer]) -> list[Answer]:
    """Rows side by side, in words where they are long: rows.jsonl has the whole."""
    from tunewright.report.answer import Answer
    from tunewright.runs.in_short import in_short

    return [Answer.of(in_short(meter, vars(a))) for a in told]


def _judge(work: Work, report: Report) -> None:
    """The recipe's gate over what was measured. A figure that there is none of is said, and ends no run."""
    from tunewright.errors import MethodError
    from tunewright.recipe.gate import bounds
    from tunewright.report.gated import judge

    if work.recipe.gate and not work.figures_only:
        try:
            report.gate = judge(bounds(work.recipe.gate), report)
        except MethodError as e:
            report.notes.insert(0, f"the gate was not judged: {e.what}")


def _test_time(work: Work) -> list[Adaptation]:
    """The stream that the recipe asks for, answered by the tuned model and by what adapts it."""
    from tunewright.report import streamed
    from tunewright.runs import streams

    if work.recipe.test_time is None:
        return []
    work.screen.say("answering the test-time stream")
    with work.cost.phase("test time"), work.session.adapted.at_strength(1.0):
        found = streams.measure(work.session, work.meter.rows, work.meter.metric, work.folder)
    for one in found:
        work.screen.say(streamed.online(one))
    return found


def _notes(work: Work) -> list[str]:
    from tunewright.runs.head_start import starts_from_probe

    notes = [
        *work.session.notes,
        *work.session.on_layers(),
        *work.session.adapted.notes,
        *work.session.adapted.reshaped(),
    ]
    if any(p.train.keep_best for p in work.session.stages) and work.session.validation is None:
        notes.insert(
            0,
            (
                "the weights were chosen on the evaluated rows (keep_best without data.validation): the "
                "gain is too "
                "good by that choice"
            ),
        )
    if started := [p.spec.name for p in work.session.stages if starts_from_probe(work.session, p)]:
        of = f" of {', '.join(started)}" if len(work.session.stages) > 1 else ""
        notes.append(f"the new head{of} started from a linear probe on the training rows (train.head: random draws it)")
    for part in work.session.stages:
        outcome = work.results[part.spec.name]
        if outcome.best_step == 0:
            whose = "the run" if len(work.session.stages) == 1 else f"stage {part.spec.name}"
            notes.append(
                f"{whose} ended where it began: no evaluation was told from its start (train.keep_best): give "
                "data.validation more rows, train longer, or, where their loss rose, write a smaller learning rate"
            )
        if outcome.unmoved:
            whose = "the run" if len(work.session.stages) == 1 else f"stage {part.spec.name}"
            named = ", ".join(f"'{use.name}'" for use in part.spec.methods)
            notes.insert(
                0,
                f"{whose} learnt nothing: the gradient was zero at every step. A loss without a graph, weights of zero "
                f"and a `gradient` that gives nothing do that: look at what {named} does to them",
            )
        # what a listener or a signal ended was not planned so short
        ended = outcome.ended_by in ("tokens", "epochs", "flops", "seconds")
        if ended and (few := work.session.few_steps(part, outcome.steps, outcome.tokens)):
            notes.append(few if len(work.session.stages) == 1 else f"stage {part.spec.name}: {few}")
        said = [f"{n}: {text}" for n, one in outcome.found.items() for text in one["notes"]]
        said += streamed.told(outcome.streamed)
        said += part.cautions(partial(work.session.plan, part))
        notes += said if len(work.session.stages) == 1 else [f"stage {part.spec.name}: {text}" for text in said]
    if work.meter.rows and len(work.meter.rows) < 200:
        some = words.rows_of(work.meter.metric, len(work.meter.rows))
        notes.append(f"only {some} were evaluated: differences of a few per cent cannot be seen")
    return notes


def now() -> str:
    """This moment, as reports write it."""
    return datetime.datetime.now(datetime.UTC).isoformat()
