"""zero-shot-image-classification: pictures and texts become vectors of one space, near for what belongs together.

A model of two towers (CLIP and its kin, `AutoModelForZeroShotImageClassification`), trained as CLIP was (Radford et al.
2021, arXiv:2103.00020, figure 3). Of R pairs in a step, with cosines c [R, R] of picture i and text j and the model's
own scale s = exp(logit_scale), at most 100:

    loss_i = - (log softmax_j(s c_ij)[i] + log softmax_j(s c_ji)[i]) / 2          nats a pair

Another pair with the same text, or the same picture, is nobody's negative: it is left out of the sums. A step's pairs
are each other's negatives however it is split into micro-batches, as in sentence-similarity; `train.batch_tokens`
counts the tokens of texts.

Rows: `image` with `text` (or `caption`), or with a class in words: `label`, which becomes a text by `data.template`
("a photo of a {label}" unless it says otherwise). Each picture is then asked which of all texts of the evaluated rows
belongs to it: `recall@1` is the share of pictures whose own text comes first, which of rows with a class is the
accuracy of zero-shot classification. Texts are cut to what the model reads.

Errors: RowProblem for a row without a picture or a text, and for a class that is a number; MethodError for a method
that reads places in a text.
Differs from others: SigLIP-like models train with this loss, too, and not with their sigmoid; their texts are padded to
the length that they know, as their authors do.
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
from tunewright.contract.metric import Ranking
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.errors import MethodError
from tunewright.models import context
from tunewright.models.text_contexts import as_read
from tunewright.tasks._pictures import read_image
from tunewright.tasks._processor import pixels_of
from tunewright.tasks._texts import key_of, text_in
from tunewright.tasks.base import epochs_of, fill
from tunewright.tasks.base import pad as padded
from tunewright.tasks.image_classification import image_options, pixel_values

TEMPLATE = "a photo of a {label}"
"""What a class becomes (Radford et al. 2021, section 3.1.4)."""
LARGEST_SCALE = 100.0
KIND = "captioned"
"""The kind of its rows (`fields["kind"]`)."""


class ZeroShotImageClassification(Task):
    """`input_ids` are those of the text; `fields["pixels"]` the picture, resized once, as in image-classification.

    `fields`: `keys` (of the picture and of the text: equal for what is the same), `reference` (the text).
    """

    name: ClassVar[str] = "zero-shot-image-classification"
    auto_class: ClassVar[str] = "AutoModelForZeroShotImageClassification"
    embeds: ClassVar[bool] = True
    couples: ClassVar[Literal["token", "batch"]] = "batch"
    reads_files: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per pair"

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode a picture and its text."""
        image = options.image or image_options()
        if "image" not in record:
            raise RowProblem(
                "image", "the row has no picture", "name the column in the source: columns: {image: your_column}"
            )
        text = _text(record, options)
        ids = list(tokenizer(text, verbose=False, truncation=False)["input_ids"])
        pixels = pixels_of(read_image(record["image"], record.base, image["channels"]), image)
        numbers = {k: image[k] for k in ("mean", "std", "scale")} if pixels.dtype == np.uint8 else {}
        fields = {
            "kind": KIND,
            "lengths": [len(ids)],
            "tail": int(bool(ids) and ids[-1] in set(tokenizer.all_special_ids)),
            "keys": [_key_of_pixels(pixels), key_of(text)],
            "reference": text,
            "pixels": pixels,
        }
        return Row(record.id, record.source, ids, [1.0], fields={**fields, **numbers})

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Pictures [R, C, H, W] and padded ids and mask [R, L]. One target a row.

        `fields`: `keys` [2R], of each row's picture and text; `prompt_lengths` [R].
        """
        ids, mask = padded([row.input_ids for row in rows])
        return Batch(
            inputs={"pixel_values": pixel_values(rows), "input_ids": ids, "attention_mask": mask},
            labels=torch.zeros(len(rows), dtype=torch.long),
            weights=torch.tensor([row.weights[0] for row in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[row.id for row in rows],
            sources=[row.source for row in rows],
            tokens=int(mask.sum()),
            epochs=epochs_of(rows, epochs),
            fields={
                "prompt_lengths": mask.sum(1),
                "keys": torch.tensor([k for row in rows for k in row.fields["keys"]], dtype=torch.long),
            },
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`embeddings` [2R, D]: each row's picture, as long as the model's scale s, and text, of length 1. `features`
        [R, D] are the pictures', and so are hidden states. MethodError for a change that reads places in texts.
        """
        if context.reads_rows(model):
            raise MethodError(
                "the change reads where a prompt ends, and pictures and texts are read apart here",
                remedy="take a method that changes weights, or adds to layers' outputs",
            )
        more: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
        with context.reading(None):
            said = model(**_read_as(model.config, dict(batch.inputs)), **more)
        pictures, texts = (normalize(t, dim=-1) for t in (said.image_embeds, said.text_embeds))
        scale = getattr(model, "logit_scale", None)
        if scale is not None:
            pictures = pictures * scale.exp().clamp(max=LARGEST_SCALE)
        return Outputs(
            _none,
            batch.labels,
            log_probs=_none,
            hidden=said.vision_model_output.hidden_states if hidden else None,
            features=pictures,
            embeddings=torch.stack([pictures, texts], 1).flatten(0, 1),
            raw=said,
        )

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Both directions' cross-entropy among the pairs of the step: one value a pair, in nats."""
        assert outputs.embeddings is not None
        return Loss(contrastive(outputs.embeddings, batch.fields["keys"]))

    def rank(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[Ranking]:
        """Each picture among the texts of all rows, every text once; right are the texts of all rows with it."""
        assert outputs.embeddings is not None
        pictures, texts = normalize(outputs.embeddings.double(), dim=-1).cpu().unflatten(0, (-1, 2)).unbind(1)
        keys = batch.fields["keys"].view(-1, 2).tolist()
        there: dict[int, int] = {}  # key of a text -> the row that stands for all that say the same
        right: dict[int, set[int]] = {}
        for i, (picture, text) in enumerate(keys):
            there.setdefault(text, i)
            right.setdefault(picture, set()).add(text)
        names, places = np.array(list(there), dtype=np.int64), list(there.values())
        scores = (pictures @ texts[places].T).numpy()
        out = []
        for (picture, _), own, row in zip(keys, scores, rows, strict=True):
            wanted = np.isin(names, list(right[picture])).astype(np.float64)
            best = str(rows[places[int(own.argmax())]].fields["reference"])
            out.append(Ranking(own, wanted, best, str(row.fields["reference"]), query=picture))
        return out

    def default_metric(self, rows: Sequence[Row]) -> str:
        """`recall@1`: the right text of all comes first."""
        return "recall@1"


def contrastive(embeddings: Tensor, keys: Tensor) -> Tensor:
    """The loss [R] of pairs [2R, D], a picture (as long as the scale) and a text (of length 1) each; `keys` [2R]."""
    pictures, texts = embeddings.float().unflatten(0, (-1, 2)).unbind(1)
    picture, text = keys.view(-1, 2).unbind(1)
    scores = pictures @ texts.T
    same = (picture[:, None] == picture[None]) | (text[:, None] == text[None])
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(same & ~own, -torch.inf)
    right = scores.diagonal()
    return (torch.logsumexp(scores, 1) + torch.logsumexp(scores, 0)) / 2 - right


def _read_as(config: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch's inputs as the model knows them."""
    ids, mask = as_read(config, inputs["input_ids"], inputs["attention_mask"])
    read = {"pixel_values": inputs["pixel_values"], "input_ids": ids}
    return read if mask is None else {**read, "attention_mask": mask}


def _text(record: Record, options: EncodeOptions) -> str:
    """The text of a record: its own, else what the template makes of its class."""
    if record.get("text") is not None:
        text = text_in(record, "text")
        return text if options.template is None else fill(options.template, record)
    label = record.get("label")
    if label is None:
        raise RowProblem(
            "text",
            "the row has neither a text nor a class",
            "name the column in the source: columns: {text: your_column}, or {label: your_column}",
        )
    if not isinstance(label, str) or not label.strip():
        raise RowProblem("label", f"{label!r:.40} is no class in words", 'write its name, such as "tabby cat"')
    return fill(options.template or TEMPLATE, record)


def _key_of_pixels(pixels: Any) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).digest()) >> 1


def _none() -> Tensor:
    raise MethodError(
        "vectors of pictures and texts have no likelihoods",
        remedy="take a method that serves zero-shot-image-classification, or none: the task has a loss",
    )
