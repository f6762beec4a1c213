"""Numbers that a refactoring may not move: losses of every method's tiny case, and the figures of whole reports."""
