"""The part of Go's template language that P2PRC's playbooks use: `{{index . 0}}` is a port.

Ansible's own braces look the same. What is none of Go's is left to Ansible as it stands; Go itself
would refuse it, so playbooks for P2PRC write `{{"{{"}}` for Ansible's, which is understood as well.
The language: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from p2prc.errors import InvalidInput

_ACTION = re.compile(
    r"""\{\{(?P<trim_left>-(?=\s))?\s*
    (?P<body>`[^`]*`|"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|.*?)
    (?P<trim_right>(?<=\s)-|)?\}\}""",
    re.VERBOSE | re.DOTALL,
)
_INDEX = re.compile(r"\(?\s*index\s+[.$]\s+(\d{1,6})\s*\)?")
_COUNT = re.compile(r"\(?\s*len\s+[.$]\s*\)?")
_KEYWORD = re.compile(
    r"(range|if|with|end|else|define|template|block|break|continue)(\s+[.$(\w\"]|$)"
)


def ports_needed(text: str) -> int:
    """Return how many ports the text names: one more than its highest index."""
    indices = (_INDEX.fullmatch(match["body"].strip()) for match in _ACTION.finditer(text))
    return max((int(found[1]) + 1 for found in indices if found), default=0)


def fill_in(text: str, ports: Sequence[int]) -> str:
    """Return the text with its ports. Raises InvalidInput with the line of what cannot be."""
    pieces: list[str] = []
    position = 0
    trims_next = False
    for match in _ACTION.finditer(text):
        value = _value(match["body"].strip(), ports, line=text.count("\n", 0, match.start()) + 1)
        before = text[position : match.start()]
        before = before.lstrip() if trims_next else before
        if value is None:
            pieces += [before, match[0]]
            trims_next = False
        else:
            pieces += [before.rstrip() if match["trim_left"] else before, value]
            trims_next = bool(match["trim_right"])
        position = match.end()
    rest = text[position:]
    return "".join([*pieces, rest.lstrip() if trims_next else rest])


def _value(body: str, ports: Sequence[int], *, line: int) -> str | None:
    """Return what an action stands for; None for one that is not Go's."""
    if found := _INDEX.fullmatch(body):
        number = int(found[1])
        if number >= len(ports):
            raise InvalidInput(
                f"line {line} of `site.yml` names port {number}, and there are {len(ports)}",
                hint="`NumOfPorts` in the plugin's `ports.json` says how many it needs",
            )
        return str(ports[number])
    if _COUNT.fullmatch(body):
        return str(len(ports))
    if body.startswith("/*"):
        return ""
    if len(body) > 1 and body[0] == body[-1] == "`":
        return body[1:-1]
    if len(body) > 1 and body[0] == body[-1] == '"' and body.count('"') == 2:
        return _unquoted(body, line)
    if _KEYWORD.match(body):
        raise InvalidInput(
            f"line {line} of `site.yml` has `{body[:40]}`, and of Go's templates only `index`, "
            "`len` and texts are known",
            hint="write the ports one by one: `{{index . 0}}`",
        )
    return None


def _unquoted(body: str, line: int) -> str:
    try:
        return str(json.loads(body))
    except ValueError as error:
        raise InvalidInput(f"line {line} of `site.yml` has a text that cannot be read") from error
