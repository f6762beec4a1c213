"""Brings a stage's methods onto the model: prepared, set up, their deltas attached, the model wrapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from tunewright.contract.combining import Bound, Methods
from tunewright.contract.left import Earlier
from tunewright.contract.method import Plan, Setup, begun
from tunewright.errors import MethodError
from tunewright.machine.going import over
from tunewright.models.adapted import Adapted, Wrapped
from tunewright.models.context import check_one_text
from tunewright.models.deltas import attach, check_form
from tunewright.models.surgery import Surgery


def set_up(
    adapted: Adapted,
    methods: Methods,
    plan: Plan,
    task: str,
    needs: Callable[..., dict[str, Any]],
    earlier: Earlier | None = None,
) -> None:
    """Run every method's `prepare`, `setup`, `attach` (one delta a site; several make a named stack) and `wrap`.

    `needs(bound)` gives a method's statistics; they are computed from the weights the stage starts with.
    `needs(bound, "prepare")` gives those that its `prepare` reads. `earlier` is what methods of earlier stages left.
    """
    # edits come first, however methods are named: they are done again before a surgery is, when files are read
    for b in sorted(methods.on("prepare"), key=lambda b: b.method.reshapes):
        prepare(adapted, methods, b, needs(b, "prepare") if b.method.reshapes else {})
    for b in methods:
        own = b.state.rng
        b.state = begun(b.method, Setup(adapted, plan, task, own, Earlier() if earlier is None else earlier), b.name)
        b.state.rng = own
        b.state.place(adapted.device)
        b.stage_needs = needs(b)
    for b in methods.on("attach"):
        made = 0
        for site in over(adapted.structure.every_site, f"{b.name}: layers set up"):
            delta = methods.call(b, "attach", site=site)
            if delta is not None:
                if not made:
                    check_form(delta)
                    if delta.reads_rows or delta.every_token:
                        check_one_text(adapted.model, b.name)
                attach(site, b.name, delta)
                made += 1
        if not made:
            raise MethodError(
                f"'{b.name}' found no site to attach to",
                remedy="check its target_modules: `tunewright plan` lists the sites",
            )
    wrapping = methods.one("wrap")
    if wrapping is not None:
        wrap(adapted, methods, wrapping, plan, task)


def prepare(adapted: Adapted, methods: Methods, bound: Bound, needs: Mapping[str, Any]) -> None:
    """Let a method edit the model, or do the surgery that it gives."""
    try:
        given = methods.call(
            bound, "prepare", needs, model=adapted.model, tokenizer=adapted.tokenizer, structure=adapted.structure
        )
        surgeries = [given] if isinstance(given, Surgery) else list(given or ())
        if surgeries and not bound.method.reshapes:
            raise MethodError(
                "it gives a surgery and does not declare it",
                remedy="write reshapes: ClassVar[bool] = True, so that finished stages do it again from their files",
            )
        for surgery in surgeries:
            adapted.operate(surgery)
    except MethodError as e:
        e.where = f"'{bound.name}', {e.where}" if e.where else f"'{bound.name}'"
        raise
    adapted.rediscover()


def wrap(adapted: Adapted, methods: Methods, bound: Bound, plan: Plan, task: str) -> None:
    """Let a method wrap the model, and note who did, so that a stage's files can bring the wrapper back."""
    before = adapted.wrapped_by
    if before is not None and before.method["name"] == bound.name and before.goes_on:
        adapted.unwrap()  # its parameters are none, or left by name: the same method wraps anew what it goes on with
    if adapted.wrapped_by is not None:
        raise MethodError(
            (
                f"'{bound.name}' cannot wrap a model that '{adapted.wrapped_by.method['name']}' of an earlier stage "
                "wraps already"
            ),
            where=f"stages.{plan.stage}",
            remedy="write carry: drop, or start from the base",
        )
    adapted.wrapper = methods.call(bound, "wrap", model=adapted.model, structure=adapted.structure)
    method = {
        "name": bound.name,
        "parameters": bound.method.model_dump(mode="json"),
        "plan": asdict(plan),
        "task": task,
    }
    leaves = bound.method.leaves
    goes_on = all(any(n == of or n.startswith(f"{of}.") for of in leaves) for n, _ in bound.state.named_parameters())
    adapted.wrapped_by = Wrapped(method, bound.state, goes_on)
