"""What a recipe cannot do while blocks run compiled: what runs inside a block beside its forward."""

from __future__ import annotations

from tunewright.errors import MethodError
from tunewright.models.compiled import WHERE
from tunewright.recipe import Recipe

OTHERS = {
    "offload_param": "brings a block's weights in from the disk where it runs",
    "fsdp": "brings a block's weights together where it runs",
    "activation_checkpointing": "runs a block a second time from inside it",
}


def check_compiled(recipe: Recipe) -> None:
    """MethodError for compiled blocks beside weights that come and go, or activations that are computed again."""
    for stage in recipe.stages:
        train = recipe.train_for(stage)
        other = next((k for k in OTHERS if getattr(train, k)), None)
        if train.compile and other is not None:
            raise MethodError(
                f"train.{other} {OTHERS[other]}, and blocks that run compiled do not",
                where=WHERE,
                remedy=f"keep one of the two: remove {WHERE} or train.{other}",
            )
