"""A classifier's forward: logits a row, and the pooled features that its last linear reads.

The input of the model's head (`tunewright.pieces.heads`) is taken by a hook that lives for one forward.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.models import context
from tunewright.pieces.heads import classifier_head
from tunewright.pieces.means import last_tokens


def classifier_outputs(model: nn.Module, batch: Batch, inputs: dict[str, Any], *, hidden: bool = False) -> Outputs:
    """Run a sequence or image classifier: `logits` [R, V], `features` [R, D] and `head`, which maps the one to the
    other.
    """
    seen: list[Tensor] = []
    head = classifier_head(model)
    hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        now = context.of_batch(batch)
        with context.reading(now):
            out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    finally:
        hook.remove()
    features = seen[-1] if seen else None
    if features is not None and features.dim() == 3:  # a decoder's head scores every token; the row's last one counts
        features = last_tokens(features, inputs["attention_mask"])
    states = out.hidden_states if hidden else None
    return Outputs(out.logits, batch.labels, hidden=states, features=features, head=head, raw=out, present=now)
