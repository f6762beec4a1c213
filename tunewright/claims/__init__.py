"""Executable claims: a paper's headline as a comparison on the lab, judged by one rule."""
