"""Small tables of people written out as text, with words around them, and three tasks on such tables."""

from __future__ import annotations

import random

CITIES = "rome paris lima cairo oslo delhi quito tokyo".split()
JOBS = "baker pilot nurse tailor farmer singer judge miner".split()
COLOURS = "red blue green white black brown pink grey".split()
FIRST, LAST = "ba de fi go ku la me ni po ru sa ti".split(), "lan mer nor pus rit sol tam vin".split()
COLUMNS = {"city": CITIES, "job": JOBS, "colour": COLOURS}
SAID = {"city": "{name} lives in {value} .", "job": "{name} is a {value} .", "colour": "{name} likes {value} ."}


def table(rng: random.Random) -> list[dict[str, str]]:
    """Three people of different names, with three properties each."""
    names = rng.sample([a + b for a in FIRST for b in LAST], 3)
    return [{"name": n, **{column: rng.choice(of) for column, of in COLUMNS.items()}} for n in names]


def written(people: list[dict[str, str]]) -> str:
    """A table as one line of text, row after row."""
    lines = [f"row {i} : {' | '.join(person.values())}" for i, person in enumerate(people, 1)]
    return f"col : {' | '.join(people[0])} {' '.join(lines)}"


def texts(count: int, seed: int) -> list[str]:
    """Tables behind two sentences that say something of them, as a page around a table does."""
    rng, out = random.Random(seed), list[str]()
    for _ in range(count):
        people = table(rng)
        told = [(person, column) for person in people for column in COLUMNS]
        around = [SAID[c].format(name=person["name"], value=person[c]) for person, c in rng.sample(told, 2)]
        out.append(f"{' '.join(around)} {written(people)}")
    return out


def tasks(count: int, seed: int) -> list[dict[str, str]]:
    """Questions about cells, statements to be judged, and questions to be parsed, in turn."""
    rng, out = random.Random(seed), list[dict[str, str]]()
    for i in range(count):
        people, column = table(rng), rng.choice(list(COLUMNS))
        person = rng.choice(people)
        value = person[column]
        if i % 3 == 0:
            asked, answer = f"what is the {column} of {person['name']} ?", value
        elif i % 3 == 1:
            said = value if rng.random() < 0.5 else rng.choice([v for v in COLUMNS[column] if v != value])
            asked = f"true or false : {SAID[column].format(name=person['name'], value=said)}"
            answer = "true" if said == value else "false"
        else:
            asked = f"parse : who has the {column} {value} ?"
            answer = f"select name where {column} = {value}"
        out.append({"prompt": f"{asked} {written(people)}", "completion": answer})
    return out
