"""A real PostgreSQL and a real Redis on free ports of the loopback, each with a folder of its own, for tests.

    with PostgresServer() as postgres, RedisServer() as redis:
        Product(folder, model, environment={"DATABASE_URL": postgres.new_database(), "REDIS_URL": redis.url})

Both come from the system: Debian's packages `postgresql` and `redis-server`. `missing()` says what isn't there.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg

from tests.product import wait_for

START_SECONDS = 60.0
STOP_SECONDS = 20.0
SERVER_USER = "postgres"
"""initdb and postgres refuse to run as root; Debian's package makes this user."""


def postgres_folder() -> Path | None:
    """Where the newest installed PostgreSQL has its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def missing() -> list[str]:
    """What is not installed of the two."""
    lacks_redis = shutil.which("redis-server") is None
    return [*(["postgresql"] if postgres_folder() is None else []), *(["redis-server"] if lacks_redis else [])]


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server:
    """A program in the foreground, with a folder that goes with it."""

    def __init__(self, prefix: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))  # not pytest's, into which another user may not look
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def command(self) -> list[str]:
        """What is run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it does."""
        raise NotImplementedError

    def start(self) -> None:
        """Starts it, at the port that it had before."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        def ready() -> bool:
            assert self._process is not None
            said = (self.folder / "server.log").read_text(errors="replace")
            assert self._process.poll() is None, f"{type(self).__name__} ended:\n{said[-2000:]}"
            return self.answers()

        wait_for(f"the {type(self).__name__}", ready, START_SECONDS)

    def stop(self) -> None:
        """Ends it at once; its data stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Ends it and takes its folder away."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgresServer(_Server):
    """A PostgreSQL without a password, which keeps nothing through a loss of power."""

    def __init__(self) -> None:
        super().__init__("pilothouse-postgres-")
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, SERVER_USER)
            group = pwd.getpwnam(SERVER_USER).pw_gid
            self._as_user = ["setpriv", f"--reuid={SERVER_USER}", f"--regid={group}", "--clear-groups"]
        self._databases = 0
        programs = postgres_folder()
        assert programs is not None, "PostgreSQL isn't installed (Debian: apt install postgresql)"
        self.programs = programs
        make = [str(programs / "initdb"), "-D", str(self.folder / "data"), "-U", "pilothouse", "-A", "trust"]
        subprocess.run(
            [*self._as_user, *make, "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"], check=True, capture_output=True,
            cwd=self.folder,
        )  # fmt: skip

    def command(self) -> list[str]:
        """The server, on this port alone, without waiting for disks."""
        options = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", "fsync": "off",
            "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200",
        }  # fmt: skip
        said = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [*self._as_user, str(self.programs / "postgres"), "-D", str(self.folder / "data"), *said]

    def url(self, name: str = "postgres") -> str:
        """The address of one of its data bases."""
        return f"postgresql://pilothouse@127.0.0.1:{self.port}/{name}"

    def answers(self) -> bool:
        """Whether it lets somebody in."""
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def new_database(self, template: str = "template1") -> str:
        """Makes an empty data base, or a copy of one that nobody uses; returns its address."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


class RedisServer(_Server):
    """A Redis that keeps nothing."""

    def __init__(self) -> None:
        super().__init__("pilothouse-redis-")

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """The server, on this port alone."""
        said = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        return ["redis-server", *said, "--dir", str(self.folder)]

    def answers(self) -> bool:
        """Whether it says PONG."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
