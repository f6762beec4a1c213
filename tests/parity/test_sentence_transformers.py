"""sentence-similarity beside sentence-transformers: its losses on the same vectors, and our folders in its own class.

Skipped where it is not installed (`pip install sentence-transformers`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.test_sentence_similarity import TASK, encoded, inputs, recipe  # noqa: F401
from tunewright.finished.export import export
from tunewright.loading.load import load
from tunewright.pieces.similarity import cosent, cosines, in_batch_negatives, squared_error
from tunewright.runs.run import run

peer = pytest.importorskip("sentence_transformers")


class Given(torch.nn.Module):
    """A model whose vectors are given."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": features["vectors"]}


def columns(count: int, rows: int = 5, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 8, generator=draw).requires_grad_(True) for _ in range(count)]


def texts(*of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors row by row, and how many texts each row has."""
    return torch.stack(of, 1).flatten(0, 1), torch.full((len(of[0]),), len(of))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("scale", [20.0, 5.0])
def test_in_batch_negatives_are_its_ranking_loss(count: int, scale: float) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    of = columns(count)
    theirs = MultipleNegativesRankingLoss(Given(), scale=scale)([{"vectors": c} for c in of], None)
    vectors, many = texts(*of)
    ours = in_batch_negatives(vectors, many, torch.arange(len(vectors)), torch.arange(5), scale).mean()
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, of), torch.autograd.grad(theirs, of), strict=True):
        torch.testing.assert_close(a, b)


def test_losses_of_scored_pairs_are_its_own() -> None:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss, CosineSimilarityLoss

    of, scores = columns(2, rows=6, seed=1), torch.tensor([0.0, 0.4, 0.4, 0.9, 1.0, 0.2])
    vectors, many = texts(*of)
    said = cosines(vectors, many, torch.arange(6))
    for ours, loss in (
        (cosent(said, scores).mean(), CoSENTLoss(Given())),
        (squared_error(said, scores).mean(), CosineSimilarityLoss(Given())),
    ):
        theirs = loss([{"vectors": c} for c in of], scores)
        torch.testing.assert_close(ours, theirs)
        for a, b in zip(torch.autograd.grad(ours, of, retain_graph=True), torch.autograd.grad(theirs, of), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
def test_a_folder_gives_its_class_the_same_vectors(inputs: Path, tmp_path: Path, mode: str) -> None:  # noqa: F811
    """A base that it wrote is read as it reads it; what goes out after training gives it the run's vectors."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    steps = [Transformer(str(inputs / "base")), Pooling(32, mode), *([Normalize()] if mode != "cls" else [])]
    steps[0].max_seq_length = 16
    peer.SentenceTransformer(modules=steps, device="cpu").save(str(tmp_path / "base"))
    asked = recipe(inputs, model=str(tmp_path / "base"), budget__steps=2)
    run(asked, tmp_path / "out", quiet=True)
    export(tmp_path / "out", tmp_path / "model")
    said = [json.loads(line) for line in (inputs / "train.jsonl").read_text().splitlines()]
    long = "the quick brown fox jumps over the lazy dog " * 3
    words = [*(r["anchor"] for r in said[:6]), long]
    for folder in (tmp_path / "base", tmp_path / "model"):
        theirs = peer.SentenceTransformer(str(folder), device="cpu")
        loaded = load(str(folder), "sentence-similarity")
        assert loaded.tokenizer.model_max_length == theirs.max_seq_length == 16
        from tunewright.data.truncate import fit_length

        rows = [fit_length(encoded(kept=True, text=w), 16, "auto")[0] for w in words]
        with torch.no_grad():
            own = TASK.forward(loaded.model, TASK.collate(rows)).embeddings
        assert own is not None
        torch.testing.assert_close(own, theirs.encode(words, convert_to_tensor=True), rtol=0, atol=1e-5)
