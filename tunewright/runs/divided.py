"""What a recipe cannot do while its weights are divided among processes: what was not proved to work on parts."""

from __future__ import annotations

from collections.abc import Iterator

from tunewright import catalogue
from tunewright.errors import MethodError
from tunewright.loading.load import Divide
from tunewright.machine.group import present
from tunewright.models.adapted import Adapted
from tunewright.models.divided import WHERE, divide
from tunewright.recipe import MethodUse, Recipe

TASKS = ("text-generation", "text2text-generation", "fill-mask")
"""Those that were tried; a head that is made anew is fitted by one process."""


def divider(recipe: Recipe) -> Divide | None:
    """What divides the recipe's model among the processes of the run; None where it is one, or the recipe does not
    ask.
    """
    group = present()
    if recipe.train.fsdp is None or not group.many:
        return None

    return lambda model, device, dtype: divide(model, group, device, dtype)


def of_division(adapted: Adapted) -> list[str]:
    """What a report says where weights were divided."""
    if (parts := adapted.divided) is None:
        return []
    whole = sum(p.numel() * p.element_size() for p in adapted.base_parameters().values())
    return [
        f"the weights were divided among {parts.group.size} processes ({WHERE}): of {whole / 1e9:.3g} GB each held a "
        f"part, the first {parts.held() / 1e9:.3g} GB"
    ]


def check_divided(recipe: Recipe) -> None:
    """MethodError for what a recipe asks of weights that no process has whole: by one process alike, so that a recipe
    is refused where it is written and not where it is run by many.
    """
    if recipe.train.fsdp is None:
        return
    if recipe.task not in TASKS:
        raise _refused(f"{recipe.task} is not known to work on weights that processes hold parts of", "task")
    for key, what in _asked(recipe):
        raise _refused(f"`{key}` {what}", key)
    for use in _uses(recipe):
        cls = catalogue.load_method(use.name, use.place)
        if not cls.divides:
            raise _refused(f"'{use.name}' is not known to work on weights that processes hold parts of", use.place)
    for stage in recipe.stages:
        start = stage.start or "base"
        where = f"stages.{stage.name}"
        if start == "base":
            continue
        if stage.carry == "fold":
            raise _refused("carry: fold puts what a stage learnt into the weights", f"{where}.carry")
        if not start.startswith("stages."):
            raise _refused("a stage that starts from a folder may change the weights", f"{where}.start")
        before = next((s for s in recipe.stages if f"stages.{s.name}" == start), None)
        if before is not None and any(_trains_base(use) for use in before.methods):
            raise _refused(f"'{start}' trains the base's own weights, which none has whole", f"{where}.start")


def _refused(why: str, where: str | None = None) -> MethodError:
    return MethodError(
        f"{why}, and {WHERE}: full_shard divides the weights", where=where or WHERE, remedy=f"remove {WHERE}"
    )


def _asked(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys of a recipe that ask for whole weights, or for a process that reads the model by itself."""
    if recipe.train.offload_param is not None:
        yield "train.offload_param", "leaves the weights on disk"
    if recipe.new_tokens:
        yield "new_tokens", "changes the embeddings' size"
    for key, what in (
        ("after", "reads or changes whole weights"),
        ("probes", "reads whole weights"),
        ("test_time", "changes the weights row by row"),
        ("models", "has other models read beside this one"),
    ):
        if getattr(recipe, key):
            yield key, what
    if recipe.measurement.along:
        yield "measurement.along", "is read by one process"
    for stage in recipe.stages:
        data = recipe.data_for(stage)
        for key in ("select", "synthesize"):
            if getattr(data, key):
                yield f"data.{key}", "is not known to work beside"


def _uses(recipe: Recipe) -> Iterator[MethodUse]:
    from tunewright.training.optim import BUILTIN

    for stage in recipe.stages:
        yield from stage.methods
        optimizer = recipe.train_for(stage).optimizer
        if optimizer.name not in BUILTIN:
            yield optimizer


def _trains_base(use: MethodUse) -> bool:
    slots = set(catalogue.load_method(use.name, use.place).slots())
    return "choose" in slots and "attach" not in slots
