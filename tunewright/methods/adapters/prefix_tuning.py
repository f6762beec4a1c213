"""Prefix tuning: trained keys and values before every row, in every layer (Li & Liang 2021, arXiv:2101.00190).

The model stays frozen. Each attention finds n trained pairs of a key and a value in front of a row's own,

    attention(q, [P_K; K], [P_V; V]),   P_K, P_V [n, H d] of each layer       parameters: 2 n H d for each layer

H being the heads that keep keys and values, of size d. With l the share of a query's attention that falls on the prefix
this is (1 - l) attention(q, K, V) + l attention(q, P_K, P_V). Tokens' positions begin at n; the prefix's keys are used
as they are, without a position of their own. The prefix lies in the cache (`past_key_values`) before the first token is
read: in padded and packed batches, while generating, and where drift and kept text are measured.

`prefix_projection`: a table [n, H d] and a network W2 tanh(W1 e + b1) + b2 of `encoder_hidden_size` make them, for all
layers together, as the paper found steadier; what they made is what an adapter's file holds.

Defaults and names are PEFT's: a table that starts normal with deviation 1 (`init_weights: zero` starts at zero, which
still takes a share of the attention), no projection, hidden size H d; 20 virtual tokens are ours (the paper: 10 for
tables, 200 for summaries). The rate of 1e-2 is ours, too: the table's numbers are of size 1.

It does not fold and does not start as the base; it is saved as PEFT's PREFIX_TUNING adapter. Raises MethodError for a
model that takes no keys and values of earlier tokens (ViT, EfficientNet, T5) or whose layers keep them differently, and
in a step where blocks are computed again (`activation_checkpointing`).

Differs from the paper in: no network by default (PEFT's way); one prefix where an encoder-decoder would have three.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import nn

from tunewright.contract.method import Method, Setup, State
from tunewright.models.prefix import prefixed, save_prefix, sizes
from tunewright.models.prompt import leave_room
from tunewright.pieces.encoders import PrefixEncoder, by_rows

TASK_TYPES = {"text-generation": "CAUSAL_LM", "text-classification": "SEQ_CLS"}


class PrefixTuning(Method):
    """Trained keys and values before every row, in every layer."""

    num_virtual_tokens: PositiveInt = Field(
        20, description="pairs of a key and a value before each row, n", examples=[3]
    )
    prefix_projection: bool = Field(False, description="a network makes them from a table, for all layers together")
    encoder_hidden_size: PositiveInt | None = Field(
        None, description="hidden width of that network; none: the size of a layer's keys", examples=[5]
    )
    init_weights: Literal["zero"] | None = Field(None, description="zero: keys and values start at zero")

    category: ClassVar[str] = "prompt"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    also: ClassVar[Mapping[str, str]] = {"length": "num_virtual_tokens"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-2}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation", "text-classification")
    papers: ClassVar[tuple[str, ...]] = ("prefix-tuning",)
    conformance: ClassVar[dict[str, object]] = {"num_virtual_tokens": 4, "prefix_projection": True}

    def setup(self, run: Setup) -> State:
        layers, heads, size = sizes(run.adapted.model)
        leave_room(run.adapted.model, self.num_virtual_tokens, "num_virtual_tokens")
        width = heads * size
        hidden = (self.encoder_hidden_size or width) if self.prefix_projection else None
        state = State(shape=[layers, heads, size], task=run.task)
        zero = self.init_weights == "zero"
        state.encoder = PrefixEncoder(self.num_virtual_tokens, width, 2 * layers * width, hidden, zero, run.rng)
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        encoder: Any = state.encoder
        layers, heads, size = state.data["shape"]
        return prefixed(model, self.num_virtual_tokens, lambda: by_rows(encoder, layers, heads, size))

    def save(self, state: nn.Module, model: nn.Module, folder: Path, base_name: str) -> bool:
        """Write PEFT's PREFIX_TUNING adapter, whatever made the keys and values."""
        kept: Any = state
        prefix = by_rows(kept.encoder, *kept.data["shape"])
        save_prefix(prefix, model.config, folder, base_name, TASK_TYPES.get(kept.data["task"]))
        return True
