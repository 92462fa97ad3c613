"""A private, durable database server on loopback, for development, tests and benchmarks.

    with LocalServer(Path(".local/database")) as server:
        print(server.url)       # mysql://stock:...@127.0.0.1:41234

Its data stays in the folder and is found again by the next start, also after a power cut or `kill -9`
of the server or of the program that started it.
"""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast, get_args

import pymysql
from pydantic import BaseModel, ConfigDict, Field

from development.child import Child
from development.private_files import append_private, make_private_folder, write_private
from development.server_programs import Flavour, Report, ServerProgram, ensure_installed
from service_kit import child_process
from service_kit.database.migrating import Service

USER = "stock"
SERVICES: tuple[Service, ...] = get_args(Service)
"""Each has a database and a user of its name."""
SERVICE_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
"""What a service, its audit and its repair need, on its own database; only `migrate` makes and changes tables."""
_FORMER_USER = "services"
"""Once wrote both databases."""
_POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 20


class ServerDidNotStart(Exception):
    """The database server can't be started; the message ends with its own words and with what to do."""


class LocalServerSettings(BaseModel):
    """Bounds of a private server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    buffer_pool_mib: int = Field(1024, ge=32, description="innodb_buffer_pool_size; taken from the machine as it fills")
    redo_log_mib: int = Field(512, ge=16, description="disk for the redo log; more means rarer checkpoints")
    connections_max: int = Field(300, ge=10)
    start_timeout_seconds: float = Field(120, gt=0, description="until it answers; crash recovery included")
    stop_timeout_seconds: float = Field(60, gt=0, description="until a stopping server is killed")


class LocalServer(Child):
    """One server and its data folder; `start` and `stop` may be repeated.

    The server ends with the thread that called `start`, however that ends. After `kill`, the next `start` recovers what
    was committed.

    Args:
        folder: where its data, its log and its port are kept; made if missing.
        flavour: "mariadb" (the distribution's server) or "mysql" (MySQL 9, unpacked from Debian's packages); by
            default what made the folder, or else "mariadb".
        port: the one to listen on; by default the one used last, or else a free one.
        report: told in plain words what is going on when something takes long.
    """

    def __init__(
        self,
        folder: Path,
        flavour: Flavour | None = None,
        *,
        port: int | None = None,
        settings: LocalServerSettings | None = None,
        report: Report = lambda _: None,
    ) -> None:
        super().__init__()
        self.name = "database server"
        self.folder = folder.resolve()
        self.flavour: Flavour = flavour or self._made_by() or "mariadb"
        self.settings = settings or LocalServerSettings()
        self.port = port or 0
        self._fixed_port = port
        self._report = report
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """`mysql://user:password@host:port`, without a database; its user may do everything, as `migrate` must."""
        return f"mysql://{USER}:{self._password()}@127.0.0.1:{self.port}"

    def service_url(self, service: Service) -> str:
        """The same for one service, whose user may read and write rows of its own database, and nothing else."""
        return f"mysql://{service}:{self._password(service)}@127.0.0.1:{self.port}"

    @property
    def error_log(self) -> Path:
        """The server's own log."""
        return self.folder / "error.log"

    def launch(self) -> None:
        """The same as `start`."""
        self.start()

    def start(self) -> None:
        """Start the server and wait until it accepts connections; nothing happens if it runs already.

        Raises:
            ServerNotInstalled: there is no such server on this machine, and it can't be installed.
            ServerDidNotStart: it ended or did not answer in time, or its folder is in use.
        """
        if self.pid is not None:
            return
        program = ensure_installed(self.flavour, self._report)
        make_private_folder(self.folder)
        self._take_folder()
        try:
            self._initialise(program)
            self._launch(program)
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server in good order and give the folder free."""
        if self._process is not None:
            child_process.stop(self._process, self.settings.stop_timeout_seconds)
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_folder(self) -> None:
        # The server inherits the lock, so that it is free exactly when both we and the server are gone.
        if self._lock is not None:
            return
        lock = (self.folder / "lock").open("a+")
        deadline = time.monotonic() + self.settings.stop_timeout_seconds
        while not _try_lock(lock):
            owner, server = _read_pids(lock)
            if owner != os.getpid() and _is_alive(owner):
                lock.close()
                raise ServerDidNotStart(
                    f"{self.folder} is in use by process {owner}: stop that, or choose another DATA_DIR."
                )
            if time.monotonic() > deadline:
                lock.close()
                raise ServerDidNotStart(
                    f"An earlier server (process {server}) still uses {self.folder}: end it with kill -9 {server}."
                )
            self._report("waiting for an earlier database server to stop")
            if _serves(server, self.folder):
                os.kill(server, signal.SIGTERM)
            time.sleep(_POLL_SECONDS * 10)
        self._lock = lock
        self._write_pids(0)

    def _write_pids(self, server_pid: int) -> None:
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()} {server_pid}")
        self._lock.flush()

    def _initialise(self, program: ServerProgram) -> None:
        data = self.folder / "data"
        if data.exists():
            if self._made_by() != self.flavour:
                what = f"{self.folder} was made by {self._made_by()}"
                raise ServerDidNotStart(f"{what}, which {self.flavour} can't read: choose another DATA_DIR.")
            return
        (self.folder / "flavour").write_text(self.flavour)
        self._report(f"making a new database in {self.folder}")
        fresh = self.folder / "data.new"  # renamed when complete: a half-made folder is never taken for a database
        shutil.rmtree(fresh, ignore_errors=True)
        # It runs a server, too: see --tmpdir below.
        environment = {**os.environ, "TMPDIR": str(self._temporary_folder())}
        with append_private(self.error_log) as log:
            done = subprocess.run(
                program.initialise_command(fresh), stdout=log, stderr=log, env=environment, check=False
            )
        if done.returncode != 0:
            raise self._failure(f"A new database can't be made in {self.folder} (exit status {done.returncode})")
        fresh.rename(data)

    def _made_by(self) -> Flavour | None:
        path = self.folder / "flavour"
        made_by = path.read_text() if path.exists() else None
        return cast("Flavour", made_by) if made_by in get_args(Flavour) else None

    def _launch(self, program: ServerProgram) -> None:
        self.port = self._choose_port()
        self._write_init_file(program)
        assert self._lock is not None
        with append_private(self.error_log) as log:
            self._process = child_process.start_tethered(
                program.serve_command([*self._options(), program.redo_log_option(self.settings.redo_log_mib)]),
                output=log,
                environment=self._environment(),
                keep_open=[self._lock.fileno()],
            )
        self._write_pids(self._process.pid)

    def _environment(self) -> dict[str, str] | None:
        """The server's environment; None: ours."""
        return None

    def _options(self) -> list[str]:
        return [
            f"--datadir={self.folder / 'data'}",
            "--socket=server.sock",  # relative to the data folder: an absolute path may be too long for a socket
            "--pid-file=server.pid",
            # A server that starts deletes what looks like an earlier one's files there: never one folder for several.
            f"--tmpdir={self._temporary_folder()}",
            f"--init-file={self.folder / 'init.sql'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_bin",
            "--transaction-isolation=READ-COMMITTED",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-autoinc-lock-mode=2",
            f"--innodb-buffer-pool-size={self.settings.buffer_pool_mib}M",
            f"--max-connections={self.settings.connections_max}",
            "--performance-schema=OFF",
        ]

    def _temporary_folder(self) -> Path:
        folder = self.folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder

    def _write_init_file(self, program: ServerProgram) -> None:
        account, password = f"'{USER}'@'127.0.0.1'", self._password()
        statements = [
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{password}';",
            f"GRANT ALL ON *.* TO {account} WITH GRANT OPTION;",
            f"DROP USER IF EXISTS '{_FORMER_USER}'@'127.0.0.1';",
        ]
        for service in SERVICES:
            user = f"'{service}'@'127.0.0.1'"
            statements += [
                f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{self._password(service)}';",
                f"GRANT {SERVICE_RIGHTS} ON `{service}`.* TO {user};",
            ]
        if not program.is_mariadb:  # there root has no password at first; here it is bound to the system's user
            statements.append(f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';")
        write_private(self.folder / "init.sql", "\n".join(statements) + "\n")

    def _password(self, user: str = USER) -> str:
        path = self.folder / ("password" if user == USER else f"password-{user}")
        if not path.exists():
            write_private(path, secrets.token_hex(16))
        return path.read_text()

    def _choose_port(self) -> int:
        remembered = self.folder / "port"
        preferred = self._fixed_port or (int(remembered.read_text()) if remembered.exists() else 0)
        port = _free_port(preferred)
        if self._fixed_port and port != self._fixed_port:
            raise ServerDidNotStart(f"Port {self._fixed_port} is taken: choose another one for the database server.")
        remembered.write_text(str(port))
        return port

    def _wait_until_it_answers(self) -> None:
        started = time.monotonic()
        reported = False
        while not self._answers():
            assert self._process is not None
            waited = time.monotonic() - started
            if self._process.poll() is not None:
                raise self._failure(f"The database server ended with status {self._process.returncode}")
            if waited > self.settings.start_timeout_seconds:
                raise self._failure(f"The database server did not answer within {waited:.0f} s")
            if waited > 2 and not reported:
                reported = True
                self._report("waiting for the database server (it may be recovering from a crash)")
            time.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            pymysql.connect(
                host="127.0.0.1",
                port=self.port,
                user=USER,
                password=self._password(),
                connect_timeout=5,
                read_timeout=5,
            ).close()
        except (pymysql.err.MySQLError, OSError):
            return False
        return True

    def _failure(self, what: str) -> ServerDidNotStart:
        lines = self.error_log.read_text(errors="replace").splitlines() if self.error_log.exists() else []
        tail = "\n".join(f"  | {line}" for line in lines[-_LOG_TAIL_LINES:])
        advice = "or set DATABASE_URL to use a server that runs already."
        return ServerDidNotStart(
            f"{what}. The end of {self.error_log}:\n{tail}\nPut that right, start with another DATA_DIR, {advice}"
        )


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pids(lock: IO[str]) -> tuple[int, int]:
    lock.seek(0)
    words = lock.read().split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else (0, 0)


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether `pid` has ended, and only its parent has not taken notice yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _serves(pid: int, folder: Path) -> bool:
    """Whether `pid` is a server of this folder and not another program that was given the number later."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"--datadir={folder / 'data'}".encode() in arguments


def _free_port(preferred: int) -> int:
    for candidate in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerDidNotStart("No port is free on 127.0.0.1.")
