"""OpenAI's API over one base and many adapters: rows of different adapters in one batch, step by step.

A request is read and checked (`app.py`, `schemas.py`), becomes token ids (`prompts.py`), waits for a seat in the cache
of keys and values (`cache.py`) and is then written with all others, a token a step (`engine.py`).
"""
