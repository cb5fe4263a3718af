"""Who asks: API keys, of which only digests are kept, and what each may."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flux_contract import limits
from flux_contract.errors import CannotStart
from flux_gateway.refusals import Refusal


@dataclass(frozen=True)
class Caller:
    """name: for logs. per_minute: generations that it may begin; 0: any number. priority: the highest that it gets."""

    name: str
    per_minute: float = 0.0
    priority: int = limits.MAX_PRIORITY


class Keys:
    """By digest. Where there are none, everybody may come, and each address is a caller of its own."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        """callers: by the SHA-256 of their key, in hexadecimal."""
        self._callers = dict(callers)

    def caller(self, headers: Mapping[str, str], address: str) -> Caller:
        """headers: with small names. Raises Refusal: 401, there is no such key."""
        if not self._callers:
            return Caller(address)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(key)
        found = None
        for known, caller in self._callers.items():
            # All of them, each in constant time: how long it takes tells nothing.
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Refusal(401, "the API key is missing or unknown; send it as `Authorization: Bearer KEY`")
        return found

    @classmethod
    def from_file(cls, file: Path | None) -> Keys:
        """file: a JSON list of objects as `new_key` gives them. Raises CannotStart: it is not."""
        if file is None:
            return cls({})
        try:
            entries = json.loads(file.read_text())
            callers = {}
            for entry in entries:
                digest = entry.pop("sha256")
                if len(bytes.fromhex(digest)) != 32:
                    raise ValueError("sha256 is no SHA-256 in hexadecimal")
                callers[digest.lower()] = Caller(**entry)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CannotStart(f"{file}: expected a list of keys as `flux-gateway key` prints them: {error}") from error
        if not callers:
            raise CannotStart(f"{file}: there is no key in it, so nobody could come in")
        return cls(callers)


def new_key(name: str) -> tuple[str, dict[str, object]]:
    """A key to hand out, and what is kept of it."""
    key = f"flux-{secrets.token_urlsafe(32)}"
    return key, {"sha256": _digest(key), **asdict(Caller(name))}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
