"""Users: the people who chat."""

from __future__ import annotations

from peewee import Value, fn

from hopper_data.chat.models import User
from hopper_data.errors import IntegrityError
from hopper_data.fields import fold_case
from hopper_data.model import normalize_row
from hopper_data.repository import Repository

__all__ = ["UserRepository"]


class UserRepository(Repository[User]):
    """The people who chat. An email belongs to one of them, whatever its case."""

    model = User

    def get_by_email(self, email: str, /) -> User | None:
        """The user with an email, whatever its case, or None."""
        folded = Value(fold_case(User.email.comparable(email)), converter=False)
        return self._first(self._select().where(fn.LOWER(User.email) == folded))

    def get_by_subject_id(self, subject_id: str, /) -> User | None:
        """The user whom the identity provider knows as `subject_id`, or None."""
        found = self.filter({"subject_id": subject_id}, limit=1)
        return found[0] if found else None

    def get_or_create_from_claims(self, subject_id: str, email: str) -> User:
        """The user whom a token is about: made when unknown, and with the token's email.

        Calling it again changes nothing, also when several callers do it at once.
        `IntegrityError` when the email belongs to another user.
        """
        row = normalize_row(User, {"subject_id": subject_id, "email": email})
        known = self._known(row["subject_id"], row["email"])
        if known is not None:
            return known
        try:
            with self._explaining([row], new=True):
                return self._upsert(row, {"email"}, [User.subject_id])
        except IntegrityError:
            # PostgreSQL may find the email taken by the same user, whom another caller just made.
            known = self._known(row["subject_id"], row["email"])
            if known is None:
                raise
            return known

    def _known(self, subject_id: str, email: str) -> User | None:
        found = self.filter({"subject_id": subject_id, "email": email}, limit=1)
        return found[0] if found else None
