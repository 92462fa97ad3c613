"""What a connection's server is, and what a session on a cluster is told so that it never reads what is out of date."""

from collections.abc import Mapping

VARIABLES = ("version", "wsrep_on", "wsrep_sync_wait", "group_replication_single_primary_mode")
"""The session variables that say so; a server leaves out what it does not know."""
SHOW_VARIABLES = f"SHOW VARIABLES WHERE Variable_name IN ({', '.join(repr(name) for name in VARIABLES)})"
_GALERA_WAITS = 7
"""A bit each for SELECT and START TRANSACTION, for UPDATE and DELETE, and for INSERT and REPLACE. A transaction waits
once, when it begins: an UPDATE that finds no row because the row has not come yet would be a lost one."""


def is_mariadb(variables: Mapping[str, str]) -> bool:
    """Whether it is a MariaDB, which is MySQL in most respects and knows compound statements."""
    return "mariadb" in variables["version"].lower()


def causal_reads(variables: Mapping[str, str]) -> str | None:
    """The statement by which a session sees, on every node, what any committed before; None where none is needed.

    With a single writing member of a MySQL group nothing is out of date there, and new ones first catch up.
    """
    if "wsrep_sync_wait" in variables and variables.get("wsrep_on") == "ON":
        return f"SET SESSION wsrep_sync_wait = {_GALERA_WAITS}"
    if variables.get("group_replication_single_primary_mode") == "OFF":
        return "SET SESSION group_replication_consistency = 'BEFORE'"
    return None
