"""Reading, checking, encoding, packing and ordering of data."""
