"""Laws over runs: parameters come back, intervals hold what they say, and what cannot be fitted is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tunewright
from tests import small
from tests.test_json import holds
from tunewright import errors
from tunewright.commands import cli
from tunewright.laws import cmr_scaling_law as cmr
from tunewright.laws import cpt_dynamics_law as cpt
from tunewright.laws import fit_laws as fitting_laws
from tunewright.laws.fit_laws import Laws, stretched
from tunewright.laws.fitting import Parameter, fit
from tunewright.laws.observed import Observed, comparable

BASE = (6.3, 3.4)
DOMAIN, GENERAL = np.array([0.3, 0.5, 0.1]), np.array([0.01, 0.5, 1.5, 0.3])
BUDGETS = (1e4, 2e4, 4e4, 8e4)
UNIT = float(np.exp(np.mean(np.log(BUDGETS))))
CURVE = np.array([3.5, 0.1, 1.0, 0.3, 0.15, 1.2, 8.0, 0.4, 1.3])
UNITS = (0.06, 0.03)


def points(noise: float, rng: Any, budgets: tuple[float, ...] = BUDGETS) -> list[cmr.Point]:
    """Ends of runs drawn from the law, with relative Gaussian errors."""
    out = []
    for share in (0.9, 0.7, 0.4, 0.2):
        for tokens in budgets:
            x = np.array([[share, tokens / UNIT]])
            d, g = cmr.domain_law(BASE[0])(x, DOMAIN)[0], cmr.general_law(BASE[1])(x, GENERAL)[0]
            e = np.exp(noise * rng.standard_normal(2))
            out.append(cmr.Point(f"{share}-{tokens:g}", share, tokens, float(d * e[0]), float(g * e[1])))
    return out


def schedule(steps: int, kind: str) -> np.ndarray:
    i = np.arange(steps)
    shapes = {
        "constant": np.ones(steps),
        "linear": 1 - i / steps,
        "cosine": 0.5 * (1 + np.cos(np.pi * i / steps)),
    }
    return 1e-3 * shapes[kind]


def curves(plan: list[tuple[str, float, int]], noise: float, rng: Any) -> list[cpt.Curve]:
    """Curves drawn from the law: (schedule, share, steps) each."""
    out = []
    for kind, share, steps in plan:
        rates, at = schedule(steps, kind), list(range(5, steps + 1, 5))
        s1, s2 = cpt.areas(rates, 0.99)
        x = np.column_stack([np.full(len(at), share), s1[np.array(at) - 1] / UNITS[0], s2[np.array(at) - 1] / UNITS[1]])
        y = cpt.law(x, CURVE) * np.exp(noise * rng.standard_normal(len(at)))
        out.append(cpt.Curve(f"{kind}{share}{steps}", share, tuple(rates), tuple(zip(at, map(float, y), strict=True))))
    return out


PLAN = [(kind, share, steps) for kind in ("constant", "linear") for steps in (20, 40, 80) for share in (0.9, 0.5)]


def test_the_mixtures_parameters_come_back_and_so_does_the_critical_ratio() -> None:
    law = cmr.fit_mixture(points(0.0, np.random.default_rng(0)), *BASE)
    assert law.unit == pytest.approx(UNIT)
    assert list(law.domain.values.values()) == pytest.approx(DOMAIN, rel=1e-3)
    assert list(law.general.values.values()) == pytest.approx(GENERAL, rel=1e-2)
    share, low, high = law.critical(1.6e5, 0.2)
    at = cmr.general_law(BASE[1])(np.array([[share, 1.6e5 / UNIT]]), GENERAL)[0]
    assert at == pytest.approx(BASE[1] + 0.2, abs=1e-3) and low <= share <= high
    assert law.critical(1.6e5, 100.0)[0] == 0.9, "no share above those seen"
    assert law.critical(1.6e5, 0.1)[0] < share


def test_the_curves_parameters_come_back_over_schedules() -> None:
    law = cpt.fit_curves(curves(PLAN, 0.0, np.random.default_rng(0)))
    new = curves([("cosine", 0.7, 120)], 0.0, np.random.default_rng(0))[0]
    foreseen = law.fit.predict(law.at(0.7, new.rates, [n for n, _ in new.points]))
    assert (
        law.momentum == 0.99
        and law.fit.error < 1e-5
        and foreseen == pytest.approx([y for _, y in new.points], rel=1e-4)
    )
    assert law.fit.values["p"] == pytest.approx(1.3, rel=1e-2) and law.fit.values["L0"] == pytest.approx(3.5, rel=1e-3)


def test_intervals_hold_new_runs_at_the_rate_that_they_say_and_are_no_wider_than_that() -> None:
    rng, inside, width = np.random.default_rng(3), [], []
    for _ in range(6):
        law = cmr.fit_mixture(points(0.01, rng), *BASE)
        for p in points(0.01, rng, (1.6e5, 3.2e5)):
            x = law.at([p.share], [p.tokens])
            for of, loss in ((law.domain, p.domain), (law.general, p.general)):
                value, low, high = of.interval(x)[0]
                inside.append(low <= loss <= high)
                width.append((high - low) / value)
    assert 0.88 <= np.mean(inside) <= 0.995, "95 %, of 96 that hang together by 16"
    assert 0.04 < np.median(width) < 0.12, "an error of 1 % alone makes an interval of 4 %"


@pytest.mark.slow
def test_intervals_of_curves_hold_new_schedules_at_the_rate_that_they_say() -> None:
    rng, inside = np.random.default_rng(4), []
    for _ in range(15):
        law = cpt.fit_curves(curves(PLAN, 0.005, rng))
        for c in curves([("cosine", 0.7, 120), ("linear", 0.9, 100)], 0.005, rng):
            each = law.fit.interval(law.at(c.share, c.rates, [n for n, _ in c.points]))
            inside += [low <= y <= high for (_, y), (_, low, high) in zip(c.points, each, strict=True)]
    assert 0.85 <= np.mean(inside) <= 0.995


def test_errors_that_runs_share_widen_intervals() -> None:
    rng = np.random.default_rng(0)
    x, names = np.tile(np.arange(1.0, 9), 6)[:, None], [f"r{i // 8}" for i in range(48)]
    of_run = np.repeat(0.05 * np.array([1, -1, 1, -1, 1, -1]), 8)
    y = 2 * np.exp(of_run + 0.001 * rng.standard_normal(48))
    found = fit(lambda at, v: v[0] * at[:, 0] ** 0, [Parameter("L", 0.1, 10, log=True)], x, y, names)
    value, low, high = found.interval(np.array([[3.0]]))[0]
    assert high - low > 3 * 0.05 * value, "points of one run are no runs of their own"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=9, max_size=9), st.floats(0, 1), st.floats(0, 1e4), st.floats(0, 1e4))
def test_no_loss_is_negative(part: list[float], share: float, s1: float, s2: float) -> None:
    bounds = cpt.parameters(np.array([0.5, 4.0]))
    free = np.array([np.log((q + 1e-9) / (1 - q + 1e-9)) for q in part])
    zero = np.zeros(1)
    made = type(FLAT)(cpt.law, bounds, np.array([[1.0, 0, 0]]), zero + 1, np.array(["a"]), free)
    assert made.predict(np.array([[share, s1, s2]]))[0] > 0
    losses = cmr.general_law(3.4)(np.array([[share, s1 + 1e-3]]), np.array([0.5, 1e-4, 0.1, -0.5]))
    assert losses[0] > 0 and cmr.domain_law(6.3)(np.array([[share, s1]]), np.array([0.0, 3.0, 1e-4]))[0] > 0


FLAT = fit(
    lambda at, v: v[0] * at[:, 0] ** 0,
    [Parameter("L", 0.1, 10, log=True)],
    np.ones((3, 1)),
    np.full(3, 2.0),
    list("abc"),
)


def test_areas_by_hand() -> None:
    s1, s2 = cpt.areas([1.0, 3.0, 2.0, 2.0], 0.9)
    assert list(s1) == [1, 4, 6, 8], "the sum of the rates"
    assert s2 == pytest.approx([0, 0, 1, 1.9]), "a rise adds nothing, a fall what is left of it each step"
    assert stretched([1.0, 0.5], 4) == [1.0, 0.875, 0.625, 0.5]


def test_laws_by_hand() -> None:
    x = np.array([[0.5, 8.0]])
    assert cmr.domain_law(6.0)(x, np.array([0.5, 0.5, 0.5]))[0] == pytest.approx(6 * (0.5 + 0.5 / 3))
    assert cmr.general_law(3.0)(x, np.array([0.5, 0.2, 2.0, 1 / 3]))[0] == pytest.approx(3 / 5**0.5 + 0.2 * 0.25 * 2)
    values = np.array([4.0, 0.5, 1.0, 1.0, 0.1, 2.0, 3.0, 0.5, 2.0])
    told = cpt.law(np.array([[0.5, 1.0, 0.5]]), values)[0]
    assert told == pytest.approx(4 - 0.5 * (1 - 1 / 2) - 0.1 * 0.5 + 2 * 0.25 * (1 - 1 / 2))


def test_the_order_of_points_changes_no_bit_of_a_fit() -> None:
    made = points(0.02, np.random.default_rng(7))
    a, b = (
        cmr.fit_mixture(each, *BASE) for each in (made, [made[i] for i in np.random.default_rng(1).permutation(16)])
    )
    assert a.general.values == b.general.values and a.domain.values == b.domain.values
    x = a.at([0.5], [3e5])
    assert a.general.interval(x) == b.general.interval(x)


def test_few_runs_make_tails_wider_than_a_normals() -> None:
    made = fit(FLAT.law, FLAT.parameters, np.ones((3, 1)), np.array([1.98, 2.0, 2.02]), list("abc"))
    value, low, high = made.interval(np.ones((1, 1)))[0]
    assert (high - low) / value > 1.5 * 2 * 1.96 * 0.01 * (4 / 3) ** 0.5, "Student's quantile at 2 degrees is 4.3"


def observed(share: float, tokens: int, rng: Any, **changes: Any) -> Observed:
    x = np.array([[share, tokens / UNIT]])
    d, g = (float(v * np.exp(0.01 * rng.standard_normal())) for v in (
        cmr.domain_law(BASE[0])(x, DOMAIN)[0], cmr.general_law(BASE[1])(x, GENERAL)[0]
    ))  # fmt: skip
    name = f"{share}-{tokens}"
    same = {"base": "h", "training rows": "t", "methods": [], "held-out rows": [], "replayed texts": ["g"]}
    made = {
        "name": name,
        "share": share,
        "tokens": tokens,
        "steps": tokens // 1000,
        "base": BASE,
        "point": cmr.Point(name, share, tokens, d, g),
        "curve": None,
        "followed": "",
        "same": same,
        "settings": {"learning rate": 1e-3},
    }
    return Observed(**(made | changes))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Observed]:
    """Runs by name, in the place of folders."""
    rng = np.random.default_rng(5)
    runs = [observed(s, int(t), rng) for s in (0.9, 0.7, 0.4) for t in BUDGETS]
    runs.append(observed(1.0, 10_000, rng))
    by_name = {r.name: r for r in runs}
    monkeypatch.setattr(fitting_laws, "observe", lambda folder, keep: by_name[str(folder)])
    return by_name


def test_laws_are_judged_on_the_longest_runs_and_the_order_of_runs_changes_nothing(pretended: Any) -> None:
    names = list(pretended)
    laws = tunewright.fit_laws(names)
    assert {u.run for u in laws.runs if u.part == "held out"} == {"0.9-80000", "0.7-80000", "0.4-80000"}
    assert laws.mixture is not None and laws.mixture.judged is not None and laws.dynamics is None
    judged = laws.mixture.judged
    assert len(judged.checked) == 6 and judged.inside >= 5 / 6 and judged.error < 0.1 < judged.carried
    assert [m.tokens for m in laws.mixture.foreseen] == [160_000] * 3 + [320_000] * 3
    assert any("without replay are left out" in n for n in laws.notes)
    assert tunewright.fit_laws(names[::-1]) == laws
    assert "6 of 6 within" in str(laws) or "5 of 6 within" in str(laws)
    named = tunewright.fit_laws(names, hold_out=["0.4-10000"], tokens=[5000], tolerance=0.5)
    assert [c.run for c in named.mixture.judged.checked] == ["0.4-10000"] * 2  # type: ignore[union-attr]
    assert [c.tokens for c in named.mixture.critical] == [5000]  # type: ignore[union-attr]
    assert named.mixture.critical[0].share.value > laws.mixture.critical[0].share.value  # type: ignore[union-attr]


def test_too_few_runs_and_runs_that_differ_are_refused_in_one_message(pretended: Any) -> None:
    with pytest.raises(errors.RecipeError, match="2 runs with 2 domain shares .*; no law of learning rates: 0 runs"):
        tunewright.fit_laws(["0.9-10000", "0.7-10000"])
    rng = np.random.default_rng(0)
    pretended["x"] = observed(0.9, 10_000, rng, name="x", settings={"learning rate": 1.0})
    with pytest.raises(errors.RecipeError, match="differ in learning rate"):
        tunewright.fit_laws(list(pretended))
    with pytest.raises(errors.RecipeError, match="above 0"):
        tunewright.fit_laws(["x"], tolerance=float("nan"))
    a = observed(0.9, 10_000, rng, name="a")
    for what in ("base", "training rows", "methods", "held-out rows", "replayed texts"):
        other = observed(0.7, 10_000, rng, name="b", same=a.same | {what: ["other"]})
        with pytest.raises(errors.RecipeError, match=f"a and b have other {what}"):
            comparable([a, other])
    with pytest.raises(errors.RecipeError, match="other losses of the base"):
        comparable([a, observed(0.7, 10_000, rng, name="b", base=(6.3, 3.5))])


def test_a_run_that_is_named_twice_by_a_copy_is_refused(pretended: Any) -> None:
    pretended["copy"] = replace(pretended["0.7-20000"], name="copy")
    with pytest.raises(errors.RecipeError, match="0.7-20000 and copy have the same share, tokens and losses"):
        tunewright.fit_laws(list(pretended))


def test_no_run_is_called_held_out_where_nothing_was_judged(pretended: Any) -> None:
    names = [n for n in pretended if n.endswith(("-10000", "-20000")) and not n.startswith("1.0")]
    laws = tunewright.fit_laws(names)
    assert laws.mixture is not None and laws.mixture.judged is None
    assert {u.part for u in laws.runs} == {"fitted"} and any("judged on no run" in n for n in laws.notes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three runs of a tiny model on disk: two with replay, one without."""
    folder = tmp_path_factory.mktemp("laws")
    small.write_inputs(folder)
    text = (folder / "keep.txt").read_text()
    (folder / "domain.txt").write_text(text.replace("card", "pin"))
    (folder / "held.txt").write_text(text.replace("fee", "up"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        for name, share, steps in (("a", 0.2, 6), ("b", 0.5, 6), ("c", 0.2, 12)):
            recipe = small.write_recipe(
                folder,
                name,
                data={
                    "train": "domain.txt",
                    "eval": "held.txt",
                    "validation": "keep.txt",
                    "replay": {"keep.txt": share},
                },
                train__batch_tokens=32,
                train__eval_steps=1,
                stages__0__budget={"steps": steps},
                measurement__strengths=[1.0],
            )
            tunewright.run(recipe, out=folder / name, quiet=True)
        yield folder


@pytest.mark.slow
def test_runs_are_read_and_the_verb_prints_what_it_finds(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    done = CliRunner().invoke(cli.app, ["fit-laws", "a", "b", "c", "--tokens", "1k", "--json"])
    assert done.exit_code == 0, done.output
    found = holds("fit-laws", done.stdout)
    assert found["mixture"] is None and "3 runs with 2 domain shares" in found["notes"][0]
    law = found["dynamics"]
    assert law["points"] == 24 and law["text"] == "keep.txt" and {r["share"] for r in found["runs"]} == {0.8, 0.5}
    assert [f["tokens"] for f in law["foreseen"]] == [1000, 1000]
    report = tunewright.open_run("c").report
    assert report.target is not None and report.target.after is not None
    of_c = next(r for r in found["runs"] if r["run"] == "c")
    assert of_c["domain"] == report.target.after.value and of_c["general"] == report.kept[0].after.value  # type: ignore
    shown = str(Laws.model_validate(found))
    assert "Judged on no run" in shown and "(cpt-dynamics-law)" in shown
    assert {r["part"] for r in found["runs"]} == {"fitted"}
    wrong = CliRunner().invoke(cli.app, ["fit-laws", "a", "b", "c", "--keep", "keeep"])
    assert wrong.exit_code == 2 and "did you mean 'keep'" in wrong.stderr
    seen = {n: fitting_laws.observe(Path(n), None) for n in "abc"}
    seen["d"] = replace(seen["a"], name="d", curve=None, point=replace(seen["a"].point, domain=1.0))
    monkeypatch.setattr(fitting_laws, "observe", lambda folder, keep: seen[str(folder)])
    told = [n for n in tunewright.fit_laws([*seen], tokens=[1000]).notes if "does without" in n]
    assert len(told) == 1 and "does without d: metrics.jsonl is missing" in told[0]


def test_a_run_whose_figures_are_not_finite_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with (place / "c" / "metrics.jsonl").open("a") as f:
        f.write('{"stage": "main", "step": 12, "eval_loss": NaN}\n')
    with pytest.raises(errors.NonFiniteError, match="metrics.jsonl"):
        tunewright.fit_laws(["a", "b", "c"])
