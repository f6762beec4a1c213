"""A reader of records: windows, pieces, the cache's keys, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tunewright.conformance import bench
from tunewright.contract.batch import Row
from tunewright.contract.reader import LOSSES, STATES, Reader, Reading
from tunewright.contract.records import Record
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.attention import prepare_attention
from tunewright.models.deltas import LowRank, attach
from tunewright.models.flops import counting
from tunewright.tasks import get_task


def reader_of(task: str = "text-generation", count: int = 12, **changes: Any) -> tuple[Reader, list[Record]]:
    rows = bench.rows_of(get_task(task), "read", count)
    records = [Record({"label": r.label}, id=r.id, source=r.source) for r in rows]
    of = {r.id: [row] for r, row in zip(records, rows, strict=True)}
    made = Reader("start", Adapted(bench.MODELS[task]()), get_task(task), lambda r: of[r.id], **changes)
    return made, records


def test_windows_and_batches_change_nothing_but_rounding() -> None:
    whole, records = reader_of()
    for changes in ({"window": 5}, {"batch_tokens": 1}, {"batch_tokens": 30, "window": 7}):
        cut, _ = reader_of(**changes)  # type: ignore[arg-type]
        torch.testing.assert_close(cut.losses(records), whole.losses(records), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(cut.embeddings(records), whole.embeddings(records), rtol=1e-5, atol=1e-6)
    windows = [(len(some), v.shape) for some, v in reader_of(window=5)[0].stream(records, STATES)]
    assert windows == [(5, (5, bench.WIDTH)), (5, (5, bench.WIDTH)), (2, (2, bench.WIDTH))]


def test_packed_rows_read_as_padded_ones() -> None:
    padded, records = reader_of()
    packed, _ = reader_of(packed=True)
    assert prepare_attention(packed.adapted.model)
    torch.testing.assert_close(packed.losses(records), padded.losses(records), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.embeddings(records), padded.embeddings(records), rtol=1e-4, atol=1e-5)


def own_loss(model: Any, row: Row) -> float:
    """transformers' loss of one row, alone."""
    labels = [i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([labels])).loss)


def test_a_record_in_pieces_has_the_mean_over_its_tokens() -> None:
    reader, records = reader_of(count=3)
    a, b, c = (reader.rows_of(r)[0] for r in records)
    one = Record({}, id="long", source="s")
    whole = replace(reader, rows_of=lambda r: [a, b] if r is one else [c], _known={})
    counts = [sum(1 for w in row.weights if w > 0) for row in (a, b)]
    assert counts[0] != counts[1]
    own = [own_loss(reader.adapted.model, row) for row in (a, b, c)]
    expected = torch.tensor([(counts[0] * own[0] + counts[1] * own[1]) / sum(counts), own[2]])
    torch.testing.assert_close(whole.losses([one, records[2]]), expected, rtol=1e-5, atol=1e-6)
    assert whole.sizes([one]) == [sum(counts)]


def test_small_readings_are_remembered_by_what_rows_hold() -> None:
    reader, records = reader_of()
    first, spent = reader.losses(records), reader.tokens
    assert torch.equal(reader.losses(records[3:6][::-1]), first[3:6].flip(0)) and reader.tokens == spent
    assert reader.losses(records).data_ptr() != first.data_ptr()
    reader.embeddings(records)
    reader.embeddings(records)
    assert reader.tokens == 3 * spent  # wide ones are not held


def files(folder: Path) -> int:
    return len(list(folder.glob("*.safetensors")))


def test_the_cache_tells_weights_rows_readings_and_batches_apart(tmp_path: Path) -> None:
    kept = {"cache": tmp_path}
    reader, records = reader_of(**kept)
    base = reader.losses(records)
    assert files(tmp_path) == 1
    assert torch.equal(reader_of(**kept)[0].losses(records), base) and files(tmp_path) == 1
    for i, changes in enumerate(({"batch_tokens": 64}, {"window": 6}), 2):
        reader_of(**kept, **changes)[0].losses(records)  # type: ignore[arg-type]
        assert files(tmp_path) == (2 if i == 2 else 4)
    reader.read(records, Reading("other", STATES.of, hidden=True))
    reader.read(records, Reading("other", LOSSES.of))
    assert files(tmp_path) == 6
    moved, _ = reader_of(**kept)
    with torch.no_grad():
        next(moved.adapted.model.parameters()).reshape(-1)[0] += 1e-3
    moved.losses(records)
    assert files(tmp_path) == 7


def test_the_cache_tells_deltas_and_their_strength_apart(tmp_path: Path) -> None:
    found = []
    for strength in (None, 0.0, 1.0):
        reader, records = reader_of(cache=tmp_path)
        if strength is not None:
            site = next(s for s in reader.adapted.structure.sites if s.block is not None and s.kind == "linear")
            out, into = site.weight.shape
            delta = LowRank(torch.ones(2, into), torch.ones(out, 2), 1.0)
            delta.strength = strength
            attach(site, "d", delta)
        found.append(reader.losses(records))
    assert files(tmp_path) == 3 and torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_a_damaged_or_forbidden_cache_costs_time_alone(tmp_path: Path) -> None:
    reader, records = reader_of(cache=tmp_path)
    base = reader.losses(records)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(reader_of(cache=tmp_path)[0].losses(records), base)
    (tmp_path / "plain").write_text("a file where a folder should be")
    assert torch.equal(reader_of(cache=tmp_path / "plain")[0].losses(records), base)


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    reader, records = reader_of()
    with torch.no_grad():
        reader.adapted.model.get_input_embeddings().weight.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(MethodError, match="no finite number") as e:
        reader.losses(records)
    assert e.value.where == records[0].where


def test_operations_are_those_of_the_forwards() -> None:
    reader, records = reader_of(batch_tokens=1)
    with counting() as counted:
        reader.losses(records)
    linear = [p for n, p in reader.adapted.model.named_parameters() if p.dim() == 2 and "embed" not in n]
    inside = 2.0 * sum(p.numel() for p in linear) * reader.tokens
    head = 2.0 * bench.VOCABULARY * bench.WIDTH * sum(reader.sizes(records))
    assert inside < counted.total <= inside + 1.5 * head


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_classifiers_give_their_pooled_features_and_no_loss_of_a_new_head(task: str) -> None:
    reader, records = reader_of(task, count=5)
    model: Any = reader.adapted.model
    batch = reader.task.collate([reader.rows_of(r)[0] for r in records])
    with torch.no_grad():
        expected = reader.task.forward(model, batch).features
    torch.testing.assert_close(reader.embeddings(records), expected, rtol=1e-4, atol=1e-5)
    assert len(reader.losses(records)) == 5
    reader.adapted.new = ("classifier.weight",)
    with pytest.raises(MethodError, match="the head of 'start' is new"):
        reader.losses(records)
