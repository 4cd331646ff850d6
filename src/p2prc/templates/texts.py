"""Texts of a template with `{{Name}}` places: what is known is put in, the rest stays.

`{{Task.Param.NAME}}` stays for the coordinator, `{{Session.WorkingDirectory}}` for the node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from p2prc.model.surroundings import WORKING_FOLDER_PLACE
from p2prc.templates.document import Document, Place

RULES_FILE = "pathmapping.json"
_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*\}\}", re.ASCII)
_TASK_PARAMETER = re.compile(r"Task\.(?:Param|RawParam)\.([A-Za-z_][A-Za-z0-9_]{0,63})", re.ASCII)


@dataclass(slots=True)
class Scope:
    """The names that a text may use here, and what they stand for.

    `folder` is where this scope's files are, in the working folder. `used` collects the names.
    """

    document: Document
    values: Mapping[str, str]
    folder: str = ""
    has_tasks: bool = False
    has_session: bool = False
    has_rules: bool = False
    files: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def text(self, given: object, place: Place) -> str:
        """Return a text with the known values in it. Raises `TemplateInvalid`."""
        found = _PLACE.sub(lambda match: self._value(match[1], place), _plain(given))
        if "\0" in found:
            raise self.document.fault(place, "a text with a NUL character")
        return found

    def _value(self, name: str, place: Place) -> str:
        self.used.add(name)
        if name in self.values:
            return self.values[name]
        if name in self.files:
            return f"{WORKING_FOLDER_PLACE}/{self.files[name]}"
        if self.has_tasks and (match := _TASK_PARAMETER.fullmatch(name)):
            return f"{{{{Task.Param.{match[1]}}}}}"
        if self.has_session and (found := self._session_value(name)) is not None:
            return found
        raise self.document.fault(place, f"`{{{{{name[:100]}}}}}` is not known here")

    def _session_value(self, name: str) -> str | None:
        if name == "Session.WorkingDirectory":
            return WORKING_FOLDER_PLACE
        if name == "Session.HasPathMappingRules":
            return "true" if self.has_rules else "false"
        if name == "Session.PathMappingRulesFile":
            return f"{WORKING_FOLDER_PLACE}/{self.folder}/{RULES_FILE}"
        return None

    def integer(self, given: object, place: Place) -> int:
        """Return a number that may be written with places. Raises `TemplateInvalid`."""
        text = self.text(given, place).strip()
        if not re.fullmatch(r"-?[0-9]{1,16}", text, re.ASCII):
            raise self.document.fault(place, f"not an integer: `{text[:60]}`")
        return int(text)

    def amount(self, given: object, place: Place) -> float:
        """Return a number of at least 0 with a fraction perhaps. Raises `TemplateInvalid`."""
        text = self.text(given, place).strip()
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text, re.ASCII):
            raise self.document.fault(place, f"not an amount: `{text[:60]}`")
        return float(text)


def _plain(given: object) -> str:
    """Return a value as its text: YAML reads `5` as a number where a text is meant."""
    if isinstance(given, bool):
        return "true" if given else "false"
    return str(given)
