"""What a merge is to the engine: a method that turns the tensors of one name into one.

A merge's maths is plain functions on bare float32 tensors; the engine owns files, types, order, threads and checks.
What several models have of their own (a weight, a density) comes as `each`, one mapping a model, resolved for the
tensor at hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from tunewright.contract.method import Method, Needs, call
from tunewright.errors import MethodError
from tunewright.weights.parameters import MergeFields, MergekitDefault, PerModel, check_count

__all__ = [
    "Edit",
    "Merge",
    "MergekitDefault",
    "PerModel",
    "as_merge",
    "check_count",
    "draws_of",
    "each_of",
    "merge_one",
    "merge_tensors",
]


class Merge(MergeFields, Method):
    """Base of merges. A subclass fills the slot `merge`, has its parameters as fields, and says which models it takes
    by the class attributes of `weights.parameters.MergeFields`: `base`, `symmetric` and `models`. Fields that may
    differ from model to model are marked `PerModel[...]`: `merge` reads them from `each`, never from self.

    - `picks`: `pick` chooses which of the models are merged. `learns`: `learn` looks at whole models and rows first.
      `passes`: how often `survey` looks at all tensors before the first is merged.

    `merge` may ask for `name`, `base`, `tensors`, `each`, `depth`, `needs` and `rng`. Tensors are float32 and must not
    be changed in place; the result has their shape. `rng` is a random.Random drawn from the seed and the tensor's name.
    """

    picks: ClassVar[bool] = False
    learns: ClassVar[bool] = False

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
