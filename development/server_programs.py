"""The programs of a private database server: finding them, installing them, and how each wants to be called.

Two flavours. "mariadb" is what the distribution offers (its `mariadbd`, or a `mysqld` where that is what
is installed); "mysql" is a real MySQL 9, unpacked from Debian's unstable suite into a folder and run from there,
so that the system's own packages stay as they are.
"""

import fcntl
import getpass
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Flavour = Literal["mariadb", "mysql"]
Report = Callable[[str], None]

MYSQL_HOME = Path(__file__).resolve().parents[1] / ".local" / "mysql9"
"""Where MySQL 9 is unpacked once (330 MB), for all data folders."""
INSTALL_TIMEOUT_SECONDS = 600
_MULTIARCH = {
    "x86_64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "aarch64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
_ADVICE = "or set DATABASE_URL=mysql://user:password@host:port to use a MySQL or MariaDB server that runs already."


class ServerNotInstalled(Exception):
    """There is no database server to start, and none can be installed from here; the message says what to do."""


@dataclass(frozen=True)
class ServerProgram:
    """How to call one database server."""

    command: tuple[str, ...]
    is_mariadb: bool

    def initialise_command(self, data_folder: Path) -> list[str]:
        """What makes a new, empty data folder."""
        if self.is_mariadb:
            # --force: make it even where the machine's own name can't be looked up; no account depends on that.
            options = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={getpass.getuser()}"]
            program = [_require("mariadb-install-db"), "--no-defaults", "--force", "--skip-test-db"]
            return [*program, f"--datadir={data_folder}", *options, *_user_option()]
        return [*self.command, f"--datadir={data_folder}", "--initialize-insecure", *_user_option()]

    def serve_command(self, options: Sequence[str]) -> list[str]:
        """What runs the server; `options` are those that both flavours understand."""
        own = [] if self.is_mariadb else ["--mysqlx=OFF", "--log-error-verbosity=2"]
        return [*self.command, *options, *own, *_user_option()]

    def redo_log_option(self, mib: int) -> str:
        """The option for `mib` MiB of redo log."""
        return f"--innodb-log-file-size={mib}M" if self.is_mariadb else f"--innodb-redo-log-capacity={mib}M"


def ensure_installed(flavour: Flavour, report: Report = lambda _: None) -> ServerProgram:
    """Find the server of this flavour; install it through apt if it is missing and we are root.

    Raises:
        ServerNotInstalled: it is missing and can't be installed.
    """
    if flavour == "mysql":
        return _unpacked_mysql(report)
    found = _find_installed()
    if found is None:
        # Never the package mariadb-server: installing it stops every MariaDB that runs on the machine.
        _apt_install(["mariadb-server-core", "mariadb-client-core"], "a database server", report)
        found = _find_installed()
    if found is None:
        raise ServerNotInstalled(f"mariadbd is still not there after its installation. Install it by hand, {_ADVICE}")
    return found


def _find_installed() -> ServerProgram | None:
    for name in ("mariadbd", "mysqld"):
        path = _which(name)
        if path is None:
            continue
        version = subprocess.run([path, "--no-defaults", "--version"], capture_output=True, text=True, check=False)
        is_mariadb = "MariaDB" in version.stdout
        if version.returncode == 0 and (not is_mariadb or _which("mariadb-install-db")):
            return ServerProgram((path, "--no-defaults"), is_mariadb)
    return None


def _unpacked_mysql(report: Report) -> ServerProgram:
    machine = os.uname().machine
    if machine not in _MULTIARCH:
        raise ServerNotInstalled(f"MySQL 9 can't be unpacked for {machine}: choose the flavour mariadb, {_ADVICE}")
    triplet, loader = _MULTIARCH[machine]
    if not (MYSQL_HOME / "usr/sbin/mysqld").exists():
        _unpack_mysql(report)
    libraries = MYSQL_HOME / "usr/lib" / triplet
    path = ":".join(
        str(folder) for folder in (libraries, libraries / "mysql/private", MYSQL_HOME / "usr/lib/mysql/private")
    )
    command = (
        str(libraries / loader), "--library-path", path, str(MYSQL_HOME / "usr/sbin/mysqld"), "--no-defaults",
        f"--basedir={MYSQL_HOME / 'usr'}", f"--plugin-dir={MYSQL_HOME / 'usr/lib/mysql/plugin'}", "--secure-file-priv=",
    )  # fmt: skip
    return ServerProgram(command, is_mariadb=False)


def _unpack_mysql(report: Report) -> None:
    MYSQL_HOME.parent.mkdir(parents=True, exist_ok=True)
    with (MYSQL_HOME.parent / "mysql9.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (MYSQL_HOME / "usr/sbin/mysqld").exists():
            return
        if not _which("mmdebstrap"):
            _apt_install(["mmdebstrap"], "mmdebstrap, which unpacks MySQL 9", report)
        report(f"unpacking MySQL 9 into {MYSQL_HOME} (330 MB, once)")
        fresh = MYSQL_HOME.with_name("mysql9.new")
        shutil.rmtree(fresh, ignore_errors=True)
        packages = "--include=base-files,mysql-server-core"
        options = ["--mode=chrootless", "--variant=extract", packages, '--aptopt=Acquire::Check-Valid-Until "false"']
        _run([_require("mmdebstrap"), *options, "sid", str(fresh), _debian_mirror()], "unpacking MySQL 9")
        fresh.rename(MYSQL_HOME)


def _debian_mirror() -> str:
    """The mirror that this machine's apt uses for Debian itself."""
    listing = subprocess.run(
        [_require("apt-get"), "indextargets", "--format", "$(CREATED_BY) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listing.stdout.splitlines():
        kind, _, uri = line.partition(" ")
        if kind == "Packages" and uri.rstrip("/").endswith("/debian"):
            return uri
    raise ServerNotInstalled(f"apt names no Debian mirror to take MySQL 9 from: choose the flavour mariadb, {_ADVICE}")


def _apt_install(packages: list[str], what: str, report: Report) -> None:
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or _which("apt-get") is None:
        raise ServerNotInstalled(f"This needs {what}. As root, run\n  {by_hand}\n{_ADVICE}")
    report(f"installing {', '.join(packages)} (apt)")
    # Another program may be installing something; two of them can't at once.
    waiting = ["-o", f"DPkg::Lock::Timeout={INSTALL_TIMEOUT_SECONDS // 2}"]
    install = ["apt-get", *waiting, "install", "-y", "-qq", "--no-install-recommends", *packages]
    try:
        _run(install, by_hand)
    except ServerNotInstalled:
        _run(["apt-get", "update", "-qq"], "apt-get update")
        _run(install, by_hand)


def _run(command: list[str], what: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            timeout=INSTALL_TIMEOUT_SECONDS,
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        output = str(getattr(error, "stderr", "") or "") or str(error)
        raise ServerNotInstalled(f"{what} failed:\n{output[-2000:].rstrip()}\nPut that right, {_ADVICE}") from error


def _require(name: str) -> str:
    path = _which(name)
    if path is None:
        raise ServerNotInstalled(f"{name} is not installed. Install it by hand, {_ADVICE}")
    return path


def _which(name: str) -> str | None:
    # The folders of administrators' programs are not on everyone's PATH.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


def _user_option() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
