"""From what was typed, and the environment, to flags and their values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2prc.cli.compatibility.flags import BY_WORD, FLAGS
from p2prc.cli.failures import UsageOfP2prc

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""What Go takes for a truth value."""


@dataclass(slots=True)
class Typed:
    """The flags that were typed, by their long names; a switch has the value `true`."""

    values: dict[str, str] = field(default_factory=dict)
    home: str | None = None
    is_json: bool = False


def is_old_flag(word: str) -> bool:
    """Whether a word is a flag of P2PRC's."""
    return word.startswith("-") and _name(word) in BY_WORD


def is_of_p2prc(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a command line is one of P2PRC's: its flags, or nothing but its variables."""
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--home":
            words = words[1:]
        elif word != "--json" and not word.startswith("--home="):
            return is_old_flag(word)
    if arguments:
        return False
    found = from_environment(environment)
    if not found:
        return False
    from p2prc.cli.compatibility.translation import is_action  # noqa: PLC0415 - hardly ever so

    return any(is_action(name) for name in found)


def read(words: Sequence[str]) -> Typed:
    """Return what was typed; raise `UsageOfP2prc` for what is no flag or lacks its value."""
    typed = Typed()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--json":
            typed.is_json = True
            continue
        name, equals, value = _name(word), "=" in word, word.partition("=")[2]
        if word.startswith("-") and name == "home":
            typed.home = value if equals else _next(rest, "--home")
            continue
        flag = BY_WORD.get(name) if word.startswith("-") else None
        if flag is None:
            raise UsageOfP2prc(_unexpected(word))
        if flag.takes_value:
            value = value if equals else _next(rest, flag.typed)
            if not value:
                raise UsageOfP2prc(f"`{flag.typed}` needs a value")
        elif equals and value not in _TRUE | _FALSE:
            raise UsageOfP2prc(f"`{flag.typed}` is `true` or `false`, not `{value[:80]}`")
        if flag.takes_value:
            typed.values[flag.name] = value
        elif not equals or value in _TRUE:
            typed.values[flag.name] = "true"
    return typed


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the flags that the environment sets; a switch that is no truth value sets none.

    Names like `ID` and `SERVER` are other programs' as well, so what is strange is not for us.
    """
    found = {}
    for flag in FLAGS:
        value = environment.get(flag.variable, "") if flag.variable else ""
        if flag.takes_value and value:
            found[flag.name] = value
        elif value in _TRUE:
            found[flag.name] = "true"
    return found


def _name(word: str) -> str:
    stripped = word[1:]
    return stripped.removeprefix("-").partition("=")[0]


def _next(rest: list[str], flag: str) -> str:
    # Go would take the next flag for the value, and do something that nobody meant.
    if not rest or (rest[0].startswith("-") and len(rest[0]) > 1):
        raise UsageOfP2prc(f"`{flag}` needs a value")
    return rest.pop(0)


def _unexpected(word: str) -> str:
    if word.startswith("-"):
        return f"`{word[:80]}` is no flag of P2PRC's: those and our own do not mix"
    return f"`{word[:80]}` is one word too many: a flag of P2PRC's takes at most one value"
