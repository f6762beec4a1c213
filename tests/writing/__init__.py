"""Models that write: in this process, and behind an address."""
