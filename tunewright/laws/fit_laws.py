"""Both laws over finished runs: judged on runs held out from a first fit, then fitted to all and asked what comes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from tunewright.errors import RecipeError
from tunewright.laws import cmr_scaling_law as cmr
from tunewright.laws import cpt_dynamics_law as cpt
from tunewright.laws.observed import REMEDY, Observed, comparable, observe
from tunewright.laws.result import (
    Checked,
    Critical,
    Dynamics,
    Followed,
    Foreseen,
    Judged,
    LawFigures,
    Mixed,
    Mixture,
    Used,
)
from tunewright.laws.shown import text as as_text


class Laws(LawFigures):
    """`fit-laws`: laws fitted over finished runs; one that could not be is null, and notes say why."""

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def fit_laws(
    runs: Sequence[str | Path],
    *,
    hold_out: Sequence[str | Path] = (),
    tokens: Sequence[int] = (),
    keep: str | None = None,
    tolerance: float = cmr.TOLERANCE,
) -> Laws:
    """Fit what can be fitted to finished runs of one base, task and data.

    `hold_out`: runs to judge on (none: those of the largest budget, where enough others are left); they are among
    `runs` or come on top. `tokens`: budgets to foresee (none: twice and four times the largest). `keep`: the kept text
    that is the general one, where there are several. `tolerance`: nats per token that the general loss may rise.
    RecipeError where runs do not go together or neither law can be fitted, FolderError for what is no finished run's
    folder, NonFiniteError for figures that are no losses.
    """
    if not tolerance > 0 or any(t <= 0 for t in tokens):  # nan too
        raise RecipeError("tolerance and tokens are above 0", where="--tolerance, --tokens", remedy="write 0.05, 1M")
    named = {_place(folder): str(folder) for folder in (*runs, *hold_out)}
    seen = sorted((observe(folder, keep) for folder in named.values()), key=lambda o: o.name)
    if not seen:
        raise RecipeError("no run is named", where="RUNS", remedy="name folders that `tunewright run` made")
    comparable(seen)
    asked = {named[_place(folder)] for folder in hold_out}
    budgets = cmr.budgets_of([o.tokens for o in seen])
    held = asked or ({o.name for o in seen if o.tokens in budgets[-1]} if len(budgets) > 1 else set())
    most = round(budgets[-1][-1])
    ahead = sorted(set(tokens)) or [2 * most, 4 * most]
    notes: list[str] = []
    mixed = [o for o in seen if o.share < 1] or seen
    if len(mixed) < len(seen):
        notes.append(
            f"{len(seen) - len(mixed)} runs without replay are left out: no power of the share follows the general "
            "loss from none to a little"
        )
    mixture = _mixture(mixed, held, ahead, tolerance, notes)
    dynamics = _dynamics(mixed, held, ahead, notes)
    if mixture is None and dynamics is None:
        raise RecipeError("; ".join(notes), where="RUNS", remedy=f"{REMEDY}; docs/laws.md says how many")
    judged = any(law is not None and law.judged is not None for law in (mixture, dynamics))
    used = [
        Used(
            run=o.name,
            share=o.share,
            tokens=o.tokens,
            steps=o.steps,
            domain=o.point.domain if o.point else None,
            general=o.point.general if o.point else None,
            part="left out" if o not in mixed else "held out" if judged and o.name in held else "fitted",
        )
        for o in sorted(seen, key=lambda o: (-o.share, o.tokens, o.name))
    ]
    return Laws(runs=used, mixture=mixture, dynamics=dynamics, notes=notes)


def _mixture(
    seen: Sequence[Observed], held: set[str], ahead: Sequence[int], tolerance: float, notes: list[str]
) -> Mixture | None:
    ends = [o for o in seen if o.point is not None]
    points = [o.point for o in ends if o.point is not None]
    if missing := cmr.enough(points):
        notes.append(f"no law of mixtures: {missing}, each with a loss on its task and on a kept text")
        return None
    other = next((k for o in ends for k, v in o.settings.items() if v != ends[0].settings[k]), None)
    if other is not None:
        notes.append(f"no law of mixtures: the runs differ in {other}, which it has no term for")
        return None
    base = ends[0].base
    assert base is not None
    rest = [p for p in points if p.run not in held]
    judged = None
    if held and not (missing := cmr.enough(rest)):
        law = cmr.fit_mixture(rest, *base)
        judged = _judge_mixture(law, [p for p in points if p.run in held], rest)
    else:
        notes.append(f"the law of mixtures was judged on no run: without those held out there are {missing or 'none'}")
    law = cmr.fit_mixture(points, *base)
    shares = sorted({p.share for p in points}, reverse=True)
    at = [(share, t) for t in ahead for share in shares]
    critical = [Critical(tokens=t, share=_figures([law.critical(t, tolerance)])[0]) for t in ahead]
    if any(not shares[-1] <= c.share.value < shares[0] for c in critical):
        notes.append(
            f"the shares seen are {100 * shares[-1]:.0f} to {100 * shares[0]:.0f} % of domain text: a critical ratio "
            "below is extrapolated, and one at the upper end may be larger"
        )
    x = law.at([s for s, _ in at], [t for _, t in at])
    domain, general = _figures(law.domain.interval(x)), _figures(law.general.interval(x))
    return Mixture(
        base_domain=base[0],
        base_general=base[1],
        unit=law.unit,
        domain=law.domain.values,
        general=law.general.values,
        fitted_error=float(np.sqrt((law.domain.error**2 + law.general.error**2) / 2)),
        tolerance=tolerance,
        judged=judged,
        foreseen=[
            Mixed(share=s, tokens=t, domain=d, general=g) for (s, t), d, g in zip(at, domain, general, strict=True)
        ],
        critical=critical,
    )


def _judge_mixture(law: cmr.MixtureLaw, new: Sequence[cmr.Point], seen: Sequence[cmr.Point]) -> Judged:
    checked, carried = [], []
    x = law.at([p.share for p in new], [p.tokens for p in new])
    for text, of in (("domain", law.domain), ("general", law.general)):
        for p, figure in zip(new, _figures(of.interval(x)), strict=True):
            near = min(seen, key=lambda s: (abs(s.share - p.share), abs(s.tokens - p.tokens), s.run))
            carried.append(abs(getattr(near, text) - getattr(p, text)))
            checked.append(
                Checked(
                    run=p.run,
                    text=text,
                    share=p.share,
                    tokens=int(p.tokens),
                    measured=getattr(p, text),
                    foreseen=figure,
                )
            )
    return _judged(checked, carried)


def _dynamics(seen: Sequence[Observed], held: set[str], ahead: Sequence[int], notes: list[str]) -> Dynamics | None:
    followed = [o for o in seen if o.curve is not None]
    curves = [o.curve for o in followed if o.curve is not None]
    if missing := cpt.enough(curves):
        notes.append(f"no law of learning rates: {missing}")
        return None
    if bare := [o.name for o in seen if o.curve is None]:
        notes.append(
            f"the law of learning rates does without {', '.join(bare)}: metrics.jsonl is missing, lacks a step's rate "
            "(train.logging_steps: 1 writes all) or has no evaluation (train.eval_steps)"
        )
    rest = [c for c in curves if c.run not in held]
    per_step = {o.name: o.tokens / max(1, o.steps) for o in followed}
    text, judged = followed[0].followed, None
    if held and not (missing := cpt.enough(rest)):
        judged = _judge_curves(cpt.fit_curves(rest), [c for c in curves if c.run in held], rest, text, per_step)
    else:
        notes.append(
            f"the law of learning rates was judged on no run: without those held out there are {missing or 'none'}"
        )
    law = cpt.fit_curves(curves)
    longest = max(curves, key=lambda c: (len(c.rates), c.run))
    foreseen = []
    for t in ahead:
        steps = max(1, round(t / per_step[longest.run]))
        rates = stretched(longest.rates, steps)
        for share in sorted({c.share for c in curves}, reverse=True):
            loss = _figures(law.fit.interval(law.at(share, rates, [steps])))[0]
            foreseen.append(Followed(share=share, tokens=t, loss=loss))
    return Dynamics(
        text=text,
        parameters=law.fit.values,
        momentum=law.momentum,
        forward_unit=law.units[0],
        annealing_unit=law.units[1],
        fitted_error=law.fit.error,
        points=sum(len(c.points) for c in curves),
        judged=judged,
        foreseen=foreseen,
    )


def stretched(rates: Sequence[float], steps: int) -> list[float]:
    """A schedule [len(rates)] over another number of steps [steps], in the same shape."""
    at = (np.arange(steps) + 0.5) / steps * len(rates) - 0.5
    return [float(v) for v in np.interp(at, np.arange(len(rates)), rates)]


def _judge_curves(
    law: cpt.CurveLaw, new: Sequence[cpt.Curve], seen: Sequence[cpt.Curve], text: str, per_step: dict[str, float]
) -> Judged:
    checked, carried = [], []
    for c in new:
        steps = [n for n, _ in c.points]
        near = min(seen, key=lambda s: (abs(s.share - c.share), -len(s.rates), s.run))
        for (n, loss), figure in zip(
            c.points, _figures(law.fit.interval(law.at(c.share, c.rates, steps))), strict=True
        ):
            carried.append(abs(min(near.points, key=lambda p: (abs(p[0] - n), p[0]))[1] - loss))
            tokens = round(n * per_step[c.run])
            checked.append(Checked(run=c.run, text=text, share=c.share, tokens=tokens, measured=loss, foreseen=figure))
    return _judged(checked, carried)


def _judged(checked: list[Checked], carried: list[float]) -> Judged:
    return Judged(
        checked=checked,
        error=float(np.mean([abs(c.measured - c.foreseen.value) for c in checked])),
        carried=float(np.mean(carried)),
        inside=float(np.mean([c.inside for c in checked])),
    )


def _figures(each: Sequence[tuple[float, float, float]]) -> list[Foreseen]:
    return [Foreseen(value=v, low=low, high=high) for v, low, high in each]


def _place(folder: str | Path) -> Path:
    return Path(folder).resolve()
