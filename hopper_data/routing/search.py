"""What people type into a search box, as a query of FTS5 and as a `tsquery`.

`"exact phrase"`, `-without`, `or` between alternatives, `prefix*`. Words stand for AND. A word of
three letters or more also finds the words that begin with it; inside quotation marks, and after a
minus, it finds itself alone. Case does not count, nor do the accents of Latin letters. Whatever
does not fit is a word or nothing: no text is an error, and a text without a word that is wanted
finds nothing.

Both backends must see the same words in the same text. FTS5 comes with SQLite and cannot be taught,
so its tokenizer (`unicode61`, marks taken for letters) is the rule, and what follows says it again:
here for queries, and in `schema.LEXEMES` for PostgreSQL, whose own parser sees other words in
`cmd/show.go`, `2e10f` or `foo@bar.com`, and depends on the locale of the server.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

__all__ = ["ACCENTS", "MAX_WORD", "SPACE", "SearchQuery", "fold_pairs", "parse_search", "words_of"]

MAX_WORD = 100
"""How many characters of a word count."""

ACCENTS = r"\u0300-\u0304\u0306-\u030c\u030f\u0311\u031b\u0323-\u0328\u032d-\u032e\u0330-\u0331"
"""The marks that are ignored, as the inside of a bracket expression of Python and PostgreSQL."""

SPACE = (
    r"\u0000-/:-@\[-`{-\u007f"
    r"\u0080-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7\u02c2-\u02c5"
    r"\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u02ff\u0375\u037e\u0384-\u0385\u0387\u03f6\u0482"
    r"\u055a-\u055f\u0589-\u058a\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u0604\u0606-\u060f\u061b"
    r"\u061e-\u061f\u066a-\u066d\u06d4\u06dd-\u06de\u06e9\u06fd-\u06fe\u0700-\u070f"
    r"\u07f6-\u07f9\u0830-\u083e\u085e\u0964-\u0965\u0970\u09f2-\u09f3\u09fa-\u09fb"
    r"\u0af0-\u0af1\u0b70\u0bf3-\u0bfa\u0c7f\u0d79\u0df4\u0e3f\u0e4f\u0e5a-\u0e5b\u0f01-\u0f17"
    r"\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d\u0f85\u0fbe-\u0fc5\u0fc7-\u0fda"
    r"\u104a-\u104f\u109e-\u109f\u10fb\u1360-\u1368\u1390-\u1399\u1400\u166d-\u166e\u1680"
    r"\u169b-\u169c\u16eb-\u16ed\u1735-\u1736\u17d4-\u17d6\u17d8-\u17db\u1800-\u180a\u180e"
    r"\u1940-\u1945\u19de-\u19ff\u1a1e-\u1a1f\u1aa0-\u1aa6\u1aa8-\u1aad\u1b5a-\u1b6a"
    r"\u1b74-\u1b7c\u1bfc-\u1bff\u1c3b-\u1c3f\u1c7e-\u1c7f\u1cc0-\u1cc7\u1cd3\u1fbd"
    r"\u1fbf-\u1fc1\u1fcd-\u1fcf\u1fdd-\u1fdf\u1fed-\u1fef\u1ffd-\u2064\u206a-\u206f"
    r"\u207a-\u207e\u208a-\u208e\u20a0-\u20b9\u2100-\u2101\u2103-\u2106\u2108-\u2109\u2114"
    r"\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a-\u213b\u2140-\u2144"
    r"\u214a-\u214d\u214f\u2190-\u23f3\u2400-\u244a\u249c-\u24e9\u2500-\u26ff\u2701-\u2775"
    r"\u2794-\u2b4c\u2b50-\u2b59\u2ce5-\u2cea\u2cf9-\u2cfc\u2cfe-\u2cff\u2d70\u2e00-\u2e2e"
    r"\u2e30-\u2e3b\u2e80-\u3004\u3008-\u3020\u3030\u3036-\u3037\u303d-\u303f\u309b-\u309c"
    r"\u30a0\u30fb\u3190-\u3191\u3196-\u319f\u31c0-\u31e3\u3200-\u321e\u322a-\u3247\u3250"
    r"\u3260-\u327f\u328a-\u32b0\u32c0-\u32fe\u3300-\u33ff\u4dc0-\u4dff\ua490-\ua4c6"
    r"\ua4fe-\ua4ff\ua60d-\ua60f\ua673\ua67e\ua6f2-\ua716\ua720-\ua721\ua789-\ua78a"
    r"\ua828-\ua82b\ua836-\ua839\ua874-\ua877\ua8ce-\ua8cf\ua8f8-\ua8fa\ua92e-\ua92f\ua95f"
    r"\ua9c1-\ua9cd\ua9de-\ua9df\uaa5c-\uaa5f\uaa77-\uaa79\uaade-\uaadf\uaaf0-\uaaf1\uabeb"
    r"\ud800-\udfff\ufb29\ufbb2-\ufbc1\ufd3e-\ufd3f\ufdfc-\ufdfd\ufe10-\ufe19\ufe30-\ufe6b"
    r"\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\ufffd\U0001f0c1-\U0001f0df"
    r"\U0001f110-\U0001f12e\U0001f130-\U0001f16b\U0001f170-\U0001f19a\U0001f1e6-\U0001f23a"
    r"\U0001f240-\U0001f251\U0001f300-\U0001f320\U0001f330-\U0001f335\U0001f337-\U0001f37c"
    r"\U0001f380-\U0001f393\U0001f3a0-\U0001f3c4\U0001f3c6-\U0001f3ca\U0001f3e0-\U0001f3f0"
    r"\U0001f400-\U0001f43e\U0001f440\U0001f442-\U0001f4f7\U0001f4f9-\U0001f4fc"
    r"\U0001f500-\U0001f53d\U0001f540-\U0001f543\U0001f550-\U0001f567\U0001f5fb-\U0001f640"
    r"\U0001f645-\U0001f64f\U0001f680-\U0001f6c5\U0001f700-\U0001f773"
)
"""What stands between words: all that FTS5 knows and takes neither for a letter nor for a digit."""

_MAX_CHARACTERS = 2000
_MAX_TERMS = 50
_MIN_PREFIX = 3
# Python compiles these, and keeps them, when they are first used.
_PART = r"""(?x)(?P<minus>-(?=["\w]))?
        (?: "(?P<phrase>[^"]*)"? | (?P<word>[^\s"]+) )
        (?P<star>\*?)"""
_ACCENT = f"[{ACCENTS}]"
_ACCENTED = f"([A-Za-z])[{ACCENTS}]+"
_SPACE = f"[{SPACE}]+"
# Scripts that are written without a blank between words.
_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\uabff\uac00-\ud7ff]"


class Term(NamedTuple):
    """Words that follow each other; with `prefix` the last one may go on.

    `typed` are the words as FTS5 shall fold them itself: it keeps the order of combining marks,
    which Unicode's normal forms change.
    """

    words: tuple[str, ...]
    typed: tuple[str, ...]
    prefix: bool

    def fts5(self) -> str:
        """The term in the language of FTS5."""
        text = " ".join(self.typed)
        return f'"{text}"*' if self.prefix else f'"{text}"'

    def tsquery(self) -> str:
        """The term as a `tsquery`."""
        quoted = [f"'{word}'" for word in self.words]
        if self.prefix:
            quoted[-1] += ":*"
        return "(" + " <-> ".join(quoted) + ")"


class Group(NamedTuple):
    """Terms that must all be there, and terms that must not."""

    wanted: list[Term]
    unwanted: list[Term]

    def fts5(self) -> str:
        """The group in the language of FTS5."""
        wanted = " AND ".join(term.fts5() for term in self.wanted)
        unwanted = " OR ".join(term.fts5() for term in self.unwanted)
        return f"(({wanted}) NOT ({unwanted}))" if unwanted else f"({wanted})"

    def tsquery(self) -> str:
        """The group as a `tsquery`."""
        terms = [term.tsquery() for term in self.wanted]
        terms += [f"!{term.tsquery()}" for term in self.unwanted]
        return "(" + " & ".join(terms) + ")"


class SearchQuery(NamedTuple):
    """A query that finds what meets one of its groups."""

    groups: tuple[Group, ...]

    def __bool__(self) -> bool:
        return bool(self.groups)

    def fts5(self, *columns: str) -> str:
        """The right side of MATCH; with `columns`, for what those alone hold."""
        found = " OR ".join(group.fts5() for group in self.groups)
        return f"{{{' '.join(columns)}}} : ({found})" if columns else found

    def tsquery(self) -> str:
        """The text of a `tsquery`, of words that are lexemes already."""
        return " | ".join(group.tsquery() for group in self.groups)


def parse_search(text: str) -> SearchQuery:
    """The query that a text stands for. Never an error; falsy when it wants no word.

    Of a text that is very long the first 2,000 characters and 50 terms count.
    """
    groups = [Group([], [])]
    terms = 0
    pending_or = False
    for match in re.finditer(_PART, text[:_MAX_CHARACTERS]):
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
            groups.append(Group([], []))
        pending_or = False
        (groups[-1].unwanted if match["minus"] else groups[-1].wanted).append(term)
    return SearchQuery(tuple(group for group in groups if group.wanted))


def _term(match: re.Match[str]) -> Term | None:
    source = match["word"] if match["phrase"] is None else match["phrase"]
    words, typed = words_of(source), _split(re.sub(_ACCENT, "", source))
    if not words or not typed:
        return None
    last = words[-1]
    starred = bool(match["star"]) or source.endswith("*")
    plain = match["phrase"] is None and not match["minus"]
    goes_on = len(last) >= _MIN_PREFIX or re.match(_UNSPACED, last[-1]) is not None
    return Term(words, typed, starred or (plain and goes_on) or len(last) == MAX_WORD)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text as the indexes see them: without case, accents and punctuation."""
    plain = re.sub(_ACCENT, "", text)
    plain = re.sub(_ACCENTED, r"\1", unicodedata.normalize("NFD", plain))
    plain = "".join(map(_fold, unicodedata.normalize("NFC", plain)))
    return _split(plain)


def _split(text: str) -> tuple[str, ...]:
    return tuple(word[:MAX_WORD] for word in re.sub(_SPACE, " ", text).split(" ") if word)


def _fold(character: str) -> str:
    # Some characters would become two, which FTS5 never does; others have no small form to fold to.
    lowered = character.lower()
    lowered = lowered if len(lowered) == 1 else character
    folded = lowered.casefold()
    return folded if len(folded) == 1 and folded.islower() else lowered


_CASED = (
    *range(0xB5, 0x250),
    0x345,
    *range(0x370, 0x530),
    *range(0x531, 0x557),
    *range(0x1E00, 0x2000),
)


def fold_pairs(*, lowercase: bool) -> tuple[str, str]:
    """Characters that are folded, and what each becomes: the lowercase ones, or the others.

    Latin, Greek, Cyrillic and Armenian letters that have no accent to lose.
    """
    pairs = [
        (character, _fold(character))
        for character in map(chr, _CASED)
        if character.islower() == lowercase
        and unicodedata.normalize("NFC", character) == character
        and not unicodedata.normalize("NFD", character)[0].isascii()
    ]
    changed = [(source, target) for source, target in pairs if source != target]
    return "".join(source for source, _ in changed), "".join(target for _, target in changed)
