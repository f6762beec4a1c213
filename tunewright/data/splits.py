"""Parts of data sets by name, as `datasets` writes them: train, test, train[:10%], train[:100]+test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunewright.errors import DataError

TRAIN = "train"


def keywords() -> dict[str, str]:
    """Names of folders that mean a split ("val") -> the split ("validation")."""
    from datasets.data_files import SPLIT_KEYWORDS

    return {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}


def ranges(split: str | None, sizes: Mapping[str, int], where: str) -> list[tuple[str, int, int]]:
    """(split, first row, row behind the last) of what is asked for; None: the only split, or train.

    DataError where there is no such split, or the slice is none.
    """
    if split is None:
        split = next(iter(sizes)) if len(sizes) == 1 else TRAIN
        if split not in sizes:
            raise DataError("it has several splits", where=where, remedy=f"set split to one of: {_named(sizes)}")
    import datasets

    try:
        found = datasets.ReadInstruction.from_spec(split).to_absolute(dict(sizes))
    except (ValueError, AssertionError) as error:
        raise unknown(split, sizes, where, str(error)) from None
    return [(f.splitname, f.from_ or 0, sizes[f.splitname] if f.to is None else f.to) for f in found]


def unknown(split: str, known: Iterable[str], where: str, why: str = "") -> DataError:
    """That a source has no such split."""
    said = f" ({why.splitlines()[0]})" if why else ""
    return DataError(f"there is no split '{split}'{said}", where=where, remedy=f"set split to one of: {_named(known)}")


def _named(splits: Iterable[str]) -> str:
    return ", ".join(sorted(splits))
