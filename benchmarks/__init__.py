"""Benchmarks beside peers, interleaved in one run.

They are run from the repository's root: `python -m benchmarks.sft`.
"""
