"""Many cases of a test in one database, where a database for each would take the time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from hopper_data import Session


def each(names: str, cases: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`pytest.mark.parametrize`, in one session: what a case writes is rolled back after it.

    The test takes `session`, or a repository made of it.
    """
    parts = [name.strip() for name in names.split(",")]
    known = list(cases)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            for case in known:
                values = dict(zip(parts, case if len(parts) > 1 else [case], strict=True))
                try:
                    with _session(fixtures).database.atomic() as scope:
                        test(**fixtures, **values)
                        scope.rollback()
                except BaseException as error:
                    error.add_note(f"in the case {str(values)[:500]}")
                    raise

        signature = inspect.signature(test)
        kept = [item for name, item in signature.parameters.items() if name not in parts]
        run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return run

    return decorate


def _session(fixtures: dict[str, Any]) -> Session:
    for value in fixtures.values():
        found = getattr(value, "session", value)
        if isinstance(found, Session):
            return found
    raise AssertionError("no session among the fixtures")
