"""Which primaries a Redis Cluster has just now."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One primary of a cluster: its id, its client address, and whether it owns slots."""

    id: str
    host: str
    port: int
    serves: bool


def primaries(cluster_nodes: str, seed_host: str) -> list[ClusterNode]:
    """Return the primaries that are up, from the text of CLUSTER NODES, sorted by address.

    Parameters
    ----------
    cluster_nodes : str
        ``<id> <ip:port@cport[,hostname]> <flags> <primary> <ping> <pong> <epoch> <link> <slots> …``
        (redis.io, CLUSTER NODES). A node that does not know its own address prints an empty one.
    seed_host : str
        The host we came by, for such a node.
    """
    found = []
    for line in cluster_nodes.splitlines():
        fields = line.split()
        if len(fields) < 8:
            continue
        flags = set(fields[2].split(","))
        if not flags & {"master", "primary"} or flags & {"fail", "handshake", "noaddr"}:
            continue
        address, _, hostname = fields[1].partition(",")
        host, _, port = address.rpartition("@")[0].rpartition(":")
        host = host or hostname.split(",")[0] or seed_host
        found.append(ClusterNode(fields[0], host, int(port), len(fields) > 8))
    return sorted(found, key=lambda node: (node.host, node.port))
