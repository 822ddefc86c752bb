"""Secrets: the key of a run; and those in text that is kept, removed from URLs or recognized by their form.

By the key the processes of a run prove to each other that they belong to it. It is kept only in their environment,
which no other user can read.
"""

from __future__ import annotations

import re
import secrets

KEY = "UNIPOOL_DIST_KEY"
"""The variable that has the key, the same for all processes of a run."""
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s'\"<>]*)")
_NAME = re.compile(
    r"TOKEN|SECRET|PASS|PWD|CRED|KEY|AUTH|COOKIE|SESSION|JWT|PRIVATE|SIGNATURE|DSN|WEBHOOK|CONNECTION|CERT|(^|_)PAT(_|$)",
    re.IGNORECASE,
)
_ISSUED = re.compile(
    r"\b(hf_|gh[pousr]_|github_pat_|glpat-|sk-|pk-|xox[abprs]-|AKIA|ASIA|AIza|ya29\.|npm_|pypi-|dckr_pat_|eyJ)[\w.=-]{8,}"
    r"|-----BEGIN "
)
"""Beginnings of tokens issued by well-known services."""
_LONG = re.compile(r"[\w+/=.~-]{24,}")
_DEVICE = re.compile(r"(GPU|MIG)-[0-9a-f-]+(/\d+/\d+)?", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Return ``text`` with user, password, query and fragment removed from every URL, as all may hold a secret."""
    return _URL.sub(lambda match: match[1] + _public(match[2]), text)


def names_a_secret(name: str) -> bool:
    """Return whether a variable of this name is likely to hold a secret."""
    return _NAME.search(name) is not None


def looks_secret(value: str) -> bool:
    """Return whether ``value`` looks like a secret: a token issued by a service, or one long random word."""
    if _ISSUED.search(value):
        return True
    if not _LONG.fullmatch(value) or value.startswith(("/", ".", "~")) or _DEVICE.fullmatch(value):
        return False
    return any(char.isdigit() for char in value) and any(char.isalpha() for char in value)


def _public(rest: str) -> str:
    """Return host, port and path of what follows ``scheme://``. A password may contain ``/`` and ``@``."""
    host = rest.rpartition("@")[2] if "@" in rest else rest
    return re.split(r"[?#]", host, maxsplit=1)[0] + ("?..." if re.search(r"[?#]", host) else "")


def new_key() -> str:
    """Return a key that nobody can guess."""
    return secrets.token_hex(32)
