"""What is going on and what was found: run folders, comparisons, papers and methods as pages on loopback.

The pages only read. Everything that they show is had from where the command line has it (`finished.folders`, `report`,
`papers`, `catalogue`), so that the two never say different things.
"""
