"""docs/defaults.md: the rule in words, its constants from the code, and the table of the cells that were run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.defaults import LIMIT, SIZES, TRIALS, below_base, cells, name_of, share
from benchmarks.defaults_data import TABLE
from tunewright import catalogue
from tunewright.contract.method import Method
from tunewright.measure.intervals import wilson
from tunewright.training import defaults as rule

Cell = dict[str, Any]

_HEAD = """\
<!-- Made by `python -m benchmarks.defaults --page` from the rule and benchmarks/defaults.json: change those. -->
# Defaults

A recipe that leaves out the learning rate, the batch, the warm-up or the budget gets them by one rule, from its task,
its methods, its rows and their lengths as they are encoded; the run's own `recipe.yaml` shows the values. `tunewright
init` measures the rows first and writes the same values down, each with its reason. What a recipe says itself is never
changed.

## The rule

| value | rule |
| --- | --- |
{rules}

The rates that methods name, for a width of {width:,} (`learning_rates` of their classes; a method of your own may name
its own):

| method | rate |
| --- | --- |
{rates}

An objective may ask for another rate than the method that it stands beside: {factors}.

A stage that picks by its rows and learns nothing from them (`steel`) reads each once, {read} rows a step.

`init` also chooses `max_length`: the longest row, up to what the model reads and {longest:,} tokens; plain text that is
longer than {low:,} to {high:,} tokens is split, the shorter the less text there is. A stage that takes fewer than
{few} optimizer steps, where nobody asked for so few (`budget: {{steps: 3}}`), says so, in the plan and in the report,
and says what to write.

Few rows of free text are soon known by heart. Where `init` sees plain text, or answers of more than
{free} tokens in the mean, it therefore writes `eval_steps` of about an epoch and `keep_best: loss`: of all
evaluations on the rows held out, the best weights are the result; those of the start, where no loss can be told from
its own on these rows (95 %, over the rows). It writes `ema` beside the method, too: what is evaluated and kept is the
mean of the weights over about the last 20 steps, which on the fitted text gained more than the weights of any one step,
and is nearer the best whatever the rate.

Where the rule comes from: that narrow models take larger rates, and adapters about ten times the rate of whole models,
is common experience; the numbers were chosen on the data sets marked "fitted" below, on few rows and small models.
`ema` was chosen on tinyshakespeare, instruction-induction, dolly-short and bible-lowres; what plain text takes, on
tinyshakespeare and genesis-multilingual, which was judged by before. What preferences take was chosen on
dolly-vs-flan-t5, pairs of a person's and a small model's answers (100, 500 and 3,000 rows; after a set that judges had
shown the rule before to be too slow): `nano` gained most at 3 to 9 times the rate before, more in larger steps; SmolLM2
(135M, 120 rows) gained 21 points of pair accuracy at the rate before and moved as far from its base as `nano` does at
seven times that rate. Hence the power of the width; at a width of 4,096 it gives what is commonly written.
Nobody has tried the rule on models of billions of parameters here.

## How far it gets

"default" is `tunewright init MODEL DATA && tunewright run recipe.yaml` with nothing edited, "tuned" the recipe that
`tunewright tune` writes, which searches rate, length and batch on rows held out from training, in so many runs at most
by rows: {trials}; "runs" says how many there were.
Both are measured on {evaluated} rows that neither has seen; in brackets the 95 % interval over these rows where the
metric is a share. "of the gain": the default's gain over the base as a share of the tuned one's, in brackets its 95 %
interval over these rows, drawn again in pairs (none where the gain itself is hardly told from nothing); above 100 %
tuning chose worse than the default, on these rows.
{target}
"""


_DOUBT = """
Where the default ended below the base, the rows that chose its weights said otherwise: few rows choose badly. Tune, or
give `data.validation` more rows.
"""


def _rules() -> str:
    low, high = rule.ROWS
    passes = ", ".join(f"{kind} {n:g}" for kind, n in rule.PASSES.items())
    faster = ", ".join(f"for {kind} times (rows a step / {low}) ^ {power:g}" for kind, power in rule.GROWS.items())
    rows = [
        (
            "learning rate",
            f"the method's own, times (width {rule.WIDTH:,} / the model's width) ^ {rule.NARROWER:g}; that of added "
            f"weights {faster}; for a fresh model's own weights {rule.ADAPTER_RATE:g} in the place of the method's",
        ),
        (
            "batch",
            f"{low} to {high} rows a step, a power of two: so many that an epoch has about {rule.STEPS_AN_EPOCH} "
            f"steps; {high} where a row is told from the others of its step (`sentence-similarity`); "
            f"{rule.MOST_TOKENS:,} tokens at most",
        ),
        (
            "epochs",
            f"over 100 rows: {passes}; they fall with the {rule.FALL:g}th power of the rows. More where that gives "
            f"fewer than {rule.STEPS} steps, {rule.MOST_EPOCHS} at most",
        ),
        ("warm-up", f"{rule.WARMUP:.0%} of the steps"),
    ]
    return "\n".join(f"| {name} | {text} |" for name, text in rows)


def _rates() -> tuple[str, str]:
    """The rates' rows, and the factors in words."""
    rows: list[str] = []
    factors: dict[str, list[str]] = {}
    for name in sorted(catalogue.entries()):
        if not catalogue.entries()[name].room.startswith("methods/"):
            continue
        cls = catalogue.load_method(name)
        if cls.learning_rates:
            said = "; ".join(f"{task or 'any task'} {r:g}" for task, r in cls.learning_rates.items())
            rows.append(f"| `{name}` | {said} |")
        if cls.rate_factor != 1:
            factors.setdefault(f"x {cls.rate_factor:g}{_powers(cls)}", []).append(f"`{name}`")
    rows.append(f"| any other that adds weights | {rule.ADAPTER_RATE:g} |")
    rows.append(f"| any other | {rule.WEIGHT_RATE:g} |")
    return "\n".join(rows), "; ".join(f"{', '.join(names)} {said}" for said, names in factors.items())


def _powers(cls: type[Method]) -> str:
    """By what an objective's rate grows beside, in words."""
    said = f" x (width {rule.WIDTH:,} / the model's width) ^ {cls.rate_by_width:g}" if cls.rate_by_width else ""
    rows = f" x (rows a step / {rule.ROWS[0]}) ^ {cls.rate_by_rows:g} for added weights"
    return said + (rows if cls.rate_by_rows else "")


def page(found: Mapping[str, Cell]) -> str:
    """The page's text."""
    from tunewright.planning import lengths
    from tunewright.planning.lengths import FREE
    from tunewright.training.budget import FEW_STEPS

    rates, factors = _rates()
    text = _HEAD.format(
        rules=_rules(),
        rates=rates,
        factors=factors or "none does",
        width=rule.WIDTH,
        longest=lengths.LONGEST,
        low=lengths.PIECES[0],
        high=lengths.PIECES[1],
        few=FEW_STEPS,
        free=FREE,
        read=rule.MOST_READ,
        evaluated=TABLE[0].evaluated,
        trials=", ".join(f"{TRIALS[size]} of {size:,}" for size in SIZES),
        target=f"The aim: {LIMIT:.0%} of the gain, and never below the base.",
    )
    text += _DOUBT if any(map(below_base, found.values())) else ""
    return f"{text}\n{_table(list(found.values()))}\n\n{_summary(list(found.values()))}\n\n{_missing(found)}\n"


def _table(done: Sequence[Cell]) -> str:
    lines = [
        "| data | task, base | rows | measured | base | default | tuned | runs | of the gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    order = {d.name: i for i, d in enumerate(TABLE)}
    for cell in sorted(done, key=lambda c: (not c["fits"], order[c["data"]], c["size"])):
        reached = share(cell)
        name = f"{cell['data']}{' (fitted)' if cell['fits'] else ''}"
        gained = "nothing gained" if reached is None else f"{reached:.0%}{_ends(cell)}"
        lines.append(
            f"| {name} | {cell['kind']}, `{cell['model']}` | {cell['rows']:,} | "
            f"{cell['metric'].replace('_', ' ')} | {_figure(cell, 'base')} | {_figure(cell, 'default')} | "
            f"{_figure(cell, 'tuned')} | {cell['trials']} | {gained}"
            f"{', below the base' if below_base(cell) else ''} |"
        )
    return "\n".join(lines)


def _ends(cell: Cell) -> str:
    """The interval of the share; nothing where both runs are one, or the gain is hardly told from nothing."""
    ends = cell.get("share_interval")
    return "" if ends is None or ends == [1.0, 1.0] else f" [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]"


def _figure(cell: Cell, key: str) -> str:
    value = cell[key]
    if cell["unit"] != "fraction":
        return f"{value:.3f}"
    interval = wilson(round(value * cell["evaluated"]), cell["evaluated"])
    return f"{100 * value:.1f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _summary(done: Sequence[Cell]) -> str:
    said = []
    for fits, words in ((False, "not fitted"), (True, "fitted")):
        some = [c for c in done if c["fits"] is fits]
        shares = [s for c in some if (s := share(c)) is not None]
        short = [c for c in some if (s := share(c)) is not None and s < LIMIT]
        if not some:
            continue
        low = sum(below_base(c) for c in some)
        count = f"{len(shares)} cell{'s' if len(shares) != 1 else ''}"
        none = len(some) - len(shares)
        beside = f" ({none} more where tuning gained nothing either)" if none else ""
        said.append(
            f"On data that the rule was {words} on: {sum(s >= LIMIT for s in shares)} of {count}{beside} at {LIMIT:.0%}"
            f" of the gain or more{_told(short)}, {low} below the base."
        )
    return " ".join(said)


def _told(short: Sequence[Cell]) -> str:
    """Of the cells that fell short, how many surely did."""
    if not short:
        return ""
    within = sum((ends := c.get("share_interval")) is None or ends[1] >= LIMIT for c in short)
    return f" (of the {len(short)} below, {within} cannot be told from it on these rows)"


def _missing(found: Mapping[str, Cell]) -> str:
    left = [name_of(d, s) for d, s in cells() if name_of(d, s) not in found]
    if not left:
        return f"All {len(TABLE) * len(SIZES)} cells were run."
    return (
        f"Not run ({len(left)} of {len(TABLE) * len(SIZES)} cells; two shared cores have not had the time): "
        f"{', '.join(left)}. `python -m benchmarks.defaults --data FOLDER` runs what is missing."
    )
