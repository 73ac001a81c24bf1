"""From accesses to the miss ledger: what every read got, and whether it helped."""
