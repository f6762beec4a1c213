"""Honest measurement: target, kept, drift and cost, each with its interval; and probes, one file each."""
