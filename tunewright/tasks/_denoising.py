"""What the tasks share whose models draw pictures by taking noise out: rows, draws, the loss, drawn pictures.

Each time a row is trained on, a step t of the schedule and a noise e are drawn, keyed by seed, epoch and row, and the
loss is the mean squared error of what the scheduler says is predicted (`models.denoiser`; Ho et al. 2020,
arXiv:2006.11239, equation 14, every step weighed alike). Where a row is measured, it is noised COPIES times, at steps
that are spread over the schedule (one drawn from each part of it), keyed by the row alone: base and tuned model, and
every strength between them, are asked the same.

A picture is brought to the model's size by its shorter side, cropped in the middle, and scaled to [-1, 1].

Shapes: R rows, K noised copies of each, [C, h, w] what is denoised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.method import row_rng
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.tasks import _random_features
from tunewright.tasks._parts import DRAWN, NOISED
from tunewright.tasks._pictures import fit, read_image
from tunewright.tasks.base import epochs_of, in_type
from tunewright.tasks.image_classification import pixel_values

COPIES = 4
"""Steps at which a measured row is noised."""
_DRAWN_BY = "drawn-picture"


def options_for(config: Any) -> dict[str, Any]:
    """How pictures are read for a model: see `EncodeOptions.image`."""
    height, width = config.image_size
    return {
        "height": height,
        "width": width,
        "shortest": max(height, width),
        "channels": config.num_channels,
        "mean": [0.5] * config.num_channels,
        "std": [0.5] * config.num_channels,
        "scale": 1 / 255,
        "resample": 3,
        "shape": list(config.shape),
        "steps": config.steps,
        "longest": config.longest,
    }


class Denoising(Task):
    """`fields`: `pixels` uint8 [c, H, W], `shape` [C, h, w], `steps` of the schedule; `drawing` (how pictures are drawn
    to be measured, see `tasks._parts.DRAWN`), where a recipe says it.
    """

    auto_class: ClassVar[str] = "DiffusionPipeline"
    draws: ClassVar[bool] = True
    reads_files: ClassVar[bool] = True
    unit: ClassVar[str] = "squared error per element"

    @property
    def likelihoods(self) -> bool:
        """What is predicted is noise, and has none."""
        return False

    def label_values(self, record: Record) -> Sequence[Any]:
        """None: no head is made."""
        return ()

    def text_of(self, record: Record, tokenizer: Any, options: EncodeOptions) -> tuple[list[int], dict[str, Any]]:
        """Ids of what the picture is drawn of, and what else the row's fields say of it."""
        return [], {}

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize the picture."""
        image = options.image
        if image is None or "shape" not in image:
            raise RowProblem("image", "nobody says which pictures the model draws", "give EncodeOptions.image")
        if "image" not in record:
            raise RowProblem(
                "image", "the row has no picture", "name the column in the source: columns: {image: your_column}"
            )
        ids, said = self.text_of(record, tokenizer, options)
        pixels = fit(read_image(record["image"], record.base, image["channels"]), image)
        numbers = {k: image[k] for k in ("mean", "std", "scale", "shape", "steps")}
        return Row(record.id, record.source, ids, [1.0], fields={"kind": NOISED, **said, **numbers, "pixels": pixels})

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`pixel_values` [R, c, H, W], `timesteps` [R, K], `noise` [R, K, C, h, w] and `spread` [R, C, h, w] (of a
        latent): K is 1 in training (`epochs` are given), else COPIES. `input_ids` [R, L] of rows with texts. One target
        a row.
        """
        drawn = epochs_of(rows, epochs)
        if epochs is None:
            draws = [self._draw(r, 0, 0, COPIES) for r in rows]
        else:
            draws = [self._draw(r, seed, e, 1) for r, e in zip(rows, drawn, strict=True)]
        steps, noise, spread = (torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True))
        inputs = {"pixel_values": pixel_values(rows), "timesteps": steps, "noise": noise, "spread": spread}
        if rows[0].input_ids:
            inputs["input_ids"] = torch.tensor([_padded(row) for row in rows])
        return Batch(
            inputs=inputs,
            labels=torch.zeros(len(rows), dtype=torch.long),
            weights=torch.tensor([row.weights[0] for row in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[row.id for row in rows],
            sources=[row.source for row in rows],
            tokens=sum(row.size for row in rows),
            epochs=drawn,
        )

    def _draw(self, row: Row, seed: int, epoch: int, copies: int) -> tuple[Any, Any, Any]:
        """Steps [K], noise [K, C, h, w] and the draw of a latent [C, h, w]: one step from each of K equal parts."""
        rng, shape = _rng(seed, self.name, epoch, row.id), tuple(row.fields["shape"])
        parts = (np.arange(copies) + rng.random(copies)) / copies
        steps = np.minimum((parts * row.fields["steps"]).astype(np.int64), row.fields["steps"] - 1)
        noise = rng.standard_normal((copies, *shape), dtype=np.float32)
        return steps, noise, rng.standard_normal(shape, dtype=np.float32)

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, K C h w] are what is predicted, `features` [R, D] the mean states at the denoiser's middle.
        MethodError for a change that reads places in texts.
        """
        if context.reads_rows(model):
            raise MethodError(
                "the change reads where tokens stand, and a picture that is denoised has none",
                remedy="take a method that changes weights, or adds to layers' outputs",
            )
        with context.reading(None):
            said = model(**in_type(model, batch.inputs), output_hidden_states=hidden)
        return Outputs(
            said.logits,
            batch.labels,
            log_probs=_none,
            hidden=said.hidden,
            features=said.features,
            raw=(said.target, model),
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[R] the mean over a row's noised copies and their elements."""
        target, _ = outputs.raw
        return Loss((outputs.logits.float() - target).square().mean(1))

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(features of the picture that the model draws, those of the row's own) as texts: `tasks._random_features`.
        A picture is drawn of each row's text from a noise that is the row's own.
        """
        _, model = outputs.raw
        drawn = self.drawn(model, rows, batch.inputs.get("input_ids"))
        given = torch.from_numpy(np.stack([np.asarray(r.fields["pixels"]) for r in rows]))
        sides = (_random_features.texts_of(x) for x in (drawn.cpu(), given))
        return list(zip(*sides, strict=True))

    def drawn(self, model: Any, rows: Sequence[Row], ids: Tensor | None = None) -> Tensor:
        """uint8 [R, c, H, W] pictures that a model draws, each from a noise that is keyed by its row."""
        how = {**DRAWN, **rows[0].fields.get("drawing", {})}
        if ids is None and rows[0].input_ids:
            ids = torch.tensor([_padded(row) for row in rows])
        noise = np.stack(
            [_rng(0, _DRAWN_BY, 0, r.id).standard_normal(tuple(r.fields["shape"]), dtype=np.float32) for r in rows]
        )
        device = next(model.parameters()).device
        steps = min(int(how["num_inference_steps"]), int(rows[0].fields["steps"]))
        pictures: Tensor = model.draw(
            torch.from_numpy(noise).to(device),
            None if ids is None else ids.to(device),
            steps,
            float(how["guidance_scale"]),
        )
        return pictures

    def default_metric(self, rows: Sequence[Row]) -> str:
        """The loss: it costs no drawing. `frechet_distance` compares pictures that are drawn."""
        return "loss"


def _rng(seed: int, what: str, epoch: int, row: str) -> np.random.Generator:
    """Draws of arrays, keyed as draws about rows are."""
    return np.random.default_rng(row_rng(seed, what, epoch, row).getrandbits(128))


def _padded(row: Row) -> list[int]:
    """A row's ids as the text encoder reads them."""
    ids = list(row.input_ids)
    return [*ids, *[int(row.fields["pad"])] * (int(row.fields["longest"]) - len(ids))]


def _none() -> Tensor:
    raise MethodError(
        "noise that is predicted has no likelihoods",
        remedy="take a method that serves this task, or none: the task has a loss",
    )
