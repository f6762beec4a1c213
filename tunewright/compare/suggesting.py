"""Which methods a recipe's model, task and rows allow, how much each would train, and what was shown of each.

Nothing is trained and no weight is read: the model stands there with its shapes alone, every method that changes a
model is set up on it once, with its defaults, and what it refuses is told. What is best is not told, because nothing
here knows: a comparison of a few on the user's own rows does, and its command is given.

Which few, by a stated rule: `lora` and, where its training state fits into memory, `full`, which others are measured
by; then up to three of which a claim of their paper holds here, those on real bases first; then, of what becomes a
plain model and whose claim has not failed, the one that trains fewest numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunewright import catalogue
from tunewright.compare import compared, suggest_page
from tunewright.compare.evidence import of_method
from tunewright.compare.suggested import Candidate, Refused, SuggestionFigures
from tunewright.contract.left import Earlier
from tunewright.errors import TunewrightError
from tunewright.machine import host
from tunewright.planning.estimate import untouched
from tunewright.recipe import Recipe
from tunewright.recipe.given import RecipeLike, given
from tunewright.recipe.load import opened
from tunewright.recipe.uses import MethodUse
from tunewright.report import notebook
from tunewright.runs.assemble import assemble
from tunewright.runs.session import Session
from tunewright.runs.stage_methods import methods_of
from tunewright.training.setting_up import set_up
from tunewright.training.train import Loop

ROOMS = ("methods/adapters", "methods/parameter_selection")
"""What is added to the model, and what of it trains: a recipe needs one of these, and any other method goes beside."""
ADAM = 12
"""Bytes that a trained number takes beside itself: its gradient and two moments in single precision."""
SHOWN, MOST = 3, 6


class Suggestion(SuggestionFigures):
    """What a recipe could name; `print(suggestion)` gives the page of the command line."""

    def __str__(self) -> str:
        return notebook.plain(lambda console: suggest_page.show(self, console=console))

    def __repr__(self) -> str:
        return f"<Suggestion: {len(self.candidates)} methods for {self.model}>"

    def _repr_html_(self) -> str:
        return notebook.recorded(lambda console: suggest_page.show(self, console=console))


def suggest(recipe: RecipeLike, *, sets: Sequence[str] = (), memory: int | None = None) -> Suggestion:
    """What a recipe could name in the place of its first stage's methods.

    `sets`: `key.path=value` over the recipe's values. `memory`: bytes to train in (default: this machine's). Raises
    what a check of the recipe raises, but for what its methods refuse.
    """
    loaded = given(recipe, _with_a_method(recipe, sets))
    session = assemble(loaded, weights=False)
    session.adapted.files = None  # shapes are not those files' values
    memory = memory or host.total_memory()
    candidates, refused = [], []
    for entry in catalogue.entries().values():
        if entry.room not in ROOMS:
            continue
        use = MethodUse(name=entry.name)
        try:
            cls = catalogue.load_method(entry.name)
            trains = _trains(session, loaded, use)
        except TunewrightError as error:
            refused.append(Refused(entry.name, _why(error, entry.name)))
            continue
        state = None if trains is None else ADAM * trains
        fits = memory is None or state is None or _held(session) + state < memory
        evidence = of_method(entry.name, cls.papers)
        candidates.append(
            Candidate(
                entry.name,
                entry.summary(),
                trains,
                state,
                fits,
                cls.folds,
                cls.quantised,
                evidence,
                compared.of_method(entry.name),
            )
        )
    candidates.sort(key=lambda c: (c.trains is None, c.trains or 0, c.name))
    return Suggestion(
        model=loaded.model.name,
        parameters=sum(p.numel() for p in session.adapted.model.parameters()),
        task=session.task.name,
        rows=len(session.stages[0].rows.rows),
        stages=len(session.stages),
        memory=memory,
        candidates=candidates,
        refused=refused,
        compare=_few(candidates),
    )


def _with_a_method(recipe: RecipeLike, sets: Sequence[str]) -> list[str]:
    """The overrides, and one that names some method where the recipe names none yet: whoever asks has not chosen."""
    if isinstance(recipe, Recipe):
        return list(sets)
    tree = recipe if isinstance(recipe, Mapping) else opened(recipe, sets)[0].tree
    return [*sets] if {"methods", "stages", "adapters"} & set(tree) else [*sets, "methods=[full]"]


def _trains(session: Session, recipe: Recipe, use: MethodUse) -> int | None:
    """How many numbers a method trains at its first step; None where that hangs on weights. TunewrightError where it
    cannot be used.
    """
    stage = recipe.stages[0].model_copy(update={"methods": [use], "start": None})
    methods = methods_of(recipe, stage, session.task)
    with untouched(session) as trial:
        part = replace(trial.stages[0], spec=stage, methods=methods)
        inputs, provider = trial.training_inputs(part)
        asked = [need for b in inputs.methods for need in b.method.needs() if not need.of_rows]
        if any(need.when in ("once", "prepare", "redraw") for need in asked):
            return None
        told = provider.statistics  # of rows: what reads the base is asked for above
        try:
            set_up(inputs.adapted, inputs.methods, inputs.plan, trial.task.name, told, Earlier(complete=True))
            inputs.methods.event("begin_task", stage=stage.name, adapted=inputs.adapted)
            leaves = Loop(inputs).trained.leaves.values()
        except (RuntimeError, NotImplementedError):  # of torch: shapes have no values to go by
            return None
        return sum(leaf.leaf.numel() for leaf in leaves)


def _held(session: Session) -> int:
    """Bytes of the model's weights."""
    return sum(p.numel() * p.element_size() for p in session.adapted.model.parameters())


def _why(error: TunewrightError, name: str) -> str:
    """What a refusal says, and where, but for the name that stands before it."""
    where = error.where or ""
    return error.what if where.strip("'").startswith((name, "stages.")) else f"{where}: {error.what}".removeprefix(": ")


def _few(candidates: Sequence[Candidate]) -> list[str]:
    """Names for a comparison, by the rule above."""
    usable = [c for c in candidates if c.fits]
    by_name = {c.name: c for c in usable}
    few: list[str] = [name for name in ("lora", "full") if name in by_name]
    shown = sorted((c for c in usable if c.shown), key=lambda c: c.shown[0].scale != "real")
    few += [c.name for c in shown if c.name not in few][:SHOWN]
    plain = [c for c in usable if c.trains and c.folds and not any(e.verdict == "fails" for e in c.headlines)]
    few += [c.name for c in plain if c.name not in few][:1]
    return few[:MOST]
