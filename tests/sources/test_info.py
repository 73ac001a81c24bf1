"""INFO texts become typed columns under Redis's own names."""

from __future__ import annotations

from coldcache.sources.info import InfoSample, commandstats_table, info_table

TEXT = (
    "# Server\r\nredis_version:7.0.15\r\nexecutable:/usr/bin/redis-server\r\n# Memory\r\nused_memory:{memory}\r\n"
    "mem_fragmentation_ratio:1.25\r\n# Stats\r\nkeyspace_hits:5\r\nkeyspace_misses:2\r\nevicted_keys:0\r\n"
    "expired_keys:0\r\ntotal_commands_processed:9\r\n# Commandstats\r\n"
    "cmdstat_set:calls={calls},usec=12,usec_per_call=1.50,rejected_calls=1,failed_calls=0\r\n"
    "# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb2:keys=4,expires=0,avg_ttl=0\r\n"
)


def samples():
    return [InfoSample(1_000_000 * n, n, TEXT.format(memory=1000 * n, calls=n)) for n in (1, 2, 3)]


def test_fields_keep_their_names_and_get_their_types():
    table = info_table(samples())
    assert table["used_memory"].tolist() == [1000, 2000, 3000]
    assert table["mem_fragmentation_ratio"].tolist() == [1.25] * 3
    assert table["redis_version"].tolist() == ["7.0.15"] * 3
    assert str(table["t"].dtype) == "datetime64[us, UTC]"


def test_databases_are_summed_and_paths_left_out():
    table = info_table(samples())
    assert table["keys"].tolist() == [7, 7, 7]
    assert "executable" not in table


def test_command_statistics_keep_the_first_and_last_sample():
    table = commandstats_table(samples())
    assert table["calls"].tolist() == [1, 3]
    assert table["rejected_calls"].tolist() == [1, 1]
