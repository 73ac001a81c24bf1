"""A place to try coldcache: an embedded server and a real analyzer with faults to switch on."""
