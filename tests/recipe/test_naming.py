"""Nothing in a recipe replaces another thing that is called alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import small
from tunewright.data.read import read_all
from tunewright.errors import RecipeError
from tunewright.recipe import Recipe, Source
from tunewright.recipe.naming import file_names, kept_names, numbered, plain_name
from tunewright.runs.assemble import assemble

PARTS = st.sampled_from(["a", "b", "k", "k.txt", "k.jsonl", ".."])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@given(st.lists(PATHS, unique=True, max_size=6))
def test_different_paths_have_different_names(paths: list[str]) -> None:
    for names in (kept_names([(None, p) for p in paths]), file_names(paths)):
        assert len(set(names)) == len(paths)
        assert all(p.endswith(n) or p.rpartition("/")[2].startswith(n) for p, n in zip(paths, names, strict=True))


@given(st.lists(st.tuples(st.none() | st.sampled_from(["k", "a", "a/k.txt"]), PATHS), max_size=6))
def test_own_names_are_kept(entries: list[tuple[str | None, str]]) -> None:
    names = kept_names(entries)
    assert all(own in (None, name) for (own, _), name in zip(entries, names, strict=True))
    given = [own for own, _ in entries if own]
    for (own, _), name in zip(entries, names, strict=True):
        paths = {p for o, p in entries if o is None}
        if own is None and name in given:  # nothing longer was left of it
            assert name in paths


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["general.txt"], ["general"]),
        (["a/k.txt", "b/k.txt"], ["a/k.txt", "b/k.txt"]),
        (["k.txt", "k.md", "other.txt"], ["k.txt", "k.md", "other"]),
        (["/x/a/k.txt", "/y/a/k.txt"], ["x/a/k.txt", "y/a/k.txt"]),
        (["quickstart:keep", "keep.txt"], ["keep", "keep.txt"]),
    ],
)
def test_names_are_as_short_as_they_can_be(paths: list[str], names: list[str]) -> None:
    assert kept_names([(None, p) for p in paths]) == names


@given(st.lists(st.sampled_from(["a", "a-2", "b"])))
def test_numbered_names_differ(names: list[str]) -> None:
    given = numbered(names)
    assert len(set(given)) == len(given) and all(g.startswith(n) for g, n in zip(given, names, strict=True))


@pytest.mark.parametrize(
    "keep",
    [["k.txt", "k.txt"], [{"data": "a.txt", "name": "n"}, {"data": "b.txt", "name": "n"}]],
    ids=["one file twice", "one name twice"],
)
def test_equal_names_are_refused(keep: list[object], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="are called") as refused:
        Recipe.load(small.write_recipe(tmp_path, keep=keep))
    assert "r.yaml:" in str(refused.value) and "name:" in str(refused.value)


def test_every_kept_and_replayed_text_is_read(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=8, test=2)
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "k.txt").write_text(f"the town {folder} and the river")
    recipe = Recipe.load(
        small.write_recipe(tmp_path, keep=["a/k.txt", "b/k.txt"], data__replay={"./a/k.txt": 0.1, "./b/k.txt": 0.1})
    )
    session = assemble(recipe)
    assert list(session.keep) == ["a/k.txt", "b/k.txt"]
    assert len({d.hash for d in session.keep.values()}) == 2
    replayed = [d.name for d, _ in session.stages[0].replay.values()]
    assert len(replayed) == len(set(replayed)) == 2
    session.cursor(session.stages[0]).next_batch()
    again = Recipe.load(_written(tmp_path, recipe))
    assert again.kept_names() == recipe.kept_names(), "the run's own copy calls them the same"


def _written(folder: Path, recipe: Recipe) -> Path:
    (folder / "own").mkdir()
    (folder / "own" / "recipe.yaml").write_text(recipe.dump(absolute=True))
    return folder / "own" / "recipe.yaml"


def test_rows_of_one_file_name_in_two_folders_have_their_own_ids(tmp_path: Path) -> None:
    for name in ("x/a/rows.jsonl", "x/b/rows.jsonl", "x/other.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"prompt": "p", "completion": "c"}\n' * 2)
    records = read_all(Source(path="x"), tmp_path).records
    assert [r.id for r in records][::2] == ["a/rows.jsonl:1", "b/rows.jsonl:1", "other.jsonl:1"]
    assert [r.where for r in records][::2] == ["x/a/rows.jsonl:1", "x/b/rows.jsonl:1", "x/other.jsonl:1"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("Grüße", "Grusse"), ("año nuevo", "ano-nuevo"), ("-x-", "x"), ("Ελλάδα", ""), ("日本 2", "2"), ("ﬁsh", "fish")],
)
def test_a_name_is_written_in_letters_that_folders_have_anywhere(text, name):
    assert plain_name(text) == name
