"""What runs have measured, kept as JSON beside the page, so that a part can be measured again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.claims import Rates
from benchmarks.drawing import STYLES
from benchmarks.imports import Import
from benchmarks.measuring import Measured
from benchmarks.planning import Planned
from benchmarks.sources import Kind
from benchmarks.upkeep import Upkeep

Curves = dict[str, dict[str, dict[int, float]]]


@dataclass
class Results:
    """All that was measured; `size` is how many tasks the tables are about."""

    size: int
    servers: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    claims: list[Rates] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    planning: list[Planned] = field(default_factory=list)
    upkeep: list[Upkeep] = field(default_factory=list)
    kind: Kind | None = None  # of the real tasks, where there were some

    def of(self, backend: str, *, real: bool = False) -> list[Measured]:
        """What was measured at the main size, on made-up or on real tasks."""
        wanted = (backend, self.size, real)
        return [line for line in self.measured if (line.backend, line.size, line.real) == wanted]

    def claims_of(self, backend: str, *, real: bool = False) -> list[Rates]:
        """The claims of tables of the main size."""
        wanted = (backend, self.size, real)
        return [line for line in self.claims if (line.backend, line.size, line.real) == wanted]

    def curves(self, backend: str) -> Curves:
        """Times by operation, contender and size, of what was measured at several sizes."""
        titles = {line.key: line.title for line in self.of(backend)}
        found: Curves = {}
        for line in self.measured:
            if line.backend == backend and line.key in titles and not line.real:
                curves = found.setdefault(titles[line.key], {})
                for name, seconds in line.seconds.items():
                    curves.setdefault(name, {})[line.size] = seconds
        for rates in self.claims:
            if rates.backend == backend and not rates.real:
                curves = found.setdefault(f"{rates.title}: a task", {})
                for name in rates.rates.keys() & STYLES.keys():
                    rate = rates.rates[name]
                    curves.setdefault(name, {})[rates.size] = 1 / rate
        return {title: each for title, each in found.items() if len(each["driver"]) > 1}

    def updated(self, newer: Results) -> Results:
        """These, where `newer` has not measured the same again."""

        def both(name: str, *identity: str) -> list[Any]:
            lines = [*getattr(self, name), *getattr(newer, name)]
            return list(
                {tuple(getattr(line, each) for each in identity): line for line in lines}.values()
            )

        return Results(
            self.size,
            {**self.servers, **newer.servers},
            both("measured", "backend", "size", "key", "real"),
            both("claims", "backend", "size", "title", "real"),
            both("imports", "module"),
            both("planning", "backend"),
            both("upkeep", "backend"),
            newer.kind or self.kind,
        )

    def save(self, path: Path) -> None:
        """Write all as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save()` has written."""
        data = json.loads(path.read_text())
        return cls(
            data["size"],
            data["servers"],
            [Measured(**line) for line in data["measured"]],
            [Rates(**line) for line in data["claims"]],
            [Import(**line) for line in data["imports"]],
            [Planned(**line) for line in data["planning"]],
            [Upkeep(**line) for line in data["upkeep"]],
            Kind(**data["kind"]) if data.get("kind") else None,
        )
