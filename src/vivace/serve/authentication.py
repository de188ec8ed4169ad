"""Who asks: API keys, denied by default on every route but /health and /ready."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from vivace.serve.errors import HttpError, error_response
from vivace.serve.lifecycle import OPEN_PATHS


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who asks. `name` is safe to log and the unit of fairness; `salt` goes into the prefix cache's hashes."""

    name: str
    salt: bytes = field(repr=False)


ANONYMOUS = ApiKey("anonymous", b"")


class KeyRing:
    """The keys that open the server; empty: everybody is `ANONYMOUS`.

    A key's salt is made from a secret of this process, so that nobody can time another key's prompts in the prefix
    cache; `shared_prefix_cache` gives that up and leaves every salt empty.
    """

    def __init__(self, keys: Sequence[str], *, shared_prefix_cache: bool = False) -> None:
        secret = secrets.token_bytes(32)
        self._keys: list[tuple[bytes, ApiKey]] = []
        for number, key in enumerate(keys, 1):
            digest = hashlib.sha256(key.encode()).digest()
            salt = b"" if shared_prefix_cache else hmac.digest(secret, digest, "sha256")[:16]
            self._keys.append((digest, ApiKey(f"key-{number}", salt)))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, presented: bytes) -> ApiKey | None:
        """Compares digests with every key in constant time: the time tells neither which matched nor how much."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


class Authentication:
    """ASGI: sets `request.state.api_key`, or answers 401."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = ANONYMOUS if not self.keys else self._presented(scope["headers"])
        if key is None and scope["path"] not in OPEN_PATHS:
            refusal = HttpError(
                401,
                "send a valid key as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
            await error_response(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        scope["state"]["api_key"] = key or ANONYMOUS
        await self.app(scope, receive, send)

    def _presented(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiKey | None:
        values = [value for name, value in headers if name == b"authorization"]
        if len(values) != 1:
            return None
        scheme, _, token = values[0].partition(b" ")
        return self.keys.find(token.strip()) if scheme.lower() == b"bearer" else None
