"""Tokens: who may read and who may train. Only their hashes are kept; a token is shown once, when it is made."""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256

from dateshard.service.jobs.database import Database
from dateshard.shardstore.errors import NotThereError, shorten

SCOPES = ("read", "train")  # train may read as well
PREFIX = "dateshard_"  # so that scanners for leaked secrets know one when they see it


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as it is kept: its id, which is no secret, what it may, and what it is for."""

    id: str
    scope: str
    name: str
    created: float


class Tokens:
    """The tokens in the service's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def make(self, scope: str, name: str = "") -> tuple[str, str]:
        """Makes a token; returns (id, token). The token is known nowhere else."""
        assert scope in SCOPES, "the command line and the first start name one of them"
        token, identity = PREFIX + secrets.token_urlsafe(32), secrets.token_hex(4)
        sql = "INSERT INTO tokens(id, hash, scope, name, created) VALUES(?,?,?,?,?)"
        self.database.changed(sql, (identity, _hash(token.encode()), scope, name, time.time()))
        return identity, token

    def scope(self, given: bytes) -> str | None:
        """What a token may; None of one that is not known. Every hash is compared, each in constant time."""
        hashed, scope = _hash(given), None
        for row in self.database.rows("SELECT hash, scope FROM tokens"):
            if hmac.compare_digest(bytes(row["hash"]), hashed):
                scope = str(row["scope"])
        return scope

    def all(self) -> list[TokenRow]:
        """All tokens, the oldest first."""
        return [
            TokenRow(*row) for row in self.database.rows("SELECT id, scope, name, created FROM tokens ORDER BY created")
        ]

    def revoke(self, identity: str) -> None:
        """Makes a token worthless at once.

        Raises:
            NotThereError: there is none of that id.
        """
        if not self.database.changed("DELETE FROM tokens WHERE id = ?", (identity,)):
            raise NotThereError(f"there is no token '{shorten(identity)}'", todo="token list shows all ids")


def _hash(token: bytes) -> bytes:
    """A token has 256 random bits: a fast hash of it cannot be turned back."""
    return sha256(token).digest()
