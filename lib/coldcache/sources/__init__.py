"""One file per kind of evidence; each turns it into rows of a table of the case."""
