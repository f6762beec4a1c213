"""audio-classification: one class a recording. Recordings are decoded and brought to the model's rate once, when
encoded; what the model reads of them is made by its own feature extractor with each batch.

A recording counts as 50 tokens a second, padded to the model's window where it has one (Whisper: 30 s, 1,500 tokens).
Where the extractor makes no attention mask and a model would read padding as sound (wav2vec 2.0 with group norms), rows
of other lengths are run apart, so that none of them hangs on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.tasks._features import apart, features, of_record, together
from tunewright.tasks._pooled import classifier_outputs
from tunewright.tasks.base import epochs_of, in_type, label_id


class AudioClassification(Task):
    """`audio` is a path relative to the data file, bytes, or samples with their rate; `label` a name or id of
    `options.labels`.
    """

    name: ClassVar[str] = "audio-classification"
    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
    labelled: ClassVar[bool] = True
    unit: ClassVar[str] = "nats per recording"
    reads_files: ClassVar[bool] = True
    reads_audio: ClassVar[bool] = True

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Decode and resample the recording. `tokenizer` is not used: what it would tell is in `options.audio`."""
        if "label" not in record:
            raise RowProblem(
                "label",
                "the row has no label",
                "add it, or name its column in the source: columns: {label: your_column}",
            )
        label = label_id(record["label"], options.labels)
        assert options.labels is not None
        fields = {"kind": "label", "reference": options.labels[label], **of_record(record, options.audio)}
        return Row(record.id, record.source, (), [1.0], label, fields)

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """What the feature extractor makes [R, ...], one target a row; `fields["samples"]` [R] their lengths."""
        recordings = [r.fields["audio"] for r in rows]
        return Batch(
            inputs=features(recordings, rows[0].fields["extractor"]),
            labels=torch.tensor([r.label for r in rows]),
            weights=torch.tensor([r.weights[0] for r in rows], dtype=torch.float32),
            rows=torch.arange(len(rows)),
            row_ids=[r.id for r in rows],
            sources=[r.source for r in rows],
            tokens=sum(r.size for r in rows),
            epochs=epochs_of(rows, epochs),
            fields={"samples": torch.tensor([len(r) for r in recordings])},
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [R, V]; `features` [R, D] are what the head reads."""
        parts = apart(batch)
        out = [classifier_outputs(model, b, in_type(model, b.inputs), hidden=hidden) for _, b in parts]
        if len(out) == 1:
            return out[0]
        order = torch.cat([at for at, _ in parts]).argsort()
        states = None
        if hidden:
            states = tuple(together(layer)[order] for layer in zip(*(o.hidden or () for o in out), strict=True))
        read = [o.features for o in out if o.features is not None]
        return Outputs(
            torch.cat([o.logits for o in out])[order],
            batch.labels,
            hidden=states,
            features=torch.cat(read)[order],
            head=out[0].head,
            raw=[o.raw for o in out],
        )

    def default_metric(self, rows: Sequence[Row]) -> str:
        return "accuracy"
