"""The accesses of a case cut into shards: each holds whole histories of keys, so that they can be followed apart."""
