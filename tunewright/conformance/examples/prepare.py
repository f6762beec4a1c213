"""prepare: edit the model before training."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tunewright.contract.method import Method


class LouderInputs(Method):
    """Scale embeddings while training; what the model says afterwards is untouched by it."""

    factor: float = Field(1.5, gt=0, description="what embeddings are multiplied by")

    def prepare(self, model: Any) -> None:
        def scaled(module: Any, inputs: Any, output: Any) -> Any:
            return output * self.factor if module.training else output

        model.get_input_embeddings().register_forward_hook(scaled)
