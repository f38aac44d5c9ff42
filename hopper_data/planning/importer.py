"""A folder of Markdown task files, taken into the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hopper_data.errors import ValidationError
from hopper_data.model import refuse_transition
from hopper_data.planning.keys import epic_key_of, feature_key_of
from hopper_data.planning.models import Task
from hopper_data.planning.paths import check_inside
from hopper_data.planning.repositories import EpicRepository, FeatureRepository, TaskRepository
from hopper_data.planning.taskfiles import TaskFile, parse_task_file
from hopper_data.session import Session

__all__ = ["ImportReport", "Refusal", "import_folder"]

_SUFFIXES = (".md", ".markdown")
_MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Refusal:
    """A file that was not taken, by its path from the folder, and why."""

    path: str
    reason: str


@dataclass
class ImportReport:
    """What an import did: keys of tasks, epics and features, and the files that it did not take."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    new_epics: list[str] = field(default_factory=list)
    new_features: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many files there were."""
        taken = len(self.new) + len(self.changed) + len(self.unchanged)
        return taken + len(self.refused)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "total": self.total,
            "new": self.new,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "new_epics": self.new_epics,
            "new_features": self.new_features,
            "refused": [{"path": item.path, "reason": item.reason} for item in self.refused],
        }


def import_folder(
    session: Session,
    folder: str | os.PathLike[str],
    *,
    project_root: str | os.PathLike[str] | None = None,
) -> ImportReport:
    """Take in the tasks of all Markdown files of a folder and the folders in it.

    A new task is created, together with its epic and its feature where they do not exist yet,
    whose titles are then their keys. Of a task that is there, what its file says anew is set, and a
    status that the file says must be one that may follow. So a second import changes nothing.
    `file_path` becomes the path of the file from `project_root`, which is the folder itself unless
    given. Files and folders whose names begin with a dot are passed over.

    A file that cannot be taken is reported, and the others are taken nonetheless: one without front
    matter, with a key or a status that is none, with a step that the transitions do not allow, with
    the key of another file. A `ValidationError` when the folder is none.
    """
    where, root = Path(folder), Path(project_root or folder)
    for path, name in ((where, "folder"), (root, "project_root")):
        if not path.is_dir():
            raise ValidationError(f"{path} is not a folder", name)
    return _FolderImport(session, where, root).run()


class _FolderImport:
    def __init__(self, session: Session, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.epics = EpicRepository(session)
        self.features = FeatureRepository(session)
        self.tasks = TaskRepository(session, project_root=root)
        self.report = ImportReport()

    def run(self) -> ImportReport:
        files = self._without_twins(dict(self._read()))
        keys = [file.key for file in files.values()]
        stored = {task.key: task for task in self.tasks.filter({"key__in": keys})}
        new: list[TaskFile] = []
        changes: list[dict[str, Any]] = []
        for path, file in files.items():
            task = stored.get(file.key)
            if task is None:
                new.append(file)
                continue
            try:
                change = _changes(task, file.fields)
            except ValidationError as error:
                self._refuse(path, str(error))
                continue
            (self.report.changed if change else self.report.unchanged).append(file.key)
            changes.extend([{"id": task.id, **change}] if change else [])
        self._create(new)
        self.tasks.bulk_update(changes)
        self.report.refused.sort(key=lambda refusal: refusal.path)
        return self.report

    def _refuse(self, path: str, reason: str) -> None:
        # The name of a file need not be text.
        readable = path.encode(errors="surrogateescape").decode(errors="replace")
        self.report.refused.append(Refusal(readable, reason))

    # -- reading ----------------------------------------------------------------------------------

    def _read(self) -> Iterator[tuple[str, TaskFile]]:
        """The files that can be taken as far as they alone tell, by their paths."""
        for file in self._walk():
            path = file.relative_to(self.folder).as_posix()
            try:
                yield path, self._parse(file)
            except ValidationError as error:
                self._refuse(path, str(error))
            except OSError as error:
                self._refuse(path, f"the file cannot be read: {error.strerror}")

    def _walk(self) -> Iterator[Path]:
        def failed(error: OSError) -> None:
            path = Path(str(error.filename)).relative_to(self.folder).as_posix()
            self._refuse(path, f"the folder cannot be read: {error.strerror}")

        for parent, folders, names in os.walk(self.folder, onerror=failed):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                    yield Path(parent, name)

    def _parse(self, file: Path) -> TaskFile:
        path = Path(os.path.relpath(file, self.root)).as_posix()
        Task.file_path.normalize(path)
        check_inside(path, self.root)
        if not file.is_file():
            raise ValidationError("this is not a file")
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise ValidationError(f"the file has {size:,} bytes; {_MOST_BYTES:,} are the most")
        parsed = parse_task_file(file.read_bytes())
        return TaskFile(parsed.key, {**parsed.fields, "file_path": path})

    def _without_twins(self, files: Mapping[str, TaskFile]) -> dict[str, TaskFile]:
        """The files whose key no other file has; which of several is right, nobody can tell."""
        paths: dict[str, list[str]] = {}
        for path, file in files.items():
            paths.setdefault(file.key, []).append(path)
        for key, same in paths.items():
            for path in same if len(same) > 1 else ():
                others = ", ".join(other for other in same if other != path)
                self._refuse(path, f"task_key {key!r} is in {others}, too")
        return {path: file for path, file in files.items() if len(paths[file.key]) == 1}

    # -- writing ----------------------------------------------------------------------------------

    def _create(self, files: list[TaskFile]) -> None:
        if not files:
            return
        features = self._features({feature_key_of(file.key) for file in files})
        created = self.tasks.bulk_create(
            {"key": file.key, "feature_id": features[feature_key_of(file.key)], **file.fields}
            for file in files
        )
        self.report.new.extend(task.key for task in created)

    def _features(self, keys: set[str]) -> dict[str, int]:
        """The numbers of features by their keys; those that do not exist yet are made."""
        known = {row.key: row.id for row in self.features.filter({"key__in": sorted(keys)})}
        missing = sorted(keys - known.keys())
        epics = self._epics({epic_key_of(key) for key in missing})
        made = self.features.bulk_create(
            {"key": key, "title": key, "epic_id": epics[epic_key_of(key)]} for key in missing
        )
        self.report.new_features.extend(missing)
        return known | {row.key: row.id for row in made}

    def _epics(self, keys: set[str]) -> dict[str, int]:
        known = {row.key: row.id for row in self.epics.filter({"key__in": sorted(keys)})}
        missing = sorted(keys - known.keys())
        made = self.epics.bulk_create({"key": key, "title": key} for key in missing)
        self.report.new_epics.extend(missing)
        return known | {row.key: row.id for row in made}


def _changes(task: Task, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says anew of a task; a `ValidationError` when that may not be."""
    changes = {name: value for name, value in fields.items() if value != task.__data__.get(name)}
    if "created_at" in changes:
        raise ValidationError(
            f"created {fields['created_at']:%Y-%m-%d %H:%M} is not what the task {task.key!r} has, "
            f"{task.created_at:%Y-%m-%d %H:%M}, and created_at never changes",
            "created",
        )
    status = changes.get("status")
    if status is not None and task.status not in Task.status.sources(status):
        raise refuse_transition(Task.status, task.status, status)
    return changes
