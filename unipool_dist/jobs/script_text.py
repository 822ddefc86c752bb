"""How values are written into a batch script: as one word of the shell, as one option of sbatch, or not at all.

bash expands the script, and sbatch reads its ``#SBATCH`` lines by rules of its own: an option ends at a space or ``#``
outside quotes, and sbatch stops reading at the first line that is not a comment.
"""

from __future__ import annotations

import re
import shlex

from unipool_dist.base.printable import printable
from unipool_dist.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./\[\]*&|!()~^{}-]+")
"""Options that sbatch takes without quotes."""
_MAX_OPTION_BYTES = 4096
"""Half of sbatch's limit."""


class Verbatim(str):
    """Text that goes into a script unchanged: a part of the script, not a value."""


def as_word(value: object) -> str:
    """Return ``value`` as one word of the shell, unless it is :class:`Verbatim`; for every ``{{ }}`` of a template.

    Raises:
        ConfigError: it contains what no script can: a NUL, or an unpaired surrogate.
    """
    if isinstance(value, Verbatim):
        return value
    text = str(value)
    if "\0" in text or text.encode("utf-8", "replace").decode() != text:
        raise ConfigError(f"{printable(text)[:200]}: a batch script can hold no such value")
    return shlex.quote(text)


def sbatch_option(option: str) -> Verbatim:
    """Return ``option``, such as ``--account=lab``, as sbatch reads it in a ``#SBATCH`` line: quoted where need be.

    Raises:
        ConfigError: it contains a newline or another control character, which quotes cannot keep, or is too long.
    """
    name, equals, value = option.partition("=")
    if printable(option) != option:
        raise ConfigError(f"{printable(name)}={printable(value)}: an option of sbatch has no control characters")
    if len(option.encode()) > _MAX_OPTION_BYTES:
        raise ConfigError(f"{name[:80]}={value[:80]}...: an option of sbatch has at most {_MAX_OPTION_BYTES} bytes")
    if _PLAIN.fullmatch(option):
        return Verbatim(option)
    if not equals or not _PLAIN.fullmatch(name):
        return Verbatim(_quoted(option))
    return Verbatim(f"{name}={_quoted(value)}")


def one_option(text: str) -> list[str]:
    """Return the words of one option of sbatch as a user wrote it: ``--comment="two words"``, or ``-p gpu``.

    Raises:
        ConfigError: it is not an option, or more than one.
    """
    try:
        words = shlex.split(text) if printable(text) == text else []
    except ValueError:  # a quote is not closed
        words = []
    with_value = len(words) == 2 and "=" not in words[0] and not words[1].startswith("-")
    if not words or not words[0].startswith("-") or not (len(words) == 1 or with_value):
        raise ConfigError(
            f"{printable(text)}: give one option in each item, as on the command line; a value with spaces in quotes: "
            f'--comment="two words"'
        )
    return words


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
