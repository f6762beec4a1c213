"""A classifier's forward: logits a row, and the pooled features that its last linear reads.

The last linear is found by its size (as many outputs as there are classes), its input is taken by a hook that lives for
one forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.errors import ModelError


def classifier_head(model: nn.Module) -> nn.Linear:
    """The last linear with one output a class. ModelError where there is none."""
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not found:
        raise ModelError(
            f"the model has no linear head of {classes} classes", remedy="load it with its task, so that a head is made"
        )
    return found[-1]


def classifier_outputs(model: nn.Module, batch: Batch, inputs: dict[str, Any], *, hidden: bool = False) -> Outputs:
    """Run a sequence or image classifier: `logits` [R, V], `features` [R, D] and `head`, which maps the one to the
    other.
    """
    seen: list[Tensor] = []
    head = classifier_head(model)
    hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    finally:
        hook.remove()
    features = seen[-1] if seen else None
    if features is not None and features.dim() == 3:  # a decoder's head scores every token; the row's last one counts
        last = inputs["attention_mask"].sum(1) - 1
        features = features[torch.arange(len(last), device=last.device), last]
    return Outputs(
        out.logits, batch.targets, hidden=out.hidden_states if hidden else None, features=features, head=head, raw=out
    )
