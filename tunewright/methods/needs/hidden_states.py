"""hidden_states: the model's own hidden states, kept by the forward that training runs anyway."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need


class HiddenStates(Need):
    """Asks the loop to keep hidden states: read them as `outputs.hidden`, embeddings first.

    The need itself gives None.
    """

    name: ClassVar[str] = "hidden_states"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"
    hidden: ClassVar[bool] = True

    def compute(self, run: Any, batch: Batch | None = None) -> None:
        return None
