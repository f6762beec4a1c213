"""What a merge is to the engine: a method that turns the tensors of one name into one, and what it says of itself.

A merge's maths is plain functions on bare float32 tensors; the engine owns files, types, order, threads and checks.
What several models have of their own (a weight, a density) comes as `each`, one mapping a model, resolved for the
tensor at hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method, Needs, call
from tunewright.errors import MethodError


class Merge(Method):
    """Base of merges. A subclass fills the slot `merge` and declares:

    - `base`: "needed" (it works on changes from a common base), "none" (a base among the models is a model like any
      other) or "optional".
    - `symmetric`: the order of the models does not matter (to rounding).
    - `models`: (least, most) number of models beside the base; None: no limit.
    - `per_model`: names of fields that may differ from model to model: `merge` reads them from `each`, never from self.
    - `picks`: `pick` chooses which of the models are merged. `learns`: `learn` looks at whole models and rows first.
      `passes`: how often `survey` looks at all tensors before the first is merged.
    - `mergekit_defaults`: values of fields where a mergekit file leaves them out, if they are not its own defaults.

    `merge` may ask for `name`, `base`, `tensors`, `each`, `depth`, `needs` and `rng`. Tensors are float32 and must not
    be changed in place; the result has their shape. `rng` is a random.Random drawn from the seed and the tensor's name.
    """

    of: tuple[str, ...] = Field(
        (), description="models beside the run's own: stages.<name>, or folders of runs", examples=[["stages.first"]]
    )

    base: ClassVar[Literal["needed", "none", "optional"]] = "optional"
    symmetric: ClassVar[bool] = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    per_model: ClassVar[tuple[str, ...]] = ()
    picks: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    mergekit_defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def passes(self) -> int:
        """Passes over all tensors that `survey` needs with these parameters."""
        return 0

    def pick(self, count: int, score: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
        """Indices of the models to merge, of `count`; `score` gives a held-out score of the merge of some of them."""
        raise NotImplementedError

    def learn(self, learning: Any) -> dict[str, Any]:
        """What `merge` finds under `needs`, from whole models and rows (`weights.blocks.Learning`)."""
        raise NotImplementedError

    def survey(
        self, name: str, base: Tensor | None, tensors: Sequence[Tensor], known: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Integer counts of one tensor by key, which are added up over all tensors in any order."""
        raise NotImplementedError

    def surveyed(
        self, sums: Mapping[str, Tensor], known: Mapping[str, Any], each: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What the next pass, and `merge` under `needs`, know from the sums of a pass."""
        raise NotImplementedError


def as_merge(method: Method, name: str) -> Merge:
    """The method, if it is a merge. MethodError for one that does not derive from `Merge`."""
    if not isinstance(method, Merge):
        raise MethodError(f"'{name}' is no merge", remedy="derive it from tunewright.weights.operator.Merge")
    return method


class Edit(Method):
    """Base of edits that may be fitted to the merge that they follow; an edit that is not derives from Method."""

    @property
    def fits_merge(self) -> bool:
        """Whether `fitted` is to be asked before the first tensor."""
        return False

    def fitted(self, plain: float, merged: float, count: int) -> Edit:
        """A copy for a merge of `count` models, from ||sum of their changes||_1 and ||the merged change||_1."""
        raise NotImplementedError


def draws_of(seed: int, name: str) -> random.Random:
    """The generator of one tensor: the same whatever the order, threads and files."""
    return random.Random(f"{seed}/{name}")


def each_of(method: Method, count: int, given: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """One mapping a model: a method's per-model fields, those given taking the place of its own values."""
    own = {n: getattr(method, n) for n in getattr(method, "per_model", ())}
    return [{**own, **(given[i] if given else {})} for i in range(count)]


def check_count(method: Method, name: str, count: int, base: bool) -> None:
    """MethodError where a method cannot take so many models, or lacks its base."""
    least, most = getattr(method, "models", (1, None))
    if count < least or (most is not None and count > most):
        wanted = f"exactly {least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        raise MethodError(
            f"'{name}' takes {wanted} models beside its base, and got {count}",
            remedy="name more models" if count < least else "name fewer models",
        )
    if getattr(method, "base", "optional") == "needed" and not base:
        raise MethodError(
            f"'{name}' works on changes from a common base, and none is given",
            remedy="name the models' base: --base FOLDER",
        )


def merge_one(
    method: Method,
    name: str,
    base: Tensor | None,
    tensors: Sequence[Tensor],
    *,
    each: Sequence[Mapping[str, Any]] | None = None,
    depth: float | None = None,
    seed: int = 0,
    needs: Needs | None = None,
) -> Tensor:
    """One tensor of a merge. MethodError where the result has another shape and the method did not learn one."""
    merged: Tensor = call(
        method,
        "merge",
        name=name,
        base=base,
        tensors=list(tensors),
        each=each_of(method, len(tensors), each),
        depth=depth,
        needs=needs or Needs({}),
        rng=draws_of(seed, name),
    )
    return merged


def merge_tensors(
    method: Method,
    base: Mapping[str, Tensor] | None,
    models: Sequence[Mapping[str, Tensor]],
    *,
    each: Sequence[Mapping[str, Any]] | None = None,
    depth: Callable[[str], float | None] = lambda name: None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Merge models in memory, for notebooks and tests: float32 inside, results in the type of the first model's
    tensor.
    """
    from tunewright.weights.survey import survey

    check_count(method, type(method).__name__, len(models), base is not None)
    out = {}

    def stream() -> Iterator[tuple[str, Tensor | None, list[Tensor]]]:
        for name in models[0]:
            yield name, None if base is None else base[name].float(), [m[name].float() for m in models]

    needs = Needs(survey(method, stream, each_of(method, len(models), each)))
    for name, like in models[0].items():
        b = None if base is None else base[name].float()
        out[name] = merge_one(
            method, name, b, [m[name].float() for m in models], each=each, depth=depth(name), seed=seed, needs=needs
        ).to(like.dtype)
    return out
