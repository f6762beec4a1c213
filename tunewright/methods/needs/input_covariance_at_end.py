"""input_covariance_at_end: what flows into each linear site, at the weights a stage ends with."""

from __future__ import annotations

from typing import ClassVar, Literal

from tunewright.methods.needs.input_covariance import InputCovariance


class InputCovarianceAtEnd(InputCovariance):
    """{site name: C [in, in]}, as `input_covariance` gives it, when the stage has ended: read it in `end_task`."""

    name: ClassVar[str] = "input_covariance_at_end"
    when: ClassVar[Literal["once", "batch", "redraw", "end"]] = "end"  # type: ignore[assignment]
