"""Speed, measured: one command per table."""
