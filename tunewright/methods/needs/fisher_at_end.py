"""fisher_at_end: how sensitive the loss is to each entry of a weight, at the weights a stage ends with."""

from __future__ import annotations

from typing import ClassVar, Literal

from tunewright.methods.needs.fisher import Fisher


class FisherAtEnd(Fisher):
    """{site name: F [out, in]}, as `fisher` gives it, when the stage has ended: read it in `end_task`."""

    name: ClassVar[str] = "fisher_at_end"
    when: ClassVar[Literal["once", "batch", "redraw", "end"]] = "end"
