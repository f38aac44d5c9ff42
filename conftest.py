"""What all tests share, those in the documents included.

README.md and docs/*.md are tests: their Python blocks run from top to bottom.

Each document begins in an empty folder of its own, without a setting in the environment, as a
newcomer does. Blocks of shell, configuration and output are for people alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# The same examples for everybody; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("steady", derandomize=True)
settings.load_profile("steady")

documents = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    fixtures=["document_folder"],
)
pytest_collect_file = documents.pytest()


@pytest.fixture(scope="module")
def document_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that a document runs in."""
    from hopper_data.database import proxy

    folder = tmp_path_factory.mktemp("document")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "HOPPER_ENV", "HOPPER_SLOW_QUERY_MS"):
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        yield folder
        proxy.initialize(None)
