"""Reads the small XML of routers: values by the path of their elements, no more than needed.

A router's XML is a stranger's: whatever declares a document type, and so could name entities
(external ones, or ones that grow), is refused before any of it is expanded; depth, number of
elements and length of texts are bounded. The standard library's parser, without a tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from p2prc.errors import WireError

DEPTH_LIMIT = 32
ELEMENTS_LIMIT = 4096
TEXT_LIMIT = 4096


@dataclass(slots=True)
class Element:
    """An element: its name without namespace, its text, its children."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def value(self, name: str) -> str:
        """Return the text of a child, "" when there is none."""
        return next((each.text.strip() for each in self.children if each.name == name), "")

    def every(self, name: str) -> list[Element]:
        """Return all elements below with the name, in order."""
        found = [self] if self.name == name else []
        for child in self.children:
            found += child.every(name)
        return found

    def leaves(self) -> dict[str, str]:
        """Return the texts of all elements below that have no children, by name."""
        if not self.children:
            return {self.name: self.text}
        return {name: text for each in self.children for name, text in each.leaves().items()}


def read_xml(content: bytes) -> Element:
    """Return the outermost element; raise WireError."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise WireError(f"not XML: {error}") from error
    return reader.root.children[0]


class _Reader:
    def __init__(self) -> None:
        self.root = Element("")
        self._open = [self.root]
        self._count = 0

    def start(self, name: str, _: dict[str, str]) -> None:
        self._count += 1
        if self._count > ELEMENTS_LIMIT or len(self._open) > DEPTH_LIMIT:
            raise WireError("XML of more elements than a router needs")
        element = Element(name.rpartition(":")[2])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        element = self._open[-1]
        if len(element.text) + len(text) > TEXT_LIMIT:
            raise WireError("XML with a text longer than a router needs")
        element.text += text


def _refuse(*_: object) -> None:
    raise WireError("XML that declares a document type")
