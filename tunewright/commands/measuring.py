"""The verbs measure and gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tunewright.commands import completing
from tunewright.commands.options import JsonOption, QuietOption, examples

RequireOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="such as 'target >= 0.85' or 'kept.general no worse by 0.05'; repeatable"),
]


@examples(
    "tunewright measure smollm2-135m-instruct runs/tickets",
    "tunewright measure runs/old runs/new --data test.jsonl --keep general=general.txt",
    "tunewright measure base adapters/a --data test.jsonl --require 'target no worse by 0.02' --json",
    "tunewright measure runs/old runs/new --keep general=general.txt --keep-limit 50",
    "tunewright measure base runs/new --keep pack:tool-calls --require 'kept.tool-calls no worse by 0.05'",
    "tunewright measure runs/lora-1,runs/lora-2 runs/full-1,runs/full-2",
    "tunewright measure harness/base harness/tuned",
    "tunewright measure smollm2-135m-instruct runs/tickets --lm-eval arc_easy,hellaswag --rows 200",
)
def measure(
    first: Annotated[str, typer.Argument(metavar="A", help="a run, adapter or model; several seeds: A1,A2")],
    second: Annotated[str, typer.Argument(metavar="B", help="the other, differences are B minus A")],
    data: Annotated[list[str] | None, typer.Option(metavar="FILE", help="rows (default: the run's)")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FILE", help="texts or pack:NAME, not to be lost")
    ] = None,
    task: Annotated[str | None, typer.Option(help="(default: the run's)", autocompletion=completing.tasks)] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="(default: the task's)")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="where --data has it: label=topic")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="at most so many (default: all)")] = None,
    keep_limit: Annotated[
        int | None, typer.Option(min=1, help="at most so many documents or questions of each that is kept")
    ] = None,
    probes: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="such as calibration,intruder-dimensions")
    ] = None,
    harness_tasks: Annotated[
        str | None,
        typer.Option("--lm-eval", metavar="TASK,...", help="lm-evaluation-harness's tasks (extra: eval)"),
    ] = None,
    include_path: Annotated[Path | None, typer.Option(metavar="DIR", help="more tasks for --lm-eval")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what adapters go on (default: as they say)")
    ] = None,
    require: RequireOption = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="where models of no run compute")
    ] = "auto",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="measured.json and rows.jsonl go there")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure any two models on the same rows: target, kept text, drift, calibration, each difference paired."""
    import sys

    from tunewright.errors import RecipeError
    from tunewright.paired import harness, lm_eval, measuring, shown
    from tunewright.paired.probing import names
    from tunewright.paired.request import Request, columns, conditions, named

    sides = named(first), named(second)
    bounds = conditions(require or [])
    say = (lambda text: None) if quiet or as_json else (lambda text: print(text, file=sys.stderr))
    if include_path is not None and harness_tasks is None:
        what = "a folder of the harness's tasks, and none of them is asked for"
        raise RecipeError(what, where="--include-path", remedy="write --lm-eval TASK,... too")
    if harness_tasks is not None:
        harness.refuse(sides, {"data": data, "keep": keep, "task": task, "metric": metric, "column": column})
        harness.refuse(sides, {"probes": probes, "keep_limit": keep_limit})
        measuring.refuse_taken(out)
        evaluation = harness.Evaluation(harness.named(harness_tasks), include_path, rows)
        pair = harness.measure(first, second, evaluation, base=base, device=device, bounds=bounds, out=out, say=say)
    elif any(lm_eval.holds(name) for side in sides for name in side):
        flags = {
            "data": data,
            "keep": keep,
            "task": task,
            "metric": metric,
            "column": column,
            "rows": rows,
            "keep_limit": keep_limit,
            "base": base,
            "probes": probes,
        }
        lm_eval.refuse(flags)
        measuring.refuse_taken(out)
        pair = lm_eval.measure(*sides, bounds=bounds, out=out)
    else:
        request = Request(
            *sides,
            data=data or [],
            keep=keep or [],
            task=task,
            metric=metric,
            columns=columns(column or []),
            rows=rows,
            keep_limit=keep_limit,
            base=base,
            device=device,
            bounds=bounds,
            probes=names(probes or []),
        )
        pair = measuring.measure(request, out, say)
    print(pair.dumps() if as_json else shown.text(pair), end="")
    if pair.gate is not None:
        raise typer.Exit(CODES[pair.gate.verdict])


@examples(
    "tunewright gate runs/tickets --require 'target >= 0.85' --require 'drift <= 1.0'",
    "tunewright gate runs/tickets",
    "tunewright gate measured/ --require 'kept.tool-calls no worse by 0.02' --json",
)
def gate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a finished run, or what `measure --out` wrote")],
    require: RequireOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a run by conditions: pass only where the interval clears the bound; exit code 0, 10 (fails) or 11."""
    from tunewright.paired.gating import gate as judge
    from tunewright.paired.request import conditions
    from tunewright.report import gate_lines

    found = judge(folder, conditions(require or []))
    print(gate_lines.one_line(found, str(folder)) if as_json else "\n".join(gate_lines.lines(found)))
    if found.verdict != "pass":
        raise typer.Exit(CODES[found.verdict])


CODES = {"pass": 0, "fails": 10, "cannot tell": 11}
"""Exit codes of a gate."""
