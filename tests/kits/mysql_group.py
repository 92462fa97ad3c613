"""A MySQL group of private servers on loopback, all of which take writes (group replication, multi-primary)."""

import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from development.free_ports import free_port
from development.local_server import USER, LocalServer, LocalServerSettings
from development.server_programs import ServerProgram
from tests.kits.warehouse_kit import sql

MEMBERS = 2
JOIN_TIMEOUT_SECONDS = 60
_SMALL = LocalServerSettings(buffer_pool_mib=64, redo_log_mib=64)


class GroupMember(LocalServer):
    """One member.

    Args:
        number: which of the addresses is its own.
        addresses: the ports by which the members find each other.
    """

    def __init__(self, folder: Path, number: int, addresses: list[int], group: str) -> None:
        super().__init__(folder, "mysql", settings=_SMALL)
        self.name = f"member {number + 1}"
        self._number = number
        self._addresses = addresses
        self._group = group

    def join(self, *, makes_the_group: bool, password: str) -> None:
        """Take part; wait until it does."""
        where = f"{self.url}/mysql"
        account = f"SOURCE_USER = '{USER}', SOURCE_PASSWORD = '{password}'"
        sql(where, f"CHANGE REPLICATION SOURCE TO {account} FOR CHANNEL 'group_replication_recovery'")
        sql(where, f"SET GLOBAL group_replication_bootstrap_group = {int(makes_the_group)}")
        sql(where, "START GROUP_REPLICATION")
        sql(where, "SET GLOBAL group_replication_bootstrap_group = 0")
        deadline = time.monotonic() + JOIN_TIMEOUT_SECONDS
        state = "SELECT member_state FROM performance_schema.replication_group_members WHERE member_id = @@server_uuid"
        while sql(where, state) != [("ONLINE",)]:
            assert time.monotonic() < deadline, f"{self.name} does not take part; see {self.error_log}"
            time.sleep(0.1)

    @property
    def password(self) -> str:
        """Of the user; each member has its own."""
        return self._password()

    def _write_init_file(self, program: ServerProgram) -> None:
        super()._write_init_file(program)
        # What a member has and the group has not would keep it out.
        path = self.folder / "init.sql"
        path.write_text(f"SET sql_log_bin = 0;\n{path.read_text()}")

    def _options(self) -> list[str]:
        plain = [
            option for option in super()._options() if option not in ("--skip-log-bin", "--performance-schema=OFF")
        ]
        seeds = ",".join(f"127.0.0.1:{port}" for port in self._addresses)
        return [
            *plain,
            f"--server-id={self._number + 1}",
            "--log-bin=log",
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
            "--report-host=127.0.0.1",
            f"--report-port={self.port}",
            "--plugin-load-add=group_replication.so",
            f"--group-replication-group-name={self._group}",
            f"--group-replication-local-address=127.0.0.1:{self._addresses[self._number]}",
            f"--group-replication-group-seeds={seeds}",
            "--group-replication-start-on-boot=OFF",
            "--group-replication-single-primary-mode=OFF",
            "--group-replication-recovery-get-public-key=ON",
        ]


class MysqlGroup:
    """The members; all of it lives in one folder and with the thread that started it."""

    def __init__(self, folder: Path) -> None:
        addresses, group = [free_port() for _ in range(MEMBERS)], str(uuid.uuid4())
        self.members = [
            GroupMember(folder / f"member{number + 1}", number, addresses, group) for number in range(MEMBERS)
        ]

    def urls(self, database: str) -> list[str]:
        """The database, at each member."""
        return [f"{member.url}/{database}" for member in self.members]

    def __enter__(self) -> Self:
        try:
            for number, member in enumerate(self.members):
                member.start()
                member.join(makes_the_group=number == 0, password=self.members[0].password)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for member in reversed(self.members):
            member.kill()  # in good order it would take its time to leave
            member.stop()
