"""What all commands share: their help, options, exit codes, and how errors look."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import hopper_data
from hopper_data import create_database
from hopper_data.cli import data as data_commands
from hopper_data.cli.main import main
from hopper_data.cli.output import cell, size
from hopper_data.session import open_session

COMMANDS = {
    "demo": [],
    "migrate": [],
    "rollback": [],
    "status": [],
    "check": [],
    "seed": [],
    "reset": ["--yes"],
    "import": ["-"],
    "export": ["out.jsonl"],
    "stats": [],
    "worker": ["--exec", "true", "--until-empty"],
    "queue": [],
    "tail": [],
    "plan": ["tree"],
    "info": [],
    "health": [],
}
READING = ["status", "check", "export", "stats", "queue", "tail", "info", "health"]
NEEDING_TABLES = ["seed", "import", "export", "stats", "worker", "queue", "tail"]


def run(*args: str, **options: Any) -> Result:
    result = CliRunner().invoke(main, args, **options)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in (0, 1, 2)
    return result


def failed(result: Result, code: int = 1) -> str:
    """The one line that a failure is."""
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of database that lives on between two commands."""
    return str(request.param)


@pytest.fixture
def empty_url(kind: str, make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database without tables; the environment names it."""
    url = make_url(kind, migrated=False)
    monkeypatch.setenv("DATABASE_URL", url)
    return url


# -- help -----------------------------------------------------------------------------------------


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.exit_code == 0
    assert result.stdout == run("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "-h")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: hopper-data {name}")
    for option in ("--url", "--json", "-v, --verbose"):
        assert option in result.stdout


def test_the_list_of_commands_is_complete() -> None:
    assert set(main.commands) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_line_of_a_help_fits(name: str) -> None:
    text = main.commands[name].get_short_help_str(200)
    assert len(text) <= 62
    assert text.endswith(".")


def test_the_version_is_told() -> None:
    result = run("--version")
    assert (result.exit_code, hopper_data.__version__ in result.stdout) == (0, True)


# -- options --------------------------------------------------------------------------------------


def test_options_stand_before_and_behind_the_command() -> None:
    behind = run("migrate", "--url", "sqlite:///a.db", "--json")
    before = run("--url", "sqlite:///b.db", "--json", "migrate")
    one, other = json.loads(behind.stdout), json.loads(before.stdout)
    assert (one["url"], other["url"]) == ("sqlite:///a.db", "sqlite:///b.db")
    assert one["steps"] == other["steps"] != []


def test_the_nearer_option_counts() -> None:
    result = run("--url", "sqlite:///far.db", "migrate", "--url", "sqlite:///near.db")
    assert result.exit_code == 0
    assert Path("near.db").is_file()
    assert not Path("far.db").exists()


def test_the_url_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///environment.db")
    run("migrate")
    run("migrate", "--url", "sqlite:///option.db")
    assert Path("environment.db").is_file()
    assert Path("option.db").is_file()
    assert not Path("hopper.db").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_with_json_standard_output_is_json(name: str) -> None:
    run("migrate")
    run("seed")
    result = run(name, *COMMANDS[name], "--json")
    assert result.exit_code == 0
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stderr == ""


def test_verbose_logs_statements_on_stderr() -> None:
    result = run("migrate", "-vv")
    assert result.exit_code == 0
    assert "CREATE TABLE" in result.stderr
    assert "CREATE TABLE" not in result.stdout
    assert run("status").stderr == ""
    assert logging.getLogger("hopper_data").handlers == []


def test_a_slow_query_is_no_news_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPPER_SLOW_QUERY_MS", "0")
    run("migrate")
    assert run("stats").stderr == ""
    assert "slow query" in run("stats", "-v").stderr


# -- wrong use ------------------------------------------------------------------------------------

WRONG = {
    "frobnicate": "No such command 'frobnicate'",
    "migrate --nope": "No such option",
    "migrate 001_routin": "there is no migration '001_routin'; did you mean '001_routing'?",
    "migrate head tail": "unexpected extra argument",
    "rollback --count 0": "0 is not in the range x>=1",
    "rollback --count x": "'x' is not a valid integer",
    "seed --tasks -1": "-1 is not in the range x>=0",
    "import": "Missing argument 'FILE'",
    "import nope.jsonl": "'nope.jsonl': No such file",
    "export .": "is a directory",
    "reset": "add --yes to do it",
    "status --url nonsense": "is not a database URL",
    "status --url mysql://x/y": "scheme 'mysql' is not a database URL; accepted are sqlite:///",
    "demo --url sqlite:///x.db": "name it by --database PATH",
    "demo --database .": "is a directory",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_one_line_and_code_2(line: str) -> None:
    assert WRONG[line] in failed(run(*line.split()), 2)
    assert list(Path.cwd().iterdir()) == []


def test_a_wrong_environment_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPPER_ENV", "prod")
    assert "HOPPER_ENV 'prod' is not one of" in failed(run("status"), 2)
    monkeypatch.setenv("HOPPER_ENV", "production")
    assert "DATABASE_URL is not set" in failed(run("status"), 2)


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*READING, "seed", "import", "rollback"])
def test_a_file_that_is_not_there_is_not_made(name: str) -> None:
    error = failed(run(name, *COMMANDS[name]))
    assert "hopper.db does not exist" in error
    assert name == "health" or "; `hopper-data migrate` makes one" in error
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made() -> None:
    error = failed(run("migrate", "--url", "sqlite:///no/such/x.db"))
    assert "the folder" in error
    assert "does not exist" in error


@pytest.mark.parametrize("name", NEEDING_TABLES)
def test_a_database_without_tables_says_what_to_do(name: str, empty_url: str) -> None:
    run("migrate", "base")
    error = failed(run(name, *COMMANDS[name]))
    assert "is not migrated yet: run `hopper-data migrate`" in error
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("name", NEEDING_TABLES)
def test_a_database_that_lags_behind_says_what_to_do(name: str) -> None:
    run("migrate")
    run("rollback")
    error = failed(run(name, *COMMANDS[name]))
    assert "run `hopper-data migrate`" in error


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("demo", "health")])
def test_a_newer_database_is_refused(name: str) -> None:
    run("migrate")
    with open_session(create_database("sqlite:///hopper.db")) as session:
        session.execute(
            "INSERT INTO migratehistory (name, migrated_at) VALUES ('999_future', '2030-01-01')"
        )
    error = failed(run(name, *COMMANDS[name]))
    assert "'999_future'" in error
    assert "install the version of hopper_data that wrote it" in error


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_a_server_that_is_not_there_is_one_line_without_a_password(name: str) -> None:
    url = "postgresql://mira:s3cret@127.0.0.1:1/hopper"
    result = run(name, *COMMANDS[name], "--url", url)
    assert "Connection refused" in failed(result)
    assert "s3cret" not in result.output
    logged = run(name, *COMMANDS[name], "--url", url, "-vv")
    assert "s3cret" not in logged.output


def test_a_file_that_is_no_database_is_one_line() -> None:
    Path("hopper.db").write_text("This is not a database, but it is long enough. " * 100)
    for name in READING:
        failed(run(name, *COMMANDS[name]))


def test_a_mistake_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any, **_options: Any) -> None:
        raise KeyError("oh\nno")

    run("migrate")
    monkeypatch.setattr(data_commands, "seed_database", broken)
    assert failed(run("seed")).startswith("error: unexpected KeyError: ")
    assert "Traceback" in run("seed", "-v").stderr


def test_to_be_interrupted_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    run("migrate")
    monkeypatch.setattr(data_commands, "seed_database", interrupted)
    result = run("seed")
    assert (result.exit_code, result.output.strip()) == (1, "")


def test_without_standalone_mode_nothing_is_caught() -> None:
    with pytest.raises(hopper_data.ValidationError):
        main.main(["status", "--url", "nonsense"], standalone_mode=False)


# -- cells ----------------------------------------------------------------------------------------


def test_a_cell_does_not_steer_the_terminal() -> None:
    assert cell("\x1b[31mred\x1b[0m\nnext\u202edne\x07").plain == " [31mred [0m next dne "
    assert cell("[bold]brackets[/] :smile:").plain == "[bold]brackets[/] :smile:"
    assert [cell(value).plain for value in (None, 0, 12345, True)] == ["-", "0", "12,345", "True"]


def test_sizes_are_for_people() -> None:
    shown = [size(number) for number in (0, 999, 1000, 1_500_000, 2_000_000_000, 5 * 10**12)]
    assert shown == ["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "2.0 GB", "5,000.0 GB"]


def test_rich_and_click_are_imported_by_the_command_line_alone() -> None:
    import subprocess

    script = (
        "import sys, hopper_data, hopper_data.seeding, hopper_data.transfer;"
        "assert not {'rich', 'hopper_data.cli'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
