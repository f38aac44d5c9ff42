"""What people type into a search box, as a query of FTS5 and as a `tsquery`.

`"exact phrase"`, `-without`, `or` between alternatives, `prefix*`. Words stand for AND. A word of
three letters or more also finds the words that begin with it; inside quotation marks, and after a
minus, it finds itself alone. Case and accents do not count. Whatever does not fit is a word or
nothing: no text is an error, and a text without a word that is wanted finds nothing.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

__all__ = ["SearchQuery", "parse_search"]

_MAX_CHARACTERS = 2000
_MAX_TERMS = 50
_MAX_WORD = 100
_MIN_PREFIX = 3
_TOKEN = re.compile(r'(?P<minus>-?)(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))(?P<star>\*?)')
_WORD = re.compile(r"[^\W_]+")
_ACCENT = re.compile("[\u0300-\u036f]")


@dataclass(frozen=True)
class Term:
    """Words that follow each other; with `prefix` the last one may go on."""

    words: tuple[str, ...]
    prefix: bool

    def fts5(self) -> str:
        """The term in the language of FTS5."""
        text = " ".join(self.words)
        return f'"{text}"*' if self.prefix else f'"{text}"'

    def tsquery(self) -> str:
        """The term in the language of `to_tsquery`."""
        quoted = [f"'{word}'" for word in self.words]
        if self.prefix:
            quoted[-1] += ":*"
        return "(" + " <-> ".join(quoted) + ")"


@dataclass
class Group:
    """Terms that must all be there, and terms that must not."""

    wanted: list[Term] = field(default_factory=list)
    unwanted: list[Term] = field(default_factory=list)


@dataclass(frozen=True)
class SearchQuery:
    """A query that finds what meets one of its groups."""

    groups: tuple[Group, ...]

    def __bool__(self) -> bool:
        return bool(self.groups)

    def fts5(self) -> str:
        """The right side of MATCH."""
        return " OR ".join(_fts5_group(group) for group in self.groups)

    def tsquery(self) -> str:
        """The argument of `to_tsquery('simple', …)`."""
        return " | ".join(
            "("
            + " & ".join(
                [term.tsquery() for term in group.wanted]
                + [f"!{term.tsquery()}" for term in group.unwanted]
            )
            + ")"
            for group in self.groups
        )


def _fts5_group(group: Group) -> str:
    wanted = " AND ".join(term.fts5() for term in group.wanted)
    unwanted = " OR ".join(term.fts5() for term in group.unwanted)
    return f"(({wanted}) NOT ({unwanted}))" if unwanted else f"({wanted})"


def parse_search(text: str) -> SearchQuery:
    """The query that a text stands for. Never an error; falsy when it wants no word."""
    groups = [Group()]
    terms = 0
    pending_or = False
    for match in _TOKEN.finditer(text[:_MAX_CHARACTERS]):
        if match["word"] and match["word"].lower() == "or" and not match["minus"]:
            pending_or = bool(groups[-1].wanted)
            continue
        term = _term(match)
        if term is None:
            continue
        terms += 1
        if terms > _MAX_TERMS:
            break
        if pending_or and not match["minus"]:
            groups.append(Group())
        pending_or = False
        (groups[-1].unwanted if match["minus"] else groups[-1].wanted).append(term)
    return SearchQuery(tuple(group for group in groups if group.wanted))


def _term(match: re.Match[str]) -> Term | None:
    source = match["word"] if match["phrase"] is None else match["phrase"]
    words = words_of(source)
    if not words:
        return None
    starred = bool(match["star"]) or source.endswith("*")
    plain = match["phrase"] is None and not match["minus"] and len(words[-1]) >= _MIN_PREFIX
    cut = len(words[-1]) == _MAX_WORD
    return Term(words, starred or plain or cut)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text as the indexes see them: without case, accents and punctuation."""
    plain = _ACCENT.sub("", unicodedata.normalize("NFKD", text)).lower()
    return tuple(word[:_MAX_WORD] for word in _WORD.findall(plain))
