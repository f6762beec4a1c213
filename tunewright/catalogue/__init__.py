"""What a recipe may name, found by listing folders: nothing is imported until one is asked for."""

from tunewright.catalogue.folders import THIRD_PARTY, Entry, aliases, canonical, entries, find, lookup, rooms, tasks
from tunewright.catalogue.parameters import Use
from tunewright.catalogue.resolve import build, describe, load_method

__all__ = [
    "THIRD_PARTY",
    "Entry",
    "Use",
    "aliases",
    "build",
    "canonical",
    "describe",
    "entries",
    "find",
    "load_method",
    "lookup",
    "rooms",
    "tasks",
]
