"""image-feature-extraction: pictures become vectors, near for views of one picture, learnt without labels.

A vision model without a head (`AutoModel`); a picture's vector is the state of its class token, the mean over its
tokens where there is none, or what a model of convolutions pools its last map to. Each time a picture is trained on,
two changed views of it are drawn (`data.views`), keyed by seed, epoch and row, and the loss is NT-Xent on the vectors
themselves (`pieces/contrast.py`) with a temperature of 0.1 (SimCLR, arXiv:2002.05709): the other pictures of the whole
optimizer step are the negatives, however it is split into micro-batches. The methods `simclr` (a head beside the model
that is not kept), `byol` and `mae` are other objectives.

Measured are the pictures as they are: `recall@k` says whether, of one view of each evaluated picture, its own is
nearest to it. Rows may have a `label`, which nothing trains on: `knn_accuracy` then asks whether the five nearest other
pictures of the evaluated rows say its class (`KNeighborsClassifier` of scikit-learn, by cosine).

Errors: RowProblem for a row without a picture, ModelError for models that see no pictures, MethodError for objectives
of likelihoods. A step of one picture has nothing to tell it from: `check` and `plan` say so.
Differs from the paper in: the vectors are contrasted without a head unless `simclr` asks for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.method import row_rng
from tunewright.contract.metric import Ranking
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.pieces.contrast import nt_xent
from tunewright.tasks import _embedded
from tunewright.tasks._parts import CLASSED, FEATURES, PICTURE, VIEWS
from tunewright.tasks._pictures import read_image
from tunewright.tasks._processor import pixels_of
from tunewright.tasks._views import a_view, as_given
from tunewright.tasks.base import epochs_of, in_type, is_missing, label_name
from tunewright.tasks.image_classification import image_options

TEMPERATURE = 0.1
"""What cosines are divided by (Chen et al. 2020, table 5)."""
NEIGHBOURS = 5
"""Whose classes are asked for a picture's: scikit-learn's default."""


class ImageFeatureExtraction(Task):
    """`fields["pixels"]` is the picture, resized once, as in image-classification; `label` is never trained on.

    `fields`: `key` (equal for equal pictures), `views` (how far views of it may lie), `reference` (its class, else "").
    """

    name: ClassVar[str] = FEATURES
    auto_class: ClassVar[str] = "AutoModel"
    embeds: ClassVar[bool] = True
    couples: ClassVar[Literal["token", "batch"]] = "batch"
    reads_files: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per image"

    def label_values(self, record: Record) -> Sequence[Any]:
        """None: classes are measured by, and no head is made for them."""
        return ()

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Read and resize the picture. `tokenizer` is not used: what it would tell is in `options.image`."""
        image = options.image or image_options()
        if "image" not in record:
            raise RowProblem(
                "image", "the row has no picture", "name the column in the source: columns: {image: your_column}"
            )
        pixels = pixels_of(read_image(record["image"], record.base, image["channels"]), image)
        numbers = {k: image[k] for k in ("mean", "std", "scale")} if pixels.dtype == np.uint8 else {}
        label = record.get("label")
        fields = {
            "kind": PICTURE if is_missing(label) else CLASSED,
            "reference": "" if is_missing(label) else label_name(label),
            "key": _key(pixels),
            "views": {**VIEWS, **(image.get("views") or {})},
            "pixels": pixels,
        }
        return Row(record.id, record.source, (), [1.0], fields={**fields, **numbers})

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Two pictures a row [2R, C, H, W], behind one another: in training (`epochs` are given) two views of it, else
        the picture itself and one view. One target a row.

        `fields`: `keys` [R]; `sequences` [2R], the row of each picture.
        """
        drawn = epochs_of(rows, epochs)
        rngs = [row_rng(seed, self.name, epoch, row.id) for row, epoch in zip(rows, drawn, strict=True)]
        first = as_given(rows) if epochs is None else a_view(rows, rngs)
        both = torch.stack([first, a_view(rows, rngs)], 1).flatten(0, 1)
        return Batch(
            inputs={"pixel_values": both},
            labels=torch.zeros(len(rows), dtype=torch.long),
            weights=torch.tensor([row.weights[0] for row in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[row.id for row in rows],
            sources=[row.source for row in rows],
            tokens=len(rows),
            epochs=drawn,
            fields={
                "keys": torch.tensor([row.fields["key"] for row in rows], dtype=torch.long),
                "sequences": torch.arange(len(rows)).repeat_interleave(2),
            },
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`embeddings` [2R, D]; `features` [R, D] and hidden states are those of each row's first picture.

        Where a batch has `fields["visible"]` [N, V], the model is shown these patches of its N pictures alone.
        """
        pixels = in_type(model, batch.inputs)["pixel_values"]
        now = context.of_batch(batch)
        with context.reading(now), _embedded.showing(model, batch.fields.get("visible")):
            said = _embedded.read(model, pixels, hidden=hidden)
        each = max(1, len(pixels) // len(batch.row_ids))
        embeddings = _embedded.pooled(model, said)
        return Outputs(
            _none,
            batch.labels,
            log_probs=_none,
            hidden=tuple(h[::each] for h in said.hidden_states) if hidden else None,
            features=embeddings[::each],
            embeddings=embeddings,
            raw=said,
            present=now,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """NT-Xent among the pictures of the step: one value a picture, in nats."""
        assert outputs.embeddings is not None
        return Loss(nt_xent(outputs.embeddings, batch.fields["keys"], TEMPERATURE))

    def rank(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[Ranking]:
        """Each picture among the views of all rows; right is its own. `answer` and `reference`: the class that its
        nearest neighbours say and its own, where rows have classes, else whose view is nearest and its own id.
        """
        assert outputs.embeddings is not None
        both = normalize(outputs.embeddings.float(), dim=-1).cpu().unflatten(0, (-1, 2))
        scores, keys = (both[:, 0] @ both[:, 1].T).numpy(), np.array([row.fields["key"] for row in rows])
        if len(rows) > 1 and all(row.fields["kind"] == CLASSED for row in rows):
            right = [str(row.fields["reference"]) for row in rows]
            said = _by_neighbours(both[:, 0].numpy(), right)
        else:
            right = [row.id for row in rows]
            said = [rows[int(i)].id for i in scores.argmax(1)]
        return [
            Ranking(own, (keys == key).astype(np.float64), answer, reference, query=int(key))
            for own, key, answer, reference in zip(scores, keys, said, right, strict=True)
        ]

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`knn_accuracy` where all rows have a class, and there are two; else `recall@1`."""
        classes = {row.fields["reference"] for row in rows}
        return "knn_accuracy" if len(classes) > 1 and "" not in classes else "recall@1"


def _by_neighbours(vectors: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The class of each vector [R, D] by those of its nearest neighbours among the others."""
    from sklearn.neighbors import KNeighborsClassifier

    knn = KNeighborsClassifier(min(NEIGHBOURS, len(classes) - 1), metric="cosine").fit(vectors, list(classes))
    return [str(said) for said in knn.predict(None)]


def _key(pixels: np.ndarray) -> int:
    """A number that equal pictures share."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).digest()) >> 1


def _none() -> Tensor:
    raise MethodError(
        "vectors of pictures have no likelihoods",
        remedy=f"take a method that serves {FEATURES}, or none: the task has a loss",
    )
