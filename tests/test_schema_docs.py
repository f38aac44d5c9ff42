"""docs/schema.md: made from the models, and complete as real databases see it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate_schema import FILE, described, main, render
from hopper_data import dump_schema
from hopper_data.database import Database
from hopper_data.maintenance import all_models


@pytest.fixture(scope="module")
def page() -> str:
    return FILE.read_text(encoding="utf-8")


def test_the_page_is_what_the_models_say(page: str) -> None:
    assert page == render(), "docs/schema.md is stale: make docs"


def test_every_model_has_a_section_and_a_place_in_the_diagram(page: str) -> None:
    for model in all_models():
        assert f"\n{model.__name__}: " in page
    assert page.count("```mermaid\nerDiagram\n") == len({m.__module__ for m in all_models()})


def test_the_page_names_all_that_a_database_has(page: str, database: Database) -> None:
    words = set(re.findall(r"[\w.]+", page))
    models = {model._meta.table_name for model in all_models()}
    for name, table in dump_schema(database).items():
        assert name in words
        # The foreign keys of side tables have no names of their own.
        constraints = table["constraints"] if name in models else ()
        items = [*table["columns"], *constraints, *table["indexes"], *table["triggers"]]
        missing = {item for item in items if re.fullmatch(r"\w+", item)} - words
        assert not missing, name


def test_the_diagram_is_of_the_form_that_mermaid_reads(page: str) -> None:
    for diagram in re.findall(r"```mermaid\nerDiagram\n(.*?)```", page, re.DOTALL):
        for line in diagram.splitlines():
            assert re.fullmatch(
                r" {4}\w+ \{| {4}\}"
                r"| {8}[\w()]+ \w+( (PK|FK|UK)(, (PK|FK|UK))*)?"
                r"| {4}\w+ (\|o|\|\|)--o[|{] \w+ : \w+",
                line,
            ), line


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE OR REPLACE FUNCTION touch() RETURNS trigger", "function `touch`"),
        ("CREATE INDEX IF NOT EXISTS a ON b (c)", None),
        ("CREATE INDEX IF NOT EXISTS a ON other (c)", "index `a` on other `(c)`"),
        ("CREATE TRIGGER t BEFORE UPDATE ON b FOR EACH ROW", "trigger `t` before update on b"),
        ('ALTER TABLE "b" ADD COLUMN IF NOT EXISTS c text', "column `c` (`text`)"),
    ],
)
def test_statements_are_told_in_words(statement: str, words: str | None) -> None:
    assert described(statement, "b") == words


def test_a_stale_page_is_found_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "schema.md"
    monkeypatch.setattr("docs.generate_schema.FILE", stale)
    assert main(["--check"]) == 1
    stale.write_text("old")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_the_generator_runs_as_a_script() -> None:
    subprocess.run([sys.executable, FILE.with_name("generate_schema.py"), "--check"], check=True)
