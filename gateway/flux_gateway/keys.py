"""API keys, stored as digests, and the limits of each caller."""

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
    """The owner of a key, or an address.

    name: for logs. per_minute: maximum generations per minute; 0 for no limit. priority: maximum priority.
    """

    name: str
    per_minute: float = 0.0
    priority: int = limits.MAX_PRIORITY


class Keys:
    """Callers by the digest of their key. Without keys, every request is accepted, and each address is a caller."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        """callers: by the SHA-256 digest of their key, in hexadecimal."""
        self._callers = dict(callers)

    def caller(self, headers: Mapping[str, str], address: str) -> Caller:
        """Return the caller of a request. headers: with lower-case names. Raises Refusal: 401, unknown key."""
        if not self._callers:
            return Caller(address)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(key)
        found = None
        for known, caller in self._callers.items():
            # Compare with all keys, each in constant time, so that the duration reveals nothing.
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Refusal(401, "the API key is missing or unknown; send it as `Authorization: Bearer KEY`")
        return found

    @classmethod
    def from_file(cls, file: Path | None) -> Keys:
        """Read the keys. file: a JSON list of objects as `new_key` returns them. Raises CannotStart: invalid file."""
        if file is None:
            return cls({})
        try:
            entries = json.loads(file.read_text())
            callers = {}
            for entry in entries:
                digest = entry.pop("sha256")
                if len(bytes.fromhex(digest)) != 32:
                    raise ValueError("sha256 is not a SHA-256 digest in hexadecimal")
                callers[digest.lower()] = Caller(**entry)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CannotStart(f"{file}: expected a list of keys as `flux-gateway key` prints them: {error}") from error
        if not callers:
            raise CannotStart(f"{file}: expected at least one key")
        return cls(callers)


def new_key(name: str) -> tuple[str, dict[str, object]]:
    """Return a new key and its entry for the key file."""
    key = f"flux-{secrets.token_urlsafe(32)}"
    return key, {"sha256": _digest(key), **asdict(Caller(name))}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
