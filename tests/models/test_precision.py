"""The precision follows what was measured, once per process."""

from __future__ import annotations

from tunewright.models.precision import WORTH, Measured, choose_precision, measure_precision


def test_bfloat16_must_pay():
    assert Measured("cpu", 100.0, 100.0 * WORTH).precision == "bfloat16"
    assert Measured("cpu", 100.0, 110.0).precision == "float32"
    assert Measured("cpu", 180.0, 6.0).precision == "float32"
    assert "180 GFLOP/s in float32, 6 in bfloat16" in str(Measured("cpu", 180.0, 6.0))


def test_it_is_measured_once_and_chosen_from_that():
    first = measure_precision("cpu")
    assert first.float32 > 0 and first.bfloat16 > 0
    assert measure_precision("cpu") is first and choose_precision("cpu") == first.precision
