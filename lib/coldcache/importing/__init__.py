"""From files that others made to a case."""
