"""How does the model change while it answers? Methods on `adapt`, named under `test_time:`."""
