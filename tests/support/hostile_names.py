"""Names and values that would do something if a shell, sbatch or a path took them for more than text."""

from __future__ import annotations

import random
from collections.abc import Iterator

HOSTILE = (
    *("plain", "two words", " ", "tab\there", "a\nb", "a\r\nb", "a\vb", "a\fb", "a\x1cb", "a\x85b", "a\u2028b"),
    *("$(touch PWNED)", "`touch PWNED`", "$(touch${IFS}PWNED)", "`touch${IFS}PWNED`", "${x:=$(touch PWNED)}"),
    *("a\ntouch PWNED\n", "a\r\ntouch PWNED", "x\n#SBATCH --wrap=evil", "x #SBATCH --wrap=evil", "# x\ntouch PWNED"),
    *("'; touch PWNED; '", '"; touch PWNED; "', ";touch PWNED;", "&& touch PWNED", "| touch PWNED", ">PWNED", "<x"),
    *("'$(touch PWNED)'", "\\'; touch PWNED; \\'", "\\", "\\\\", "a\\nb", "\\\n", "'", '"', "`", "''", '""', "$'\\n'"),
    *("-rf", "--help", "-", "--", "-c", "=", "..", "../../../x", "/etc/x", "~", "~root", "*", "?", "[a]", "{a,b}"),
    *("%j%A%x", "%100n", "!x", "!!", "#x", "a#b", "a=b", "a,b", "a:b", "$HOME", "$0", "${PATH}", "$'x'", "a&b"),
    *("{{ 7*7 }}", "{% raw %}", "{# x #}", "%(x)s", "\x1b[31m", "\x07", "\u202eabc", "\U0001f600", "ä ö", "\ud800"),
    *("x" * 300, "x" * 5000),
)
_PIECES = (*HOSTILE[:-2], *"abc $`'\"\\;&|<>(){}[]*?!#~%\n\t", "touch PWNED", "$(", "#SBATCH ")


def hostile_names(seed: int, count: int) -> Iterator[str]:
    """All of :data:`HOSTILE`, and ``count`` that are put together of them and of what means something to a shell."""
    yield from HOSTILE
    draw = random.Random(seed)
    for _ in range(count):
        yield "".join(draw.choices(_PIECES, k=draw.randint(1, 6)))
