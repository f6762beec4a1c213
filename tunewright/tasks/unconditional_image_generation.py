"""unconditional-image-generation: pictures like those that are learnt from, drawn from noise.

A UNet of diffusers in a `DDPMPipeline` or `DDIMPipeline` folder, on pixels (Ho et al. 2020, arXiv:2006.11239), or a
next-scale model, which draws map by map (Tian et al. 2024, arXiv:2404.02905; `loading.next_scale`). Rows are pictures
alone: `{"image": "a.png"}`, or a folder of them; a class is not read. Rows, draws and the loss: `tasks._drawing`.

Errors: RowProblem for a row without a picture; MethodError for objectives of likelihoods.
"""

from __future__ import annotations

from typing import ClassVar

from tunewright.tasks._drawing import Drawing
from tunewright.tasks._parts import UNCONDITIONAL


class UnconditionalImageGeneration(Drawing):
    """Pictures drawn from noise alone."""

    name: ClassVar[str] = UNCONDITIONAL
