"""Data sets of the `datasets` library: those of the hub, and folders that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tunewright.data import splits
from tunewright.data.columnar import AT_ONCE, ROWS, Maker
from tunewright.data.raw import Bad
from tunewright.errors import DataError, MissingExtraError

_ONE, _SEVERAL = ("state.json", "dataset_info.json"), "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder: of one data set, or of its splits."""
    return (folder / _SEVERAL).is_file() or all((folder / name).is_file() for name in _ONE)


def saved_files(folder: Path) -> tuple[Path, ...]:
    """The files that decide the rows of a saved data set, of all its splits."""
    kept = (".arrow", ".json")
    return tuple(sorted(p for p in folder.rglob("*") if p.suffix in kept and p.is_file()))


def saved_rows(folder: Path, split: str | None, where: str) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """Rows of a saved data set, or of some splits of it, numbered from 1. DataError where it cannot be read."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
        parts = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or splits.TRAIN): loaded}
        wanted = splits.ranges(split, {str(n): len(d) for n, d in parts.items()}, where)
        found = (next(d for n, d in parts.items() if str(n) == s).select(range(a, b)) for s, a, b in wanted)
        yield from enumerate((row for part in found for row in _rows(part, where)), 1)
    except DataError:
        raise
    except Exception as error:  # of damaged files: whatever the library and the JSON in them come to
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(
            f"a folder of `save_to_disk` that cannot be read: {said}", where=where, remedy="save the data set again"
        ) from None


def hub_rows(
    name: str, config: str | None, split: str | None, revision: str | None
) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """Rows of a hub data set, numbered from 1; pictures and recordings stay bytes.

    Raises MissingExtraError without a network, DataError for a split, config or data set that cannot be read.
    """
    yield from enumerate(_rows(_loaded(name, config, split, revision), name), 1)


@lru_cache
def hub_stream(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """A hub data set that is read as it is needed (`datasets.IterableDataset`); nothing of it is kept on the disk.

    Raises what `hub_rows` does.
    """
    return _loaded(name, config, split, revision, streaming=True)


def streamed_rows(data: Any, shard: int, skip: int, where: str) -> Iterator[tuple[int, Mapping[str, Any] | Bad]]:
    """Rows of one shard of a hub data set that is read as it is needed, numbered from 1, without the first `skip`."""
    part = data.shard(data.num_shards, shard)
    part = part.skip(skip) if skip else part
    make, number = None, skip
    with _refusing(where):
        for table in part.with_format("arrow").iter(ROWS):
            make = Maker(table.schema, where, data.features) if make is None else make
            for batch in table.to_batches():
                for row in make.rows(batch):
                    number += 1
                    yield number, row


def hub_revision(name: str, revision: str | None) -> str:
    """The commit that a hub data set's revision is at: what its rows are known by. The revision where nobody says."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except (HfHubHTTPError, HFValidationError, ConnectionError, OSError):
        return revision or ""


def _loaded(name: str, config: str | None, split: str | None, revision: str | None, **how: Any) -> Any:
    import datasets

    with _refusing(name):
        return datasets.load_dataset(name, config, split=split or splits.TRAIN, revision=revision, **how)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what `datasets` raises of a hub data set into what a user can act on."""
    import datasets

    try:
        yield
    except (ConnectionError, OSError, datasets.exceptions.DatasetsError) as error:
        why = str(error).splitlines()[0] if str(error) else "no answer"
        if isinstance(error, datasets.exceptions.DatasetNotFoundError | ConnectionError | OSError):
            raise MissingExtraError(
                f"'{name}' is no file here, and cannot be had from the hub ({type(error).__name__}: {why})",
                where=name,
                remedy="check the name and the network, or download the data and give the file's path",
            ) from None
        raise DataError(
            f"the data set cannot be read: {why}", where=name, remedy="download it and give the file's path"
        ) from None
    except (ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        lacks = "config" in why.lower()
        remedy = f"set {'config' if lacks else 'split'} to one that the data set has"
        if isinstance(error, RuntimeError):  # a data set that is a program, which is never run
            remedy = "download its files and give their path"
        raise DataError(f"the data set cannot be read: {why}", where=name, remedy=remedy) from None


def _rows(data: Any, where: str) -> Iterator[Mapping[str, Any] | Bad]:
    """Rows of a `datasets.Dataset`, its features undecoded but for the names of classes."""
    make = Maker(data.data.schema, where, data.features)
    held = max(1, data.data.nbytes / max(1, data.data.num_rows))
    for table in data.with_format("arrow").iter(int(max(1, min(ROWS, AT_ONCE / held)))):
        for batch in table.to_batches():
            yield from make.rows(batch)
