"""The cards: whole, in our own words, and true about where methods live."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tunewright import catalogue
from tunewright.errors import RecipeError, TunewrightError
from tunewright.papers import cards, link

ROOT = Path(__file__).parents[2]
CARDS = cards.load()
FAMILIES = set(
    (
        "alignment continual data decode distill edit generate measure merge objective peft pretrain retrieval robot "
        "science serve timeseries vision"
    ).split()
)
KINDS = set("method analysis model benchmark theory system dataset survey toolkit position".split())


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_the_whole_map_is_here():
    assert sum(c.map for c in CARDS.values()) == 332


@pytest.mark.parametrize("field", ["mechanism", "claim"])
def test_each_line_is_one_sentence_of_its_own(field):
    for slug, card in CARDS.items():
        line = getattr(card, field)
        assert line.endswith(".") and "\n" not in line and 20 <= len(line) <= 330, slug
        assert line[0].isupper() or line[0].isdigit() or line.startswith("pre-"), slug
    shared = Counter(g for c in CARDS.values() if c.map for g in grams(getattr(c, field), 8))
    assert [g for g, n in shared.items() if n > 1] == [], "a line written once and used twice"


def test_what_was_reconstructed_lives_and_is_said_in_sentences():
    said = {slug: card for slug, card in CARDS.items() if card.reconstructed}
    assert {"cooldown", "diverse-model-zoo", "allora", "bang", "emulated-fine-tuning"} <= said.keys()
    for slug, card in said.items():
        assert card.lives and card.reconstructed.startswith("From ") and card.reconstructed.endswith("."), slug
        assert card.as_dict()["reconstructed"] == card.reconstructed
    given = dict.fromkeys(("title", "name", "family", "kind", "modality", "mechanism", "claim"), "x") | {"tags": []}
    with pytest.raises(TunewrightError, match="take the key out"):
        cards.read("a", {**given, "lives": "open", "reconstructed": "From the abstract."}, "a.toml")


def test_labels_are_known_and_ids_agree_with_years():
    for slug, card in CARDS.items():
        assert card.family in FAMILIES and card.kind in KINDS and card.tags, slug
        assert slug == slug.lower() and " " not in slug and "_" not in slug
        if card.arxiv:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv) and card.year == 2000 + int(card.arxiv[:2]), slug
    ids = Counter(c.arxiv for c in CARDS.values() if c.arxiv)
    assert [i for i, n in ids.items() if n > 1] == []


def test_no_sentence_of_an_abstract_is_copied():
    folder = os.environ.get("TUNEWRIGHT_PAPERS")
    if not folder:
        pytest.skip("set TUNEWRIGHT_PAPERS to a folder with abstracts.jsonl ({slug, abstract} a line)")
    rows = [json.loads(line) for line in (Path(folder) / "abstracts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 332
    for row in rows:
        card = CARDS[row["slug"]]
        for line in (card.mechanism, card.claim):
            assert not grams(line, 8) & grams(row["abstract"], 8) - grams(card.title, 8), row["slug"]


def test_cards_say_where_methods_live_and_methods_have_cards():
    found = link.places()
    assert sorted(set(found) - set(CARDS)) == [], "write a card, then `python -m tunewright.papers.link`"
    for slug, card in CARDS.items():
        assert set(card.lives) == set(found.get(slug, [])), f"{slug}: run `python -m tunewright.papers.link`"
    own = {e.file for e in catalogue.entries().values() if e.room != catalogue.THIRD_PARTY}
    assert own <= {ROOT / p.file for c in CARDS.values() for p in c.lives}


def test_what_lives_is_a_file_with_tests_that_are_there():
    for slug, card in CARDS.items():
        for place in card.lives:
            assert (ROOT / place.file).is_file(), (slug, place.file)
        for test in card.tests:
            assert (ROOT / test).is_file(), (slug, test)
        assert bool(card.tests) == bool(card.lives), f"{slug}: no test imports it"
        assert not (card.parity and not card.lives), slug


def test_alma_lives_as_a_recipe():
    assert CARDS["alma"].lives == (cards.Place("recipes/alma.yaml"),)


GOOD = {
    "title": "T",
    "name": "N",
    "family": "peft",
    "kind": "method",
    "modality": "any",
    "mechanism": "M.",
    "claim": "C.",
    "tags": ["x"],
    "lives": "open",
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lives": "somewhere"}, "lives is 'somewhere'"),
        ({"clam": "C."}, "no key 'clam'"),
        ({"title": None}, "no 'title'"),
        ({"lives": []}, "lives is"),
    ],
)
def test_a_broken_card_is_named(change, says):
    data = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(TunewrightError, match=re.escape(says)) as error:
        cards.read("x", data, "x.toml")
    assert error.value.where == "x.toml"


def test_an_unknown_slug_gets_the_nearest_names():
    with pytest.raises(RecipeError, match="did you mean.*lora-ga"):
        cards.find("loraga")
    assert cards.find("LoRA_GA").slug == "lora-ga"


def test_verdicts_come_from_the_results(tmp_path, monkeypatch):
    (tmp_path / "hft.json").write_text(
        json.dumps({"nano": {"verdict": "fails"}, "real": {"verdict": None, "status": "running"}})
    )
    (tmp_path / "hft--drift.json").write_text(json.dumps({"nano": {"verdict": "holds", "paper": "hft"}}))
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    cards.verdicts.cache_clear()
    try:
        assert CARDS["hft"].verdicts == (
            cards.Verdict("hft--drift", "nano", "holds", ("trained: how many steps was not noted",)),
            cards.Verdict("hft", "nano", "fails", ("trained: how many steps was not noted",)),
        )
        assert CARDS["hft"].states == ("lives", "holds", "fails")
        assert CARDS["lora"].states == ("lives",) and CARDS["ties"].verdicts == ()
    finally:
        cards.verdicts.cache_clear()


def test_linking_keeps_what_was_typed():
    place = cards.Place("tunewright/methods/parameter_selection/hft.py", ("choose",))
    text = 'title = "T"\nlives = "open"\n'
    once = link.linked(text, [place], 'equals "X"\'s')
    assert link.linked(once, [place], 'equals "X"\'s') == once
    assert (
        once.startswith('title = "T"\n')
        and 'slots = ["choose"]' in once
        and "test_first_methods.py" in once
        and 'equals \\"X\\"' in once
    )
    assert link.linked(once, [], "") == text
