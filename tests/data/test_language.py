"""The language filter: what stays by language, confidence and length; the library's own model where it is installed."""

from __future__ import annotations

import sys

import pytest

from tunewright.catalogue import build
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select import language
from tunewright.data.select.language import Language
from tunewright.errors import MissingExtraError, RecipeError
from tunewright.recipe import MethodUse


class Told:
    """Names a language by a text's first letter; as sure as it is long."""

    labels = ["de", "en", "fr"]
    seen: list[str] = []

    def classify(self, text):
        self.seen.append(text)
        return {"d": "de", "e": "en"}.get(text[0], "fr"), min(1.0, len(text) / 10)


@pytest.fixture
def told(monkeypatch):
    Told.seen = []
    monkeypatch.setattr(language, "identifier", Told)
    return Told


def judged(method, *texts):
    return call(method, "select", records=[Record({"text": t}, id=str(i)) for i, t in enumerate(texts)])


TEXTS = ("eeeeeeee", "dddddddd", "ffffffff", "eeee", "e", "e 1 2 3 4 5", "")


def test_rows_stay_by_language_confidence_and_length(told):
    found = judged(Language(shortest=2), *TEXTS)
    assert list(found.indices) == [0, 4, 5, 6]
    assert found.reasons == ["", "language de", "language fr", "language en, confidence below 0.5", "", "", ""]
    assert list(found.scores["undecided"]) == [0, 0, 0, 0, 1, 1, 1]
    assert list(found.scores["confidence"]) == [0.8, 0.8, 0.8, 0.4, 0, 0, 0]
    dropped = judged(Language(shortest=2, undecided="drop", keep=["de", "fr"]), *TEXTS)
    assert list(dropped.indices) == [1, 2] and dropped.reasons[4] == "fewer than 2 letters: undecided"
    assert list(judged(Language(shortest=0, confidence=0.9), *TEXTS[:6]).indices) == [5]
    assert list(judged(Language(shortest=0, confidence=0.4), *TEXTS[:5]).indices) == [0, 3]


def test_only_the_beginning_is_looked_at(told):
    judged(Language(shortest=1, characters=3), "abcdef", "12345a")
    assert told.seen == ["abc"]


def test_names_are_a_list_or_one_text(told):
    assert build(MethodUse(name="language", params={"keep": "de fr"})) == Language(keep=["de", "fr"])
    with pytest.raises(RecipeError, match="language.keep"):
        build(MethodUse(name="language", params={"keep": []}))
    with pytest.raises(RecipeError, match="no language is called 'dee'.*\n?.*'de'"):
        judged(Language(keep=["dee"]), "x")


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MissingExtraError, match=r"tunewright\[language\]"):
        judged(Language(), "x")


SAID = {
    "de": "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung aller Gewalt.",
    "fr": "Les hommes naissent et demeurent libres et égaux en droits, et la loi est la même pour tous.",
    "en": "We hold these truths to be self-evident, that all men are created equal and free.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter, och de har fått förnuft.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
}


@pytest.mark.parametrize("code", SAID)
def test_the_library_names_languages(code):
    pytest.importorskip("py3langid", reason="the extra `language` is not installed")
    found = judged(Language(keep=[code]), *SAID.values())
    assert [list(SAID)[i] for i in found.indices] == [code] and found.scores["confidence"][found.indices[0]] > 0.9
    half = judged(Language(keep=[code]), "\ud800 " + SAID[code])
    assert list(half.indices) == [0]


def test_many_texts_are_told_in_every_bit_as_one_by_one():
    pytest.importorskip("py3langid", reason="the extra `language` is not installed")
    whole = "".join(SAID.values())
    texts = [whole[i : i + 1 + (i * 37) % 300] for i in range(0, len(whole) - 1, 4)]
    texts += ["LOUD TEXT IN CAPITALS", "\ud800 half", "12 34", "e\u0301 de\u0301compose\u0301", "", "x", *texts[:3]]
    plain, quick = language.identifier(), language.SideBySide(language.identifier())
    assert len(texts) >= language.TOGETHER and quick.quick
    assert quick.classify(texts) == [plain.classify(text) for text in texts]
    assert not quick.known.counted
    encoded = [plain._encode(text) for text in texts]
    counted = language.visits(quick.moves, quick.bases, quick.out, encoded)
    assert sum(map(len, counted)) > 1000 and not counted[encoded.index(b"")]


def test_letters_are_counted_no_further_than_needed():
    assert language.at_least(2, "a1b") and not language.at_least(3, "a1b") and language.at_least(0, "")
