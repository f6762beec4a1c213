"""What image-segmentation is checked on: a tiny SegFormer, and pictures whose halves are warm or cold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.conformance.task_case import TaskExample

SIDE = 8
CLASSES = ("ground", "cold", "warm")
_COLOURS = ((90, 160, 90), (20, 30, 200), (210, 40, 20))


def segformer(labels: int = len(CLASSES)) -> Any:
    """Four stages of one block each, for pictures [3, 8, 8], without dropout."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    still = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "drop_path_rate")
    sizes: dict[str, Any] = {
        "depths": [1, 1, 1, 1],
        "sr_ratios": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 16, 32],
        "num_attention_heads": [1, 2, 2, 4],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 16,
        "num_labels": labels,
        **dict.fromkeys(still, 0.0),
    }
    return SegformerForSemanticSegmentation(SegformerConfig(**sizes))


def mask(i: int) -> np.ndarray:
    """[8, 8], or [16, 16] of every second row: ground with a half of another class; a corner does not count."""
    side, found = SIDE * (1 + i % 2), np.zeros((SIDE * (1 + i % 2),) * 2, np.uint8)
    found[:, : side // 2] = 1 + (i // 2) % 2
    found[-2:, -2:] = 255
    return np.rot90(found, i % 4)


def _files(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        colours = np.array([*_COLOURS, *[(0, 0, 0)] * 253], np.uint8)
        noise = rng.integers(0, 40, (*mask(i).shape, 3), dtype=np.uint8)
        Image.fromarray(colours[mask(i)] + noise).save(folder / "pictures" / f"{i}.png")
    Image.fromarray(mask(0)).save(folder / "pictures" / "mask.png")
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(folder / "pictures" / "coloured.png")
    (folder / "pictures" / "torn.png").write_bytes((folder / "pictures" / "mask.png").read_bytes()[:60])


def _right(row: Mapping[str, Any]) -> str:
    found = np.array(row["mask"])
    found = found[1::2, 1::2] if len(found) > SIDE else found  # the pixel at the middle of two lies at the second
    counts = Counter(found.flatten().tolist())
    return " ".join(f"{name}:{counts[k]}" for k, name in enumerate(CLASSES) if counts[k])


def _figure(pairs: Sequence[tuple[str, str]]) -> float:
    """Mean intersection over union, from a table of all pixels."""
    table = np.zeros((len(CLASSES), len(CLASSES)))
    for answer, _ in pairs:
        for word in answer.split():
            names, count = word.split(":")
            right, said = names.split(">") if ">" in names else (names, names)
            table[CLASSES.index(right), CLASSES.index(said)] += int(count)
    both, either = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    return float((both[either > 0] / either[either > 0]).mean())


def image_segmentation() -> TaskExample:
    """The example of the task."""
    from transformers import SegformerImageProcessorPil

    def row(i: int, **other: Any) -> dict[str, Any]:
        return {"image": f"pictures/{i}.png", "mask": mask(i).tolist(), **other}

    return TaskExample(
        model=segformer,
        reader=SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        rows=[row(i) for i in range(12)],
        bad={
            "no such picture": ({**row(0), "image": "pictures/none.png"}, "image"),
            "no such mask": (row(0, mask="pictures/none.png"), "mask"),
            "a mask of another size": (row(0, mask=mask(1).tolist()), "mask"),
            "a number that is no class": (row(0, mask=(mask(0) + np.uint8(3)).tolist()), "mask"),
            "no pixel that counts": (row(0, mask=[[255] * SIDE] * SIDE), "mask"),
            "a mask in colour": (row(0, mask="pictures/coloured.png"), "mask"),
            "a damaged mask": (row(0, mask="pictures/torn.png"), "mask"),
            "a mask that is null": (row(0, mask=None), "mask"),
        },
        labels=CLASSES,
        right=_right,
        figure=_figure,
        files=_files,
    )
