"""Runs every benchmark: `python -m benchmarks [--quick]`."""

from __future__ import annotations

import sys

from benchmarks import planning, routing


def main() -> int:
    quick = "--quick" in sys.argv
    routing.run(2_000 if quick else 20_000)
    sys.argv = [sys.argv[0], "--tasks", "10000" if quick else "100000"]
    return planning.main()


if __name__ == "__main__":
    sys.exit(main())
