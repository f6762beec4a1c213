"""From a recipe to a session: the rows that methods may ask for by name."""

from __future__ import annotations

import pytest

from tests import small
from tunewright.errors import MethodError
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble


def test_methods_may_ask_for_all_kept_text_or_for_one_entry(tmp_path):
    small.write_inputs(tmp_path)
    (tmp_path / "other.txt").write_text("the river rose\n\nthe town is at the river\n")
    (tmp_path / "odd.txt").write_text("who is at the shop\n")
    keep = ["keep.txt", {"data": "other.txt", "name": "calibration"}, {"data": "odd.txt", "name": "train"}]
    session = assemble(Recipe.load(small.write_recipe(tmp_path, keep=keep)))
    needs = session.needs(session.stages[0])
    names = [[r.id for r in needs.source(name)] for name in ("keep", "calibration")]
    assert [len(ids) for ids in names] == [8, 2] and set(names[1]) < set(names[0])
    assert needs.data_hashes["calibration"] != needs.data_hashes["keep"]
    assert len(needs.source("train")) == 40  # an entry of that name does not take the rows' place
    with pytest.raises(MethodError, match="calibration"):
        needs.source("calibrations")
