"""What a recipe cannot do while its blocks' weights stay on disk: all that changes them, or takes the model apart."""

from __future__ import annotations

from tunewright import catalogue
from tunewright.errors import MethodError
from tunewright.models import activations
from tunewright.models.streamed import WHERE
from tunewright.recipe import MethodUse, Recipe
from tunewright.runs.sources import task_for

_CHANGES = {
    "wrap": "puts another model around it",
    "merge": "merges its weights",
    "edit": "edits its weights",
    "adapt": "changes its weights at test time",
}


def check_offloaded(recipe: Recipe) -> None:
    """MethodError for a method, a start or a step after training that blocks on disk rule out."""
    if recipe.train.offload_param is None:
        return
    if task_for(recipe).makes_head:
        raise MethodError(
            f"the head of {recipe.task} may have to be drawn afresh, and blocks stay on disk for models as they are",
            where=WHERE,
            remedy="remove it; text-generation, text2text-generation and fill-mask take it",
        )
    uses = [u for s in recipe.stages for u in s.methods] + list(recipe.after)
    uses += list(recipe.test_time.adapt) if recipe.test_time is not None else []
    for use in uses:
        if why := _changes(use):
            raise MethodError(
                f"'{use.name}' {why}, and the blocks' weights are read from the base's files each time",
                where=use.place or WHERE,
                remedy="remove train.offload_param, or train what hangs beside the weights (lora ...)",
            )
    for stage in recipe.stages:
        if (stage.start or "base") != "base" and stage.carry == "fold":
            raise MethodError(
                "carry: fold puts what a stage learnt into the weights, and these stay on disk",
                where=f"stages.{stage.name}.carry",
                remedy="write carry: frozen, or remove train.offload_param",
            )


def check_on_the_host(recipe: Recipe) -> None:
    """MethodError for activations on the host beside weights that are brought in block by block, from a disk or from
    other processes.
    """
    if not any(recipe.train_for(s).activation_offloading for s in recipe.stages):
        return
    for key in ("offload_param", "fsdp"):
        if getattr(recipe.train, key) is not None:
            raise MethodError(
                f"activations on the host are not known to work beside train.{key}, which brings weights in and takes "
                "them away",
                where=activations.WHERE,
                remedy=f"keep one of the two; train.activation_checkpointing goes beside train.{key}",
            )


def _changes(use: MethodUse) -> str:
    """What a method does that needs the weights; "" for nothing."""
    cls = catalogue.load_method(use.name, use.place)
    slots = set(cls.slots())
    if cls.reshapes or cls.quantises:
        return "changes the model before it is trained"
    if "choose" in slots and "attach" not in slots and "attach" not in cls.requires:
        return "trains the base's own weights"
    return next((why for slot, why in _CHANGES.items() if slot in slots), "")
