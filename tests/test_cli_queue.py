"""The commands for the queue: worker, queue, tail."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from hopper_data import Task, TaskRepository, create_database, run_migrations
from hopper_data.cli.shell import environment, with_references
from hopper_data.database import Database
from hopper_data.errors import ValidationError
from hopper_data.session import open_session
from tests.servers import own_server
from tests.test_cli import failed, run
from tests.test_cli_process import PATIENCE_S, PROGRAM

HOSTILE = (
    "$(touch owned)",
    "`touch owned`",
    "'; touch owned; '",
    '"; touch owned; "',
    "a && touch owned",
    "${HOME} $HOME ~ * ?",
    "-rf / --help",
    "line\nbreak; touch owned",
    "\\",
    "ünï → 漢字",
)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest,
    make_url: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Database]:
    url = make_url(request.param)
    monkeypatch.setenv("DATABASE_URL", url)
    made = create_database(url)
    yield made
    made.close_pool()


def add(database: Database, **fields: Any) -> str:
    with open_session(database) as session:
        return TaskRepository(session).create(**{"title": "Task", **fields}).id


def get(database: Database, id: str) -> Task:
    with open_session(database) as session:
        return TaskRepository(session).get_or_raise(id)


# -- worker ---------------------------------------------------------------------------------------


def test_a_command_completes_a_task(database: Database) -> None:
    made = add(database, title="Say hello")
    result = run(
        "worker", "--exec", "echo did {title}; echo '{\"pages\": 3}'", "--until-empty", "--json"
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["handled"] == 1
    assert "did Say hello" in result.stderr
    task = get(database, made)
    assert (task.status, task.feedback) == ("completed", {"pages": 3})


def test_a_command_that_fails_is_tried_again(database: Database) -> None:
    made = add(database, max_attempts=2)
    result = run("worker", "--exec", "echo no luck >&2; exit 3", "--until-empty")
    assert result.exit_code == 0
    assert "no luck" in result.stderr
    task = get(database, made)
    assert (task.status, task.attempts) == ("pending", 1)
    assert task.last_error == "CommandFailed: exit code 3\nno luck"


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_task_is_ever_run(database: Database, text: str) -> None:
    made = add(database, id=text, title=text, tags=[text], context=text)
    command = (
        "printf '%s' \"{title}\" > title; printf '%s' {id} > id; printf '%s' {tags} > tags; "
        "cat > document"
    )
    assert run("worker", "--exec", command, "--until-empty").exit_code == 0
    assert get(database, made).status == "completed"
    for name in ("title", "id"):
        assert Path(name).read_text() == text
    assert json.loads(Path("tags").read_text()) == [text]
    document = json.loads(Path("document").read_text())
    assert (document["title"], document["status"]) == (text, "claimed")
    assert not Path("owned").exists()


def test_the_task_is_in_the_environment(database: Database) -> None:
    made = add(database, priority="high", description="x" * 200_000)
    run("worker", "--owner", "me", "--exec", "env | grep ^HOPPER > env", "--until-empty")
    shown = dict(line.split("=", 1) for line in Path("env").read_text().splitlines())
    assert shown["HOPPER_WORKER"] == "me"
    assert (shown["HOPPER_TASK_ID"], shown["HOPPER_TASK_PRIORITY"]) == (made, "high")
    assert shown["HOPPER_TASK_PROJECT"] == ""
    assert shown["HOPPER_TASK_LEASE_TOKEN"]
    assert "HOPPER_TASK_DESCRIPTION" not in shown  # too long for an environment


def test_references_are_words_of_the_shell() -> None:
    assert with_references("do {id} --as={title}") == (
        'do "${HOPPER_TASK_ID}" --as="${HOPPER_TASK_TITLE}"'
    )
    assert with_references('echo "a {id} \\" {x}"') == 'echo "a ${HOPPER_TASK_ID} \\" {x}"'
    for same in ("awk '{print $1}'", "echo {a,b} ${HOME} {unknown}", r"echo \{id}", "echo 'it'"):
        assert with_references(same) == same


@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'echo {id}'",
        'bash -ec "echo {id}"',
        'eval "echo {title}"',
        "echo '{id}'",
        "echo '{id}",
    ],
)
def test_a_reference_inside_quotes_is_refused(command: str) -> None:
    with pytest.raises(ValidationError, match="outside") as raised:
        with_references(command)
    assert "HOPPER_TASK_" in str(raised.value)


def test_what_the_environment_holds_is_text() -> None:
    task = Task(id="a", title="t", tags=["x", "ü"], routing_confidence=0.5)
    found = environment(task, "me")
    assert found["HOPPER_TASK_TAGS"] == '["x", "ü"]'
    assert found["HOPPER_TASK_ROUTING_CONFIDENCE"] == "0.5"
    assert found["HOPPER_TASK_OWNER"] == ""


def test_a_worker_takes_what_it_is_told_to(database: Database) -> None:
    mine = add(database, project="web", tags=["a"], required_capabilities=["python"])
    other = add(database, project="api")
    options = ["--project", "web", "--tag", "a", "--capability", "python", "--capability", "sql"]
    run("worker", "--exec", "true", *options, "--until-empty")
    assert get(database, mine).status == "completed"
    assert get(database, other).status == "pending"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--exec"),
        (["--exec", " "], "empty"),
        (["--exec", "echo '{id}'"], "outside"),
        (["--exec", "true", "--lease", "soon"], "length of time"),
        (["--exec", "true", "--lease", "0s"], "lease"),
        (["--exec", "true", "--concurrency", "0"], "concurrency"),
    ],
)
def test_wrong_use_of_the_worker(database: Database, arguments: list[str], words: str) -> None:
    add(database)
    assert words in failed(run("worker", *arguments, "--until-empty"), 2)


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A command that goes on, and its output. It is killed when the test fails, or takes long."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *arguments], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        watch = threading.Timer(PATIENCE_S, process.kill)
        watch.start()
        try:
            yield process, process.stdout
        finally:
            watch.cancel()
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_lets_its_command_end(database: Database, number: int) -> None:
    made, later = add(database, priority="high"), add(database)
    with started("worker", "--exec", "echo begun; sleep 0.5; echo ended") as (process, stream):
        assert stream.readline() == "begun\n"
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (0, "ended\n")
    assert get(database, made).status == "completed"
    assert get(database, later).status == "pending"


def test_a_command_that_does_not_end_is_ended_and_its_task_given_back(database: Database) -> None:
    made = add(database)
    command = "echo $$; sleep 600 & wait"
    with started("worker", "--grace", "0.2s", "--exec", command) as (process, stream):
        group = int(stream.readline())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    task = get(database, made)
    assert (task.status, task.attempts, task.owner) == ("pending", 0, None)
    alive = [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE]
    assert group not in [os.getpgid(p.pid) for p in alive if p.is_running()]


# -- queue ----------------------------------------------------------------------------------------


def test_the_queue_is_shown(database: Database) -> None:
    add(database, project="web", priority="high")
    add(database, depends_on=["nothing"])
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(title="done", priority="urgent")
        (task,) = tasks.claim_next("a")
        tasks.complete(task.id, str(task.lease_token))
        tasks.create(title="held", priority="urgent")
        tasks.claim_next("a")
    data = json.loads(run("queue", "--json").stdout)
    assert (data["ready"], data["waiting"], data["leases_held"]) == (1, 1, 1)
    assert data["completed_last_hour"] == 1
    assert [(row["project"], row["priority"]) for row in data["depth"]] == [
        ("web", "high"),
        (None, "medium"),
    ]
    shown = run("queue").stdout
    for words in ("web", "high", "(none yet)", "1 held, 0 expired", "1 completed, 0 failed"):
        assert words in shown


def test_an_empty_queue_is_shown(database: Database) -> None:
    assert database
    result = run("queue")
    assert result.exit_code == 0
    assert "0 held, 0 expired" in result.stdout


# -- tail -----------------------------------------------------------------------------------------


def test_events_are_shown(database: Database) -> None:
    assert "nothing has happened yet" in run("tail").stdout
    first, second = add(database, priority="high"), add(database)
    run("worker", "--owner", "me", "--exec", "true", "--until-empty")
    assert all(word in run("tail").stdout for word in (first, second, "claimed", "completed", "me"))
    events = json.loads(run("tail", second, "--json").stdout)["events"]
    assert [(event["task_id"], event["to_status"]) for event in events] == [
        (second, "claimed"),
        (second, "completed"),
    ]
    assert len(json.loads(run("tail", "--json", "-n", "3").stdout)["events"]) == 3
    assert json.loads(run("tail", "--json", "-n", "0").stdout)["events"] == []
    assert "does not exist" in failed(run("tail", "none"))


def test_an_event_is_one_line_in_any_terminal(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    made = add(database, id="a" * 50)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        (task,) = tasks.claim_next("somebody with a long name")
        tasks.fail(made, task.lease_token, "no\x1b[2J luck\n" + "x" * 5000, retry_in=0)
        tasks.claim_next("another")
    first, second, third = run("tail").stdout.splitlines()
    assert re.split("  +", first)[1:] == [made, "pending → claimed", "somebody with a long name"]
    assert "claimed → pending" in second
    assert "no" in second
    assert "luck x" in second
    assert second.endswith("…")
    assert "\x1b" not in second
    assert len(second) < 400
    assert "another  attempt 2" in third


def change(database: Database, status: str) -> str:
    """A new task, and an event of it."""
    made = add(database)
    with open_session(database) as session:
        TaskRepository(session).update_status(made, status)
    return made


def test_events_are_followed(database: Database) -> None:
    old = change(database, "claimed")
    with started("tail", "-f", "-n", "1", "--json") as (process, stream):
        assert json.loads(stream.readline())["task_id"] == old
        for _ in range(3):
            new = change(database, "blocked")
            assert json.loads(stream.readline())["task_id"] == new
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


def test_one_task_is_followed(database: Database) -> None:
    mine = change(database, "claimed")
    with started("tail", mine, "-f", "--json") as (process, stream):
        assert json.loads(stream.readline())["to_status"] == "claimed"
        change(database, "blocked")
        with open_session(database) as session:
            TaskRepository(session).update_status(mine, "completed")
        event = json.loads(stream.readline())
        assert (event["task_id"], event["to_status"]) == (mine, "completed")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite has one writer
def test_a_late_transaction_is_followed_too(database: Database) -> None:
    before, early = change(database, "blocked"), add(database)
    with started("tail", "-f", "-n", "1") as (process, stream):
        assert before in stream.readline()
        with open_session(database) as session:
            TaskRepository(session).update_status(early, "claimed")
            other = create_database(database.config)
            late = change(other, "blocked")
            other.close_pool()
            assert late in stream.readline()
        assert early in stream.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def test_a_server_that_goes_away_is_waited_for() -> None:
    with own_server() as server:
        database = create_database(server.url)
        run_migrations(database=database)
        old = change(database, "claimed")
        with started("tail", "-f", "-n", "1", "--json", "--url", server.url) as (process, stream):
            assert json.loads(stream.readline())["task_id"] == old
            server.stop()
            assert process.stderr is not None
            assert process.stderr.readline().startswith("waiting: ")
            server.start()
            new = change(database, "blocked")
            assert json.loads(stream.readline())["task_id"] == new
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        database.close_pool()


@pytest.mark.parametrize("name", ["worker", "queue", "tail"])
def test_the_help_has_examples_on_lines_of_their_own(name: str) -> None:
    lines = run(name, "--help").stdout.splitlines()
    examples = [line for line in lines if line.startswith(f"    hopper-data {name}")]
    assert len(examples) >= 2
    assert not [line for line in lines if "\\b" in line or "\b" in line]


def test_shells_agree() -> None:
    """What the references become is read by a real shell as one word."""
    line = f"{shlex.quote(sys.executable)} -c 'import sys; print(sys.argv[1:])' {{title}} x{{id}}y"
    found = subprocess.run(
        ["/bin/sh", "-c", with_references(line)],
        env={**os.environ, "HOPPER_TASK_TITLE": "a  b*", "HOPPER_TASK_ID": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "['a  b*', 'xy']\n"
