"""A plan on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunewright.data.view import Token, coloured
from tunewright.planning.on import OnPaper
from tunewright.planning.planned import PlanFigures, StagePlan
from tunewright.report import words
from tunewright.report.terminal_cells import clean

ACCURACY = "was within 28 % of the CPU time that runs then took (docs/plan.md); other work on the machine comes on top"
"""How far estimates were off where both were measured: the worst of a tiny model's four and of the quickstart."""


def show(plan: PlanFigures, path: Path | None = None, console: Console | None = None) -> None:
    """Print a plan: data, what counts in the loss, what trains, the estimate, and what to look at first.

    `path`: the recipe's file, to be run next.
    """
    out = console or Console(highlight=False, emoji=False)
    m = plan.model
    rows = "rows packed without padding" if plan.packed else "rows padded"
    about = f": {words.count(m['parameters'])} parameters; {plan.task} on {plan.device} in {plan.precision}; {rows}"
    out.print(Text.assemble((m["name"], "bold"), about), soft_wrap=True)
    out.print()
    out.print(_sources(plan))
    out.print()
    for line in _facts(plan):
        out.print(line, soft_wrap=True)
    if plan.view:
        out.print()
        out.print(Text("What counts in the loss, in the first row of each source", style="bold"))
        for name, view in plan.view.items():
            out.print(Text(clean(name), style="dim"))
            out.print(tokens(view, out.is_terminal and not out.no_color))
    for stage in plan.stages:
        out.print()
        _stage(out, stage, len(plan.stages) > 1, words.counted(plan.task))
    out.print()
    out.print(Text("Estimate", style="bold"))
    out.print(_estimate(plan))
    if plan.on is not None:
        out.print()
        on_machines(out, plan.on)
    for note in plan.notes:
        out.print(Text(f"note: {clean(note)}", style="yellow"), soft_wrap=True)
    if path is not None:
        out.print()
        out.print(f"Next: tunewright run {path}", markup=False)


def on_machines(out: Console, on: OnPaper) -> None:
    """What a recipe takes on machines that are not here."""
    out.print(Text.assemble(("On " + on.machines, "bold"), f", on paper, in {on.precision}"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column()
    for s in on.stages:
        name = f" '{s.name}'" if len(on.stages) > 1 else ""
        parts = {
            "weights": s.weights,
            "gradients": s.gradients,
            "state": s.state,
            "kept for the backward": s.kept,
            "spare": s.spare,
        }
        told = ", ".join(f"{what} {words.size(size)}" for what, size in parts.items())
        table.add_row(f"memory{name}", f"{words.size(s.memory)} of {words.size(on.memory)} each: {told}")
        what = "bringing weights together and summing gradients" if on.divided else "summing gradients"
        summing = f", {words.seconds(s.summing)} of it for {what}" if on.count > 1 else ""
        table.add_row(f"train{name}", f"{words.seconds(s.fastest)} to {words.seconds(s.slowest)}{summing}")
    out.print(table)
    said = (
        "it fits"
        if on.fits
        else "it does not fit: write train.activation_checkpointing, a smaller micro_tokens, qlora, or (for several) "
        "train.fsdp"
    )
    out.print(_fact(on.fits, said), soft_wrap=True)


def _sources(plan: PlanFigures) -> Table:
    """Sources and what became of their rows; columns that hold nothing are left out."""
    columns = [
        ("of pictures", "picture_tokens"),
        ("read", "read"),
        ("too long", "too_long"),
        ("pieces of them", "pieces"),
        ("nothing trained", "zero_trained"),
    ]
    idle = {"read": [s.rows for s in plan.sources]}
    columns = [
        c for c in columns if [getattr(s, c[1]) for s in plan.sources] != idle.get(c[1], [0] * len(plan.sources))
    ]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("rows of", overflow="fold")  # a source's name is never cut
    table.add_column("")
    for heading in ("rows", words.counted(plan.task), "count in the loss", *(h for h, _ in columns)):
        table.add_column(heading, justify="right")
    for s in plan.sources:
        numbers = (s.rows, s.tokens, s.trained_tokens, *(getattr(s, key) for _, key in columns))
        table.add_row(clean(s.name), s.role, *(f"{n:,}" for n in numbers))
    return table


def _facts(plan: PlanFigures) -> list[Text]:
    lines = []
    if plan.ends is not None:
        e = plan.ends
        what = "begin with exactly one BOS" if e.bos else "begin with no doubled BOS (this tokenizer adds none)"
        lines.append(_fact(e.one_bos == e.rows, f"{e.one_bos:,} of {e.rows:,} rows {what}"))
        lines.append(
            _fact(e.end_trained == e.rows, f"{e.end_trained:,} of {e.rows:,} rows have their end token trained")
        )
    dropped = sum(s.zero_trained for s in plan.sources if s.role == "train")
    lines.append(_fact(dropped == 0, f"{dropped:,} training rows are left out since nothing in them would be trained"))
    if plan.leak is not None:
        fine = plan.leak <= plan.leak_limit
        by = (
            f"by {plan.leak:.1e} of their deviation (rounding: below {plan.leak_limit:.0e})"
            if plan.leak
            else "in no bit"
        )
        lines.append(_fact(fine, f"logits of packed rows differ from each row's alone {by}"))
    if not plan.measured:
        lines.append(_fact(False, "no rows measure what is gained: write data.eval"))
    return lines


def _fact(fine: bool, text: str) -> Text:
    return Text.assemble(("ok    ", "green"), text) if fine else Text.assemble(("look  ", "yellow"), (text, "yellow"))


def tokens(view: Sequence[Token], colours: bool, limit: int = 400) -> Text:
    """The view with what is trained on green; without colours between [[ and ]]."""
    if colours:
        shown = coloured([(clean(t), w) for t, w in view], limit=limit)
        shown.rstrip()
        return shown
    out, inside = "", False
    for text, weight in view[:limit]:
        if (weight > 0) != inside:
            out += "[[" if weight > 0 else "]]"
            inside = weight > 0
        out += clean(text).replace("\n", "\u23ce\n")
    return Text(
        out.removesuffix("\n")
        + ("]]" if inside else "")
        + (f" ... {len(view) - limit} more tokens" if len(view) > limit else "")
    )


def _stage(out: Console, stage: StagePlan, several: bool, counted: str) -> None:
    start = f", from {stage.start}" + (f" ({stage.carry})" if stage.start != "base" else "")
    about = "" if stage.exact else "about "
    out.print(Text.assemble(("Stage " + stage.name if several else "Training", "bold"), start if several else ""))
    for m in stage.methods:
        given = ", ".join(f"{k} {v}" for k, v in m["parameters"].items() if v not in (None, {}, [], False))
        out.print(f"{m['name']} ({', '.join(m['slots'])})" + (f": {given}" if given else ""), markup=False)
    of = f"{stage.rows:,} rows ({stage.steps_per_epoch:.3g} step{'' if stage.steps_per_epoch == 1 else 's'} per epoch)"
    out.print(
        f"{about}{stage.steps:,} step{'' if stage.steps == 1 else 's'}, {stage.tokens:,} {counted} of "
        f"{of if stage.rows else 'streamed rows'}",
        markup=False,
    )
    if stage.few:
        out.print(_fact(False, stage.few))
    for caution in stage.cautions:
        out.print(_fact(False, caution), soft_wrap=True)
    out.print(_roles(stage))


def _roles(stage: StagePlan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("parameters")
    table.add_column("trained", justify="right")
    table.add_column("in the model", justify="right")
    for role, (trained, total) in stage.roles.items():
        table.add_row(role, f"{trained:,}" if trained else "0", f"{total:,}", style="" if trained else "dim")
    table.add_row("all", f"{stage.trainable:,}", f"{sum(n for _, n in stage.roles.values()):,}", style="bold")
    return table


def _estimate(plan: PlanFigures) -> Table:
    e = plan.estimate
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column()
    table.add_row("load", words.seconds(plan.load))
    table.add_row("base measured", "in the cache already" if e.cached else words.seconds(e.base))
    for s in e.stages:
        name = f"train '{s.name}'" if len(e.stages) > 1 else "train"
        more = f", after {words.seconds(s.set_up)} of set-up" if s.set_up >= 1 else ""
        pace = f"{1 / s.seconds_per_token:,.0f} {words.counted(plan.task)} a second"
        table.add_row(name, f"{words.seconds(s.train)} ({pace}){more}")
    if e.evaluations:
        table.add_row("evaluated on the way", words.seconds(e.evaluations))
    if e.between:
        table.add_row("stages measured", words.seconds(e.between))
    table.add_row("tuned measured", words.seconds(e.tuned))
    if e.dial:
        table.add_row("at other strengths", words.seconds(e.dial))
    table.add_row(Text("in all", style="bold"), Text(f"about {words.seconds(e.total + plan.load)}", style="bold"))
    fits = f" of {words.size(plan.memory)}" if plan.memory else ""
    table.add_row(
        "memory",
        f"{words.size(e.peak_memory)}{fits}" + (f"; {words.size(e.peak_cuda)} on the GPU" if e.peak_cuda else ""),
    )
    table.add_row("disk", words.size(e.disk))
    table.add_row("", Text(ACCURACY, style="dim"))
    return table
