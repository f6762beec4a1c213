"""The catalogue of papers: one TOML card a paper, in our own words, with where it lives in Tunewright and what was
shown.

`cards.load()` reads them, `search` finds by words, `listing` prints, `page` makes docs/papers.md, and
`python -m tunewright.papers.link` writes into the cards where methods live and which tests cover them.
"""
