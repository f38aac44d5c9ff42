"""A shell command for each task, which gets the task without any text of it becoming shell code.

The fields of the task are in the command's environment and, as one JSON document, on its standard
input. `{id}` in the command stands for a reference to the environment, never for the value.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import IO, Any

from hopper_data.errors import ValidationError
from hopper_data.routing.models import Task
from hopper_data.routing.worker import GiveBack, Worker

__all__ = ["CommandFailed", "ShellHandler", "ShellWorker", "with_references"]

_LONGEST_VALUE = 100_000  # Linux allows 128 KiB for one
_KEPT_LINES = 20
_LOOK_S = 0.2
_LAST_WORDS_S = 5.0
_GRACE_TO_END_S = 60.0
_FIELDS = frozenset(field.name for field in Task._meta.sorted_fields)
_TOKENS = re.compile(
    r"""(?P<escape>\\.)|(?P<single>'[^']*'?)|(?P<double>"(?:\\.|[^"\\])*"?)|(?P<field>\{\w+\})""",
    re.DOTALL,
)
_PLACE = re.compile(r"\{(\w+)\}")
_PROGRAM = re.compile(r"(\s-\w*[ce]|\beval\b[^;&|]*|\b(ssh|su|xargs)\b[^;&|]*)\s*$")


class CommandFailed(Exception):
    """A command ended with another exit code than 0."""


def with_references(command: str) -> str:
    """A shell command in which each `{field}` refers to the environment, as one word.

    It is refused inside single quotes, and in a program for another interpreter such as that of
    `sh -c "…"`, which would run the value.
    """

    def replace(match: re.Match[str]) -> str:
        if match.lastgroup in ("single", "double"):
            program = _PROGRAM.search(command[: match.start()])
            if match.lastgroup == "double" and not program:
                return _PLACE.sub(lambda place: _reference(place, "{}"), match[0])
            for name in _PLACE.findall(match[0]):
                if name in _FIELDS:
                    raise ValidationError(
                        f"{{{name}}} stands inside quotes; write it outside of them, or use the "
                        f'variable there: "${variable(name)}"',
                        "exec",
                    )
        elif match.lastgroup == "field":
            return _reference(match, '"{}"')
        return match[0]

    if "\0" in command or not command.strip():
        raise ValidationError("the command is empty, or no text; --exec 'command {id}'", "exec")
    return _TOKENS.sub(replace, command)


def _reference(place: re.Match[str], form: str) -> str:
    name = place[0][1:-1]
    return form.format(f"${{{variable(name)}}}") if name in _FIELDS else place[0]


def variable(field: str) -> str:
    """The environment variable that holds a field of the task."""
    return f"HOPPER_TASK_{field.upper()}"


def environment(task: Task, owner: str) -> dict[str, str]:
    """What the command finds in its environment.

    Lists and the like are JSON; what is empty is an empty text; what is too long is left out.
    """
    result = {"HOPPER_WORKER": owner}
    for name, value in task.to_dict().items():
        plain = isinstance(value, str)
        text = "" if value is None else value if plain else json.dumps(value, ensure_ascii=False)
        if len(os.fsencode(text)) <= _LONGEST_VALUE:
            result[variable(name)] = text
    return result


def _inherited() -> dict[str, str]:
    """Our own environment, without what a worker has put there that has started us."""
    return {k: v for k, v in os.environ.items() if not k.startswith("HOPPER_TASK_")}


class ShellHandler:
    """Handles each task by a command, in a process group of its own.

    Exit code 0 completes the task; a last line of output that is a JSON object is its feedback.
    Any other code fails it, with the end of what the command wrote to standard error. A command
    whose worker stops may end within `grace_s`, and is ended then; so is one whose lease is lost.
    """

    worker: Worker
    """Set by the worker that it belongs to."""

    def __init__(self, command: str, grace_s: float, output: IO[str]) -> None:
        self.line = with_references(command)
        self.grace_s = grace_s
        self.output = output
        self._running: set[subprocess.Popen[bytes]] = set()

    def __call__(self, task: Task) -> Any:
        """Run the command for one task; the feedback that it printed, or None."""
        process = subprocess.Popen(  # noqa: S603  # the operator's own, who may run anything
            ["/bin/sh", "-c", self.line],
            env={**_inherited(), **environment(task, self.worker.owner)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._running.add(process)
        try:
            output, errors = self._attend(process, task)
        finally:
            self._running.discard(process)
        if process.returncode:
            code = process.returncode
            ended = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
            raise CommandFailed("\n".join([ended, *errors]))
        return _feedback(output)

    def _attend(
        self, process: subprocess.Popen[bytes], task: Task
    ) -> tuple[deque[str], deque[str]]:
        document = json.dumps(task.to_dict(), ensure_ascii=False).encode()
        output, errors = _Echo(process.stdout, self.output), _Echo(process.stderr, sys.stderr)
        _in_background(_feed, process.stdin, document)
        deadline: float | None = None
        while True:
            try:
                process.wait(_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if self.worker.stopping and deadline is None:
                    deadline = time.monotonic() + self.grace_s
                late = deadline is not None and time.monotonic() >= deadline
                if late or not self.worker.holds(task):
                    end_group(process)
                    raise GiveBack from None
        return output.end(), errors.end()

    def end_all(self) -> None:
        """End all commands that are still running."""
        for process in list(self._running):
            end_group(process)


class ShellWorker(Worker):
    """A worker whose commands have ended before their tasks are given back."""

    def __init__(self, handler: ShellHandler, owner: str, **options: Any) -> None:
        # The handler keeps to its grace; what is added is for ending the commands.
        super().__init__(owner, grace=handler.grace_s + _GRACE_TO_END_S, **options)
        self.handler = handler
        handler.worker = self

    def abandon(self) -> None:
        """End the commands, before somebody else can take their tasks."""
        self.handler.end_all()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask a command and what it has started to end, and end what does not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _in_background(function: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _feed(stream: Any, document: bytes) -> None:
    with suppress(OSError):  # it does not read
        stream.write(document)
    with suppress(OSError):
        stream.close()


class _Echo:
    """Passes on what a command prints, and keeps its last lines."""

    def __init__(self, stream: Any, target: IO[str]) -> None:
        self._stream = stream
        self._target = target
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._thread = _in_background(self._read)

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                text = line.decode("utf-8", "replace")
                self._lines.append(text.rstrip("\r\n"))
                with suppress(OSError, ValueError):
                    self._target.write(text)
                    self._target.flush()

    def end(self) -> deque[str]:
        # What the command has left running may hold the stream open.
        self._thread.join(_LAST_WORDS_S)
        return self._lines


def _feedback(lines: deque[str]) -> Any:
    with suppress(IndexError, ValueError):
        found = json.loads(lines[-1])
        if isinstance(found, dict):
            return found
    return None
