"""Laws fitted over finished runs: what a longer run, or one with another mixture, is foreseen to come to."""
