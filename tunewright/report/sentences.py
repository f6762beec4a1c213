"""What a run came to, in sentences: gained, lost, cost, what to be careful about, and what intervals are over."""

from __future__ import annotations

from tunewright.report.schema import Measured, Report, Target
from tunewright.report.sequenced import SequenceReport
from tunewright.report.words import (
    KINDS,
    PLAYED,
    beneath,
    capital,
    change,
    count,
    counted,
    drift_unit,
    joined,
    metric_name,
    score,
    seconds,
    size,
    span,
    subject,
    unit_of,
    verdict,
    with_ends,
)
from tunewright.tasks._parts import TREES


def spent(report: Report) -> str:
    """What it cost, in one sentence; empty where nothing is known."""
    cost = report.cost
    total = report.run.seconds if report.run.seconds is not None else (sum(cost.seconds.values()) or None)
    parts = [seconds(total)] if total is not None else []
    if cost.tokens is not None:
        parts.append(f"{count(cost.tokens)} training {counted(report.task)}")
    if cost.stored_bytes is not None:
        parts.append(f"{size(cost.stored_bytes)} to keep")
    return f"It cost {joined(parts)}." if parts else ""


def headline(report: Report) -> list[str]:
    """The run in sentences: gained, lost (kept, drift), cost."""
    sentences = []
    if report.run.status != "finished":
        where = f" in the phase '{report.run.stopped_in}'" if report.run.stopped_in else ""
        state = {"running": "is still running", "interrupted": "was interrupted", "failed": "failed"}[report.run.status]
        sentences.append(f"This run {state}{where}; what follows is what was measured until then.")
    if report.sequence is not None and report.target is not None:
        sentences.append(_of_sequence(report.sequence, report.target))
    if report.target is not None:
        this = "in this run " if report.target.difference is None or report.target.difference.unit != "seed" else ""
        sentences += _of_target(report.target, this)
    sentences += [capital(change(kept, subject(kept))) for kept in report.kept]
    for pack in report.packs:
        tail = f" That is {beneath(pack)}." if pack.beneath else ""
        sentences.append(capital(change(pack, subject(pack)) + tail))
    if report.drift is not None:
        sentences.append(_drifted(report))
    if spent(report):
        sentences.append(spent(report))
    if report.run.parts:
        others = [f"the {part} from {package}" for part, package in report.run.parts.items()]
        sentences.append(f"Not of Tunewright itself: {joined(others)}.")
    return sentences


def _of_sequence(sequence: SequenceReport, target: Target) -> str:
    """What is known of all tasks at the end, and what was forgotten."""
    if sequence.accuracy is None:
        return ""
    mean = with_ends(sequence.accuracy, target.unit)
    said = f"At the end of {len(sequence.tasks)} tasks {subject(target)} is {mean} over the tasks"
    if (lost := sequence.forgetting) is None:
        return f"{said}."
    points = f" {unit_of(target.unit, difference=True)}".rstrip()
    ends = f" ({span(lost, target.unit)})" if lost.known else ""
    return f"{said}; forgetting is {score(lost.value, target.unit, sign=True)}{points}{ends}."


def _of_target(target: Target, this: str) -> list[str]:
    """The target's change; of a classifier beside what the frozen base gives already.

    A head that was drawn afresh answers by chance: then the probe is what the tuned model is held against first.
    """
    probe, plain = target.linear_probe, change(target, this + subject(target))
    if probe is None or probe.before is None:
        return [capital(plain)]
    if probe.difference is None or probe.after is None:
        gives = f"{score(probe.before.value, probe.unit)} {metric_name(probe.metric)}"
        return [capital(plain), f"A linear probe on the base's frozen features has {gives}."]
    if not target.fresh_head:
        return [capital(plain), capital(_against_probe(probe) + ".")]
    first = f"{this}{subject(target)} is {score(probe.after.value, probe.unit)}; {_against_probe(probe)}."
    if target.before is None:
        return [capital(first)]
    chance = f"Before training, a head drawn at random gave {score(target.before.value, target.unit)}."
    return [capital(first), chance]


def _against_probe(probe: Measured) -> str:
    """'a linear probe on the base's frozen features has 80.2 %, +9.0 points below it (95 % interval 5.1 to 12.9)'."""
    assert probe.before is not None and probe.difference is not None
    d, fate = probe.difference, verdict(probe)
    by = f"{score(abs(d.value), probe.unit, sign=True).lstrip('+')} {unit_of(probe.unit, difference=True)}".rstrip()
    ends = f" (tuned minus probe, {100 * d.level:.0f} % interval {span(d, probe.unit)})" if d.known else ""
    gives = f"a linear probe on the base's frozen features has {score(probe.before.value, probe.unit)}"
    if fate == "same":
        return f"{gives}, the same"
    if fate == "unclear":
        return f"{gives}, no clear difference{ends}"
    return f"{gives}, {by} {'less' if d.value > 0 else 'more'}{ends}"


def beneath_probe(report: Report) -> str:
    """A caution where training has not gone beyond what a linear probe on the frozen base gives; else empty."""
    probe = report.target.linear_probe if report.target is not None else None
    if probe is None or probe.difference is None or verdict(probe) == "better":
        return ""
    if report.sequence is not None:
        return (
            "At its end the model is not better than a linear probe on the base's frozen features that was given the "
            "rows of all tasks at once."
        )
    better = "is worse than" if verdict(probe) == "worse" else "is not shown to be better than"
    return (
        f"The tuned model {better} a linear probe on the base's frozen features: the adaptation has added nothing that "
        "a second of logistic regression does not give. A longer budget or another learning rate may."
    )


def beneath_trees(report: Report) -> str:
    """A caution where a model of tables is not shown to do better than gradient-boosted trees; else empty."""
    baselines = report.target.baselines if report.target is not None else []
    trees = next((b for b in baselines if b.name == TREES), None)
    if trees is None or trees.difference is None or verdict(trees) == "better":
        return ""
    told = {"worse": "do better than", "same": "do as well as"}.get(verdict(trees), "are not shown to do worse than")
    took = report.cost.seconds.get(TREES)
    within = f" in {seconds(took)}" if took else ""
    return f"Gradient-boosted trees, fitted{within} on the same training rows, {told} the tuned model."


def cautions(report: Report) -> list[str]:
    """What a reader has to know first: of few rows, of the probe and of trees, then the run's own notes."""
    few = "" if any(n.startswith("only ") for n in report.notes) else small_sample(report)
    return [t for t in (attempts(report), beneath_probe(report), beneath_trees(report), few) if t] + report.notes


def attempts(report: Report) -> str:
    """Which attempt on its evaluation rows the run is; empty where they are not counted, or it is the first."""
    if (number := report.run.attempt) is None or number < 2:
        return ""
    return (
        f"attempt {number} on this evaluation set: the best of several attempts is chosen by these rows too, and its "
        "figures promise more than new rows will give"
    )


def _drifted(report: Report) -> str:
    drift = report.drift
    assert drift is not None
    if drift.value.value == 0:
        return "The model's outputs did not move from its base's at all."
    by = (
        f"{score(drift.value.value, 'nats')} {drift_unit(drift.measure, report.task)}"
        if drift.measure == "kl"
        else f"by {score(drift.value.value, '1')} standard deviations"
        if drift.measure in ("forecast", "action")
        else f"by {score(drift.value.value, '1')} (mean square of the changes of what is predicted of noised pictures)"
        if drift.measure == "denoising"
        else f"by {score(drift.value.value, '1')} (1 \u2212 CKA)"
    )
    ends = span(drift.value, "nats")
    inner = f", interval {ends}" if ends else ""
    return f"Its outputs drifted {by} from the base's{inner}."


def what_intervals_mean(report: Report) -> str:
    """Which chance the intervals speak of: this run's rows and sequences, or seeds. Empty without intervals."""
    intervals = [x for m in _all_measured(report) for x in (m.difference, m.after) if x is not None]
    intervals += [report.drift.value] if report.drift is not None else []
    intervals = [x for x in intervals if x.known]
    if not intervals:
        return ""
    level = f"{100 * intervals[0].level:.0f} %"
    kinds = sorted({str(x.unit) for x in intervals})
    played = report.target is not None and report.target.metric in PLAYED
    if kinds == ["seed"]:
        return f"Intervals: {level}, over training seeds."
    drawn = joined([KINDS.get(k, k) for k in ("row", "document", "sequence") if k in kinds])
    drawn = drawn.replace("rows", "episodes") if played else drawn
    return (
        f"Intervals: {level}, over {drawn}. They describe this run; another seed or order of the data may move "
        "further than they say."
    )


def _all_measured(report: Report) -> list[Measured]:
    return ([report.target] if report.target is not None else []) + [*report.kept, *report.packs]


def small_sample(report: Report) -> str:
    """A caution where the target was measured on few rows; else empty."""
    target = report.target
    n = target.n if target is not None and target.unit == "fraction" else None
    return (
        f"Only {n} rows measured the target: at least 200 tell a gain from chance." if n is not None and n < 200 else ""
    )
