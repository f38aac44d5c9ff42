"""The command line as the shell sees it: a process with pipes, signals and terminals."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import run
from tests.test_cli_data import count

PROGRAM = [sys.executable, "-m", "hopper_data.cli"]
PATIENCE_S = 60


def process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *args],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        **options,
    )


def test_the_module_is_the_program() -> None:
    result = process("--version")
    assert (result.returncode, result.stdout[:11]) == (0, "hopper-data")
    assert "Usage: hopper-data migrate" in process("migrate", "--help").stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["demo", "--json"], 0),
        (["status"], 1),
        (["health", "--url", "postgresql://u:s3cret@127.0.0.1:1/x"], 1),
        (["frobnicate"], 2),
        (["status", "--url", "nonsense"], 2),
    ],
)
def test_a_process_ends_with_one_of_three_codes(args: list[str], code: int) -> None:
    result = process(*args)
    assert result.returncode == code
    assert (result.stderr == "") == (code == 0)
    assert result.stderr.count("\n") == bool(code)


def test_a_reader_that_goes_away_is_no_error() -> None:
    run("migrate")
    run("seed", "--tasks", "2000")
    for args in (["export", "-"], ["stats", "--json"], ["demo"], ["--help"]):
        with subprocess.Popen(
            [*PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.wait(PATIENCE_S) == 1


def test_an_interrupted_import_is_quiet_and_writes_nothing(make_url: Callable[..., str]) -> None:
    url = make_url("sqlite")
    with subprocess.Popen(
        [*PROGRAM, "import", "-", "--url", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        child.stdin.write(b'{"id": "a", "title": "A"}\n' * 10_000)
        child.stdin.flush()
        # It has taken more than a pipe holds, so that it is at work.
        child.send_signal(signal.SIGINT)
        child.stdin.close()
        child.stdin = None
        output, errors = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, output) == (1, b"")
    assert b"Traceback" not in errors
    assert count(url) == 0


def test_a_slow_pipe_keeps_no_other_writer_waiting(make_url: Callable[..., str]) -> None:
    url = make_url("sqlite")
    with subprocess.Popen(
        [*PROGRAM, "import", "-", "--url", url, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        child.stdin.write('{"id": "a", "title": "A"}\n' * 5_000)
        child.stdin.flush()
        assert run("seed", "--url", url).exit_code == 0
        child.kill()


def terminal(*args: str) -> tuple[int, str]:
    """The exit code and the stderr of a program that runs on a terminal."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *args],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    ) as child:
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        child.communicate(timeout=PATIENCE_S)
    os.close(ours)
    return child.returncode, shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are different there")
def test_long_work_shows_a_bar_on_a_terminal(make_url: Callable[..., str]) -> None:
    url = make_url("sqlite")
    code, shown = terminal("seed", "--tasks", "3000", "--url", url, "--json")
    assert (code, "Making up tasks" in shown, "3000/3000" in shown) == (0, True, True)
    code, shown = terminal("export", "out.jsonl", "--url", url)
    assert (code, "Exporting" in shown) == (0, True)
    code, shown = terminal("import", "out.jsonl", "--url", url)
    assert (code, "Importing" in shown) == (0, True)


def test_without_a_terminal_there_is_no_bar(make_url: Callable[..., str]) -> None:
    url = make_url("sqlite")
    result = process("seed", "--tasks", "10", "--url", url, "--json")
    assert result.stderr == ""
    assert json.loads(result.stdout)["added"]["tasks"] == 10


def test_a_terminal_that_lacks_letters_shows_others() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = process("demo", env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    result = process("demo", "--json", env=environment)
    assert result.stdout.isascii()


def test_files_are_utf8_whatever_the_terminal(make_url: Callable[..., str]) -> None:
    url = make_url("sqlite")
    run("seed", "--url", url)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    assert process("export", "out.jsonl", "--url", url, env=environment).returncode == 0
    assert "Refunds over 1,000 €" in Path("out.jsonl").read_text(encoding="utf-8")
    piped = subprocess.run(
        [*PROGRAM, "export", "-", "--url", url],
        env=environment,
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert piped.stdout == Path("out.jsonl").read_bytes()
