"""P-tuning: virtual tokens that a small network makes, before every row (Liu et al. 2021, arXiv:2103.10385).

The model stays frozen. A table of n embeddings e_i in R^D goes through a network, and what comes out is read before the
tokens of each row, as in prompt tuning:

    MLP    p = W3 relu(W2 relu(W1 e + b1) + b2) + b3,                W1 [m, D], W2 [m, m], W3 [D, m]
    LSTM   p = W2 relu(W1 [h forward; h backward] + b1) + b2,        h in R^m over the n embeddings, W1 [2 m, 2 m]

so that virtual tokens train along with one another. Names, layers and defaults are PEFT's: MLP, m = D, two layers of
the LSTM, no dropout (which acts between the LSTM's layers); 20 virtual tokens and the rate of 1e-3 are ours.
Everything starts as torch starts it: the table normal with deviation 1.

It does not fold and does not start as the base; it is saved as PEFT's P_TUNING adapter, which holds the virtual tokens
that were made. Raises MethodError for a model without a body of its own.

Differs from the paper in: virtual tokens stand before the row alone (there: at places of a template, an anchor word
among them); the model stays frozen (there it may train, too); the LSTM is not the default, as in PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Method, Setup, State
from tunewright.models.prompt import body_of, leave_room, prompted, save_prompt
from tunewright.pieces.encoders import PromptEncoder


class PTuning(Method):
    """Virtual tokens that a small network makes from a table, before every row."""

    num_virtual_tokens: PositiveInt = Field(20, description="virtual tokens before each row, n", examples=[3])
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP", description="the network: three linear layers, or an LSTM in two directions and two linear layers"
    )
    encoder_hidden_size: PositiveInt | None = Field(
        None, description="hidden width m of the network; none: the size of an embedding", examples=[5]
    )
    encoder_num_layers: PositiveInt = Field(2, description="layers of the LSTM", examples=[1])
    encoder_dropout: float = Field(
        0.0, ge=0, lt=1, description="share set to zero between the LSTM's layers while training", examples=[0.3]
    )

    category: ClassVar[str] = "prompt"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    also: ClassVar[Mapping[str, str]] = {"length": "num_virtual_tokens"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("p-tuning",)
    conformance: ClassVar[dict[str, object]] = {
        "num_virtual_tokens": 4,
        "encoder_reparameterization_type": "LSTM",
        "encoder_hidden_size": 8,
    }

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        body_of(model)
        leave_room(model, self.num_virtual_tokens, "num_virtual_tokens")
        width = int(model.get_input_embeddings().weight.shape[1])
        state = State()
        state.encoder = PromptEncoder(
            self.num_virtual_tokens,
            width,
            self.encoder_hidden_size or width,
            self.encoder_reparameterization_type,
            self.encoder_num_layers,
            self.encoder_dropout,
            run.rng,
        )
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        encoder: Any = state.encoder
        embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]

        def made() -> Tensor:
            tokens: Tensor = encoder.train(embeddings.training)()  # dropout, as the model that reads them
            return tokens

        return prompted(model, made)

    def save(self, state: nn.Module, model: nn.Module, folder: Path, base_name: str) -> bool:
        """Write PEFT's P_TUNING adapter, with the virtual tokens that the network makes."""
        encoder: Any = state.encoder
        hidden = self.encoder_hidden_size or encoder.embedding.weight.shape[1]
        encoder.eval()
        more = {
            "peft_type": "P_TUNING",
            "encoder_reparameterization_type": self.encoder_reparameterization_type,
            "encoder_hidden_size": hidden,
            "encoder_num_layers": self.encoder_num_layers,
            "encoder_dropout": self.encoder_dropout,
        }
        save_prompt(encoder(), model.config, folder, base_name, **more)
        return True
