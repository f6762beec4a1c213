"""What a claim is: a paper's headline as a comparison of arms on a lab task. One short file a claim.

`tunewright/claims/<slug>.py` (with _ for -) holds `CLAIM = Claim(...)`; its name is the paper's slug, or slug__what for
a paper's second claim. Everything in it is written down before the first result: the rule (see `rule`) does the rest. A
claim that is no comparison of recipes gives a function `measure(run, seed)` beside it (see `claim_run`).

Other packages add theirs by the entry-point group "tunewright.claims", whose entries name a module with a CLAIM; a
function `recipe(scale)` beside it gives the recipe without methods that its arms are laid on, in the place of a lab
task's.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunewright.claims import metrics
from tunewright.claims.lab.scale import SEEDS
from tunewright.claims.matched import REACH
from tunewright.claims.rule import Direction
from tunewright.errors import ClaimError, MethodError, did_you_mean
from tunewright.machine import installed
from tunewright.measure.trade import NEAR

Scale = Literal["nano", "real"]
RATES = (1e-4, 3e-4, 1e-3)
FOLDER = Path(__file__).parent / "papers"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Part):
    """One side of a comparison: methods, and what of the recipe differs for them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="its name in results")
    methods: list[Any] = Field(
        default_factory=list, description="as in a recipe: ['lora'], [{'corda': {'mode': 'keep'}}]"
    )
    extra: dict[str, Any] = Field(
        default_factory=dict, description="laid over the lab task's recipe, for this arm alone"
    )
    rates: tuple[float, ...] | None = Field(None, description="learning rates to choose from; none: the claim's")
    uses: list[str] = Field(
        default_factory=list,
        description="methods that `measure` applies beside its arms' recipes",
    )


class Claim(_Part):
    """A comparison, complete before its first run."""

    paper: str = Field(description="the paper's slug in the catalogue")
    says: str = Field(description="the paper's headline in our words, and what of it is tested here")
    task: str = Field(description="lab task")
    method: Arm = Field(description="what the paper proposes")
    baselines: list[Arm] = Field(
        default_factory=list,
        description="what it is compared with; none only where `measure` gives a figure that stands alone",
    )
    metric: str = Field(description="what is compared (docs/claims.md lists what there is)")
    direction: Direction = Field(description="which way the metric is better")
    smallest: float = Field(
        description=(
            "smallest effect of interest d, in the metric's unit (or a share, if relative); negative: not "
            "worse by more than that"
        )
    )
    relative: bool = Field(False, description="effects as shares of the baseline's figure")
    against: Literal["each", "best"] = Field(
        "each", description="hold against each baseline, or against the one that did best on validation"
    )
    seeds: int = Field(SEEDS, ge=2, description="seeds, all run before anything is judged")
    budget: dict[str, Any] | None = Field(None, description="of every run; none: the task's own")
    rates: tuple[float, ...] = Field(
        RATES,
        description=(
            "learning rates to choose from, factor 3 apart; the grid grows while the best is at its edge; "
            "(): none is chosen, the task's own"
        ),
    )
    strengths: tuple[float, ...] = Field(NEAR, description="strengths at which every run is measured, beside the base")
    reach: float = Field(
        REACH,
        gt=0,
        le=1,
        description="matched targets: least share of the better one's gain at which two curves are compared",
    )
    at: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "matched targets: where to compare, as a share of the best gain that both reach (0.9 is far less noisy)"
        ),
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="laid over the lab task's recipe, for every arm")
    interval: Literal["seeds", "seeds and rows"] = Field(
        "seeds",
        description=(
            "what the interval is over: seeds alone, all on the same rows, or seeds and rows (metric target alone)"
        ),
    )
    scales: tuple[Scale, ...] = Field(("nano", "real"), description="where it can be run")
    real: dict[str, Any] = Field(
        default_factory=dict, description="fields that differ at scale real: {'seeds': 5, 'budget': {'tokens': 20000}}"
    )
    learnt: float = Field(
        0.1,
        gt=0,
        le=1,
        description="least share of what there was to gain that a baseline must gain for anything to be tested",
    )
    redraws: int | None = Field(
        None,
        ge=1,
        description="steps between draws of a method that searches by drawing anew; with few of them nothing is tested",
    )
    better_base: tuple[str, str] | None = Field(
        None, description="two lab bases of which the first has to be the better one for anything to be tested"
    )
    differs: str | None = Field(None, description="how the test differs from the paper's own setting")

    @model_validator(mode="after")
    def _sound(self) -> Claim:
        names = [a.name for a in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"two arms have one name: {', '.join(names)}")
        for rates in filter(None, (self.rates, *(a.rates for a in self.arms))):
            if any(not 2 <= b / a <= 4 for a, b in zip(rates, rates[1:], strict=False)):
                raise ValueError(f"learning rates rise by a factor of about 3, got {rates}")
        metrics.find(self.metric)
        if self.interval == "seeds and rows" and (self.metric != "target" or self.relative):
            raise ValueError(
                "interval='seeds and rows' needs metric='target', not relative: rows have no other figure that the "
                f"effect is a mean of, got {self.metric!r}{', relative' if self.relative else ''}"
            )
        if self.against == "best" and not all(self.rates_of(a) for a in self.baselines):
            raise ValueError("against='best' needs rates for every baseline: the best is found on validation rows")
        if self.real:
            if not self.real.keys() <= {"seeds", "budget", "rates", "strengths", "extra", "smallest"}:
                raise ValueError(
                    f"'real' may change seeds, budget, rates, strengths, extra and smallest, got {', '.join(self.real)}"
                )
            self.at_scale("real")
        return self

    def at_scale(self, scale: Scale) -> Claim:
        """The claim as it is run at a scale. ClaimError where it is not run there."""
        if scale not in self.scales:
            raise ClaimError(
                f"this claim is not run at scale '{scale}'", remedy=f"it can be run at: {', '.join(self.scales)}"
            )
        return Claim.model_validate({**dict(self), **self.real, "real": {}}) if scale == "real" else self

    @property
    def arms(self) -> list[Arm]:
        """The method first, then the baselines."""
        return [self.method, *self.baselines]

    def rates_of(self, arm: Arm) -> tuple[float, ...]:
        """The learning rates an arm chooses from."""
        return self.rates if arm.rates is None else arm.rates


class Loaded(_Part):
    """A claim with its name, its file and, where it has one, its own measure."""

    name: str
    file: Path
    claim: Claim
    measure: Any = Field(None, description="(ClaimRun, seed) -> figures by arm")
    recipe: Any = Field(None, description="(scale) -> a recipe without methods, in the place of a lab task's")
    comes_from: str = Field("", description="the package that it comes from, with its version; none: Tunewright")


def names(folder: Path = FOLDER) -> list[str]:
    """Every claim's name in a folder, found by reading files: nothing is imported."""
    return sorted(f.stem.replace("_", "-") for f in _files(folder))


def added_names() -> list[str]:
    """Names of the claims of other packages; nothing is imported."""
    return list(installed.points(installed.CLAIMS))


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.glob("*.py")):
        if re.search(r"^CLAIM\b.*=", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield file


def load(name: str, folder: Path = FOLDER) -> Loaded:
    """A claim by its name. ClaimError with the nearest names, or with what is wrong in its file; MethodError for one of
    another package that cannot be had.
    """
    plain = name.strip().replace("_", "-")
    if folder == FOLDER and plain in installed.points(installed.CLAIMS):
        return _added(installed.points(installed.CLAIMS)[plain])
    file = next((f for f in _files(folder) if f.stem.replace("_", "-") == plain), None)
    if file is None:
        raise ClaimError(
            f"no claim is named '{name}'",
            remedy=did_you_mean(name, names(folder) + (added_names() if folder == FOLDER else [])),
        )
    try:
        module = _module(file, folder)
    except (ValidationError, ValueError) as error:
        raise _unsound(error, file) from error
    return _whole(Loaded(name=plain, file=file, claim=module.CLAIM, measure=getattr(module, "measure", None)))


def _added(point: installed.Point) -> Loaded:
    """The claim of another package."""
    try:
        module = point.load(names())
    except MethodError as error:
        if isinstance(error.__cause__, ValidationError):
            raise _unsound(error.__cause__, point.file or Path(point.module)) from error
        raise
    claim, file = getattr(module, "CLAIM", None), point.file
    if not isinstance(claim, Claim) or file is None:
        raise point.wrong("module with CLAIM = Claim(...)")
    functions = {name: getattr(module, name, None) for name in ("measure", "recipe")}
    return _whole(Loaded(name=point.name, file=file, claim=claim, comes_from=point.comes_from, **functions))


def _unsound(error: ValueError, file: Path) -> ClaimError:
    first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
    return ClaimError(
        f"{'.'.join(map(str, first['loc'])) or 'the claim'}: {first['msg']}",
        where=str(file),
        remedy="see docs/claims.md",
    )


def _whole(loaded: Loaded) -> Loaded:
    if loaded.measure is not None and loaded.claim.interval != "seeds":
        raise ClaimError(
            "a claim with its own `measure` has one figure a seed, and no rows",
            where=str(loaded.file),
            remedy="leave interval='seeds and rows' out",
        )
    if loaded.measure is None and not loaded.claim.baselines:
        raise ClaimError(
            "a claim without baselines needs a function `measure`",
            where=str(loaded.file),
            remedy="name a baseline, or give measure(run, seed)",
        )
    return loaded


def _module(file: Path, folder: Path) -> Any:
    if folder == FOLDER:
        return importlib.import_module(f"tunewright.claims.papers.{file.stem}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
