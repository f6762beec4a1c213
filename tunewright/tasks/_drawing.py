"""What the tasks share whose models draw pictures: rows, drawn pictures, and which of two kinds a model is.

A diffusion pipeline takes noise out of pictures (`tasks._denoising`); a model of next-scale prediction predicts the
codes of a picture, each map from coarser ones (`tasks._next_scale`). A row says which (`fields["kind"]`), since how it
is encoded hangs on the model.

A picture is brought to the model's size by its shorter side, cropped in the middle, and scaled to [-1, 1].

Shapes: R rows, L tokens of a text.
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
from tunewright.models.next_scale import TYPE
from tunewright.tasks import _denoising, _next_scale, _random_features
from tunewright.tasks._parts import CODED, DRAWN, NOISED
from tunewright.tasks._pictures import fit, read_image
from tunewright.tasks.base import epochs_of
from tunewright.tasks.image_classification import pixel_values

_DRAWN_BY = "drawn-picture"
_NUMBERS = ("mean", "std", "scale")


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
        "longest": config.longest,
        **_kind_of(config).options_for(config),
    }


class Drawing(Task):
    """`fields`: `pixels` uint8 [c, H, W]; `shape` [C, h, w] of what is denoised and `steps` of the schedule, or the
    `length` of a picture in codes; `drawing` (how pictures are drawn to be measured, see `tasks._parts.DRAWN`), where a
    recipe says it.
    """

    auto_class: ClassVar[str] = "DiffusionPipeline"
    draws: ClassVar[bool] = True
    reads_files: ClassVar[bool] = True
    unit: ClassVar[str] = _denoising.UNIT

    @property
    def likelihoods(self) -> bool:
        """A picture has one loss: noise that is predicted has none, and what a row's codes have is no answer's."""
        return False

    def unit_of(self, config: Any) -> str:
        """What is predicted is noise, or codes."""
        return _kind_of(config).UNIT

    def compared(self, config: Any) -> Task:
        """Predictions of codes are compared code by code."""
        return _next_scale.Codes(self) if _kind_of(config) is _next_scale else self

    def label_values(self, record: Record) -> Sequence[Any]:
        """None: no head is made."""
        return ()

    def text_of(self, record: Record, tokenizer: Any, options: EncodeOptions) -> tuple[list[int], dict[str, Any]]:
        """Ids of what the picture is drawn of, and what else the row's fields say of it."""
        return [], {}

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize the picture."""
        image = options.image
        if image is None or not {"shape", "length"} & set(image):
            raise RowProblem("image", "nobody says which pictures the model draws", "give EncodeOptions.image")
        if "image" not in record:
            raise RowProblem(
                "image", "the row has no picture", "name the column in the source: columns: {image: your_column}"
            )
        ids, said = self.text_of(record, tokenizer, options)
        pixels = fit(read_image(record["image"], record.base, image["channels"]), image)
        kind = NOISED if "shape" in image else CODED
        fields = {"kind": kind, **said, **{k: image[k] for k in (*_NUMBERS, *_of(kind).FIELDS)}, "pixels": pixels}
        return Row(record.id, record.source, ids, [1.0], fields=fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`pixel_values` [R, c, H, W], and what the model's kind reads beside them. `input_ids` [R, L] of rows with
        texts. One target a row.
        """
        drawn = epochs_of(rows, epochs)
        inputs = {"pixel_values": pixel_values(rows)}
        if rows[0].fields["kind"] == NOISED:
            inputs |= _denoising.noise_of(rows, self.name, epochs, seed)
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

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, ...] are what is predicted, `features` [R, D] the mean states at the denoiser's middle, or
        before the head of codes. MethodError for a change that reads places in texts.
        """
        if context.reads_rows(model):
            raise MethodError(
                "the change reads where tokens stand, and a picture that is drawn has none",
                remedy="take a method that changes weights, or adds to layers' outputs",
            )
        with context.reading(None):
            said, noted = _kind_of(model.config).run(model, batch, hidden)
        return Outputs(
            said.logits,
            batch.labels,
            log_probs=_none,
            hidden=said.hidden,
            features=said.features,
            raw=(said, model),
            present=noted,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """[R]: of a row's noised copies, or of its codes, the mean."""
        said, _ = outputs.raw
        return Loss(said.losses(outputs.logits))

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(features of the picture that the model draws, those of the row's own) as texts: `tasks._random_features`.
        A picture is drawn of each row's text, from draws that are the row's own.
        """
        _, model = outputs.raw
        drawn = self.drawn(model, rows, batch.inputs.get("input_ids"))
        given = torch.from_numpy(np.stack([np.asarray(r.fields["pixels"]) for r in rows]))
        sides = (_random_features.texts_of(x) for x in (drawn.cpu(), given))
        return list(zip(*sides, strict=True))

    def drawn(self, model: Any, rows: Sequence[Row], ids: Tensor | None = None) -> Tensor:
        """uint8 [R, c, H, W] pictures that a model draws, each from draws that are keyed by its row."""
        kind = _of(rows[0].fields["kind"])
        if ids is None and rows[0].input_ids:
            ids = torch.tensor([_padded(row) for row in rows])
        device = next(model.parameters()).device
        draws = [
            kind.start(row, np.random.default_rng(row_rng(0, _DRAWN_BY, 0, row.id).getrandbits(128))) for row in rows
        ]
        start = torch.from_numpy(np.stack(draws)).to(device)
        how = {**DRAWN, **rows[0].fields.get("drawing", {})}
        pictures: Tensor = kind.draw(model, start, None if ids is None else ids.to(device), how, rows[0])
        return pictures

    def default_metric(self, rows: Sequence[Row]) -> str:
        """The loss: it costs no drawing. `frechet_distance` compares pictures that are drawn."""
        return "loss"


def _of(kind: str) -> Any:
    """The module of rows of a kind."""
    return _next_scale if kind == CODED else _denoising


def _kind_of(config: Any) -> Any:
    """The module of a model's kind."""
    return _next_scale if getattr(config, "model_type", None) == TYPE else _denoising


def _padded(row: Row) -> list[int]:
    """A row's ids as the text encoder reads them."""
    ids = list(row.input_ids)
    return [*ids, *[int(row.fields["pad"])] * (int(row.fields["longest"]) - len(ids))]


def _none() -> Tensor:
    raise MethodError(
        "a picture that is drawn has a loss, and no likelihoods of answers",
        remedy="take a method that serves this task, or none: the task has a loss",
    )
