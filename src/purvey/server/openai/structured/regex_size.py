"""How large a regular expression is once its counted repetitions are written out.

What enforces an expression does work in proportion to that, so it is bounded before anything is
compiled. Whether the expression is one at all is found out by compiling it.
"""

import re

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidSchemaError

_VERBOSE = re.compile(r"\(\?[A-Za-z-]*x")
_COUNTED = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")
_ESCAPE = re.compile(r"\\(?:[pPxuU]\{[^}]*\}|.)", re.DOTALL)
_MANY_DIGITS = 9


def check_regex(pattern: str, param: str) -> None:
    """Make sure that a regular expression is small.

    Raises:
        InvalidSchemaError: It is too long, or becomes too long; names `param`.
    """
    if len(pattern) > LIMITS.regex_chars:
        message = f"a regular expression has at most {LIMITS.regex_chars} characters."
        raise InvalidSchemaError(message, param=param)
    if _VERBOSE.search(pattern):
        raise InvalidSchemaError("the flag x is not supported.", param=param)
    if (size := written_out(pattern)) > LIMITS.regex_positions:
        raise InvalidSchemaError(
            f"written out, its repetitions make {size} characters; at most "
            f"{LIMITS.regex_positions} are taken.",
            param=param,
            hint="Use * or + instead of large counts.",
        )


def written_out(pattern: str) -> int:
    """Count the characters and classes of an expression whose `{n,m}` are written out."""
    outer: list[int] = []
    total = last = at = 0
    while at < len(pattern):
        char = pattern[at]
        end = at + 1
        if char == "(":
            outer.append(total)
            total = last = 0
        elif char == ")":
            last = max(total, 1)
            total = last + (outer.pop() if outer else 0)
        elif counted := _COUNTED.match(pattern, at):
            times = max(_number(counted[1]), _number(counted[2]))
            total += last * (times - 1) if times else 0
            last *= max(times, 1)
            end = counted.end()
        elif char not in "*+?|^$":
            last, end = 1, _end_of_one(pattern, at)
            total += 1
        at = end
    return total + sum(outer)


def _end_of_one(pattern: str, at: int) -> int:
    """Return where a character, an escape or a class ends."""
    if found := _ESCAPE.match(pattern, at):
        return found.end()
    if pattern[at] != "[":
        return at + 1
    depth, place = 1, at + 1
    while place < len(pattern) and depth:
        if pattern[place] == "\\":
            place += 2
            continue
        depth += {"[": 1, "]": -1}.get(pattern[place], 0)
        place += 1
    return place


def _number(digits: str | None) -> int:
    if not digits:
        return 0
    digits = digits.lstrip("0")
    return 10**_MANY_DIGITS if len(digits) > _MANY_DIGITS else int(digits or 0)
