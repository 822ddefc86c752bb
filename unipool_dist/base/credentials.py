"""Secrets in text that is to be kept: those in URLs are taken out, and what looks like one is recognized."""

from __future__ import annotations

import re

_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s'\"<>]*)")
_NAME = re.compile(
    r"TOKEN|SECRET|PASS|PWD|CRED|KEY|AUTH|COOKIE|SESSION|JWT|PRIVATE|SIGNATURE|DSN|WEBHOOK|CONNECTION|CERT|(^|_)PAT(_|$)",
    re.IGNORECASE,
)
_ISSUED = re.compile(
    r"\b(hf_|gh[pousr]_|github_pat_|glpat-|sk-|pk-|xox[abprs]-|AKIA|ASIA|AIza|ya29\.|npm_|pypi-|dckr_pat_|eyJ)[\w.=-]{8,}"
    r"|-----BEGIN "
)
"""How the best known services begin theirs."""
_LONG = re.compile(r"[\w+/=.~-]{24,}")
_DEVICE = re.compile(r"(GPU|MIG)-[0-9a-f-]+(/\d+/\d+)?", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Return ``text`` with every URL in it less user, password, query and fragment, all of which may hold a secret."""
    return _URL.sub(lambda match: match[1] + _public(match[2]), text)


def names_a_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return _NAME.search(name) is not None


def looks_secret(value: str) -> bool:
    """Whether ``value`` has the form of a secret: one that a service has issued, or one long random word."""
    if _ISSUED.search(value):
        return True
    if not _LONG.fullmatch(value) or value.startswith(("/", ".", "~")) or _DEVICE.fullmatch(value):
        return False
    return any(char.isdigit() for char in value) and any(char.isalpha() for char in value)


def _public(rest: str) -> str:
    """Of what follows ``scheme://``: host, port and path. A password may hold ``/`` and ``@``."""
    host = rest.rpartition("@")[2] if "@" in rest else rest
    return re.split(r"[?#]", host, maxsplit=1)[0] + ("?..." if re.search(r"[?#]", host) else "")
