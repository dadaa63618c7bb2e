"""Everything read from disk or written to it: whole or not at all; data of others, and a run's own records."""
