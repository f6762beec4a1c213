"""Models of next-scale prediction hold what the tasks that draw pictures promise, as diffusion pipelines do."""

from __future__ import annotations

import pytest

from tunewright.conformance import checks_of_task, task_next_scale
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

EXAMPLES = {
    UNCONDITIONAL: task_next_scale.unconditional_image_generation,
    TO_IMAGE: task_next_scale.text_to_image,
}


@pytest.mark.parametrize("check", [c for name, made in EXAMPLES.items() for c in checks_of_task(name, made())], ids=str)
def test_conformance(check):
    check()
