"""What did a change do, beside target, kept, drift and cost?

Honest measurement: target, kept, drift and cost, each with its interval; and probes, one file each.
"""
