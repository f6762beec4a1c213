"""What models that draw pictures share: one part is adapted, and what stands around it is not.

The part that is adapted is the model's one child, under the name that its folder gives it, so that its parameters are
called as in the folder. What stands around it (a text encoder, an autoencoder) is held beside it: it moves with it, and
is no parameter of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

INDEX = "model_index.json"
"""The file of a folder that says of which parts a model consists."""


class AroundIt(Protocol):
    """What stands around the part that is adapted. `empty`: the ids of the empty text. `frozen` parts are of the
    adapted part's type; `exact` ones keep their own, since what they give is no number that may be rounded.
    """

    text_encoder: Any
    tokenizer: Any
    empty: list[int]

    @property
    def frozen(self) -> list[nn.Module]: ...

    @property
    def exact(self) -> list[nn.Module]: ...


class Drawer(PreTrainedModel):
    """A model that draws pictures."""

    main_input_name = "pixel_values"
    library: ClassVar[str] = "diffusers"
    """What reads the folder that it is saved into."""
    config: Any
    around: Any

    def __init__(self, config: PretrainedConfig, name: str, net: nn.Module, around: AroundIt):
        super().__init__(config)
        self.add_module(name, net)
        object.__setattr__(self, "around", around)  # its modules are no children: nothing trains or counts them
        for part in (*around.frozen, *around.exact):
            part.eval().requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        for part in self.around.frozen:
            part._apply(fn, *args, **kwargs)
        out = super()._apply(fn, *args, **kwargs)
        for part in self.around.exact:
            part.to(self.device)
        return out

    def get_input_embeddings(self) -> Any:
        return None

    def get_output_embeddings(self) -> Any:
        return None

    def ids_or_empty(self, ids: Tensor | None, rows: int) -> Tensor:
        """Ids of texts [R, L]: those that are given, else those of the empty text."""
        return torch.tensor([self.around.empty], device=self.device).expand(rows, -1) if ids is None else ids


def pixels_of(pictures: Tensor) -> Tensor:
    """uint8 [R, c, H, W] of pictures in [-1, 1]."""
    return (pictures.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
