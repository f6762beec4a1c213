"""A classifier's forward: logits a row, and the pooled features that its last linear reads."""

from __future__ import annotations

from typing import Any

from torch import nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.pieces.means import last_tokens
from tunewright.tasks.base import read_head


def classifier_outputs(model: nn.Module, batch: Batch, inputs: dict[str, Any], *, hidden: bool = False) -> Outputs:
    """Run a sequence or image classifier: `logits` [R, V], `features` [R, D] and `head`, which maps the one to the
    other.
    """
    ran = read_head(model, batch, inputs, hidden=hidden)
    out, features = ran.out, ran.read
    if features is not None and features.dim() == 3:  # a decoder's head scores every token; the row's last one counts
        features = last_tokens(features, inputs["attention_mask"])
    states = out.hidden_states if hidden else None
    return Outputs(
        out.logits, batch.labels, hidden=states, features=features, head=ran.head, raw=out, present=ran.present
    )
