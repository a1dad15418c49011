"""The embedded WebBuddy's tokens, as SimpleJWT makes and judges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import jwt

if TYPE_CHECKING:
    from trio_worker.testing.state import Account
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["BadTokenError", "Signer"]

KEY = "the embedded WebBuddy signs its tokens with this; it protects nothing"


class BadTokenError(Exception):
    """The token is not good; the text is SimpleJWT's."""


@attrs.define
class Signer:
    """Issues tokens and reads them back."""

    webbuddy: WebBuddy
    key: str = attrs.field(default=KEY, repr=False)
    _last_id: int = attrs.field(default=0, init=False)
    _expired_up_to: dict[str, int] = attrs.field(factory=dict, init=False)
    _blacklist: set[str] = attrs.field(factory=set, init=False)

    def issue(self, account: Account, kind: str) -> str:
        """Sign an ``access`` or ``refresh`` token.

        Times are cut to whole seconds, so that a token lives up to a second less than its
        lifetime; SimpleJWT does the same.
        """
        lifetime = getattr(self.webbuddy, f"{kind}_lifetime")
        self._last_id += 1
        now = self.webbuddy.now()
        claims = {
            "token_type": kind,
            "exp": int(now + lifetime),
            "iat": int(now),
            # Counted, so that "all tokens up to here" can be expired without keeping them.
            "jti": f"{self._last_id:032x}",
            "user_id": str(account.id),
        }
        return jwt.encode(claims, self.key, "HS256")

    def read(self, token: str, kind: str) -> dict[str, Any]:
        """Give a token's claims.

        Raises:
            BadTokenError: When it is not a good token of this kind.
        """
        claims = self._decode(token)
        if claims.get("exp", 0) <= self.webbuddy.now() or self._was_expired(claims):
            raise BadTokenError("Token is expired")
        if "token_type" not in claims:
            raise BadTokenError("Token has no type")
        if claims["token_type"] != kind:
            raise BadTokenError("Token has wrong type")
        if claims.get("jti") in self._blacklist:
            raise BadTokenError("Token is blacklisted")
        return claims

    def blacklist(self, claims: dict[str, Any]) -> None:
        """Refuse this token from now on: it was exchanged for a new one."""
        self._blacklist.add(claims["jti"])

    def expire(self, kind: str) -> None:
        """End all tokens of this kind that are out."""
        self._expired_up_to[kind] = self._last_id

    def _decode(self, token: str) -> dict[str, Any]:
        # PyJWT would compare `exp` with the real time; ours may be virtual.
        try:
            return jwt.decode(token, self.key, ["HS256"], options={"verify_exp": False, "verify_iat": False})
        except jwt.InvalidTokenError:
            raise BadTokenError("Token is invalid") from None

    def _was_expired(self, claims: dict[str, Any]) -> bool:
        try:
            number = int(claims["jti"], 16)
        except (KeyError, ValueError):
            return False  # not one of ours: the key is public
        return number <= self._expired_up_to.get(claims.get("token_type", ""), 0)
