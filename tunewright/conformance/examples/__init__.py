"""A method in a few lines for each slot: shown by docs/contract.md and `tunewright methods SLOT`, run by tests."""
