"""A reader of GraphML graphs, such as those of the Internet Topology Zoo.

Only nodes, edges and their data are read. Files that declare entities are refused: a few
lines of them can grow to gigabytes.
"""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

from msgspec import Struct

MAX_BYTES = 16 << 20
MAX_NODES = 10_000
MAX_EDGES = 100_000


class GraphError(Exception):
    """The text is no GraphML that can be used; says the line where it is known."""


class Node(Struct, frozen=True):
    """A node of the file and its data by attribute name."""

    id: str
    data: dict[str, str]


class Edge(Struct, frozen=True):
    """An edge of the file, directed or not, and its data by attribute name."""

    source: str
    target: str
    data: dict[str, str]


class Graph(Struct, frozen=True):
    """Nodes and edges in the order of the file; every edge's ends exist."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def read_graph(text: str) -> Graph:
    """Return the graph in a GraphML text.

    Raises:
        GraphError: if it is no XML, no GraphML, has no node, or an edge leads nowhere.

    """
    reader = _Reader()
    try:
        reader.parser.Parse(text, True)
    except expat.ExpatError as error:
        raise GraphError(
            f"line {error.lineno}: no XML: {expat.errors.messages[error.code]}"
        ) from None
    known = {node.id for node in reader.nodes}
    if not known:
        raise GraphError("holds no node; a GraphML graph is expected")
    if len(known) < len(reader.nodes):
        raise GraphError("two nodes have the same id")
    for edge in reader.edges:
        if edge.source not in known or edge.target not in known:
            raise GraphError(f"an edge leads from {edge.source!r} to {edge.target!r}: no such node")
    return Graph(tuple(reader.nodes), tuple(reader.edges))


class _Reader:
    """Handlers for the parser; ``data`` belongs to the innermost open node or edge."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._names: dict[str, str] = {}
        self._open: list[dict[str, str] | None] = []
        """Data of the open elements; None where an element is neither node nor edge."""
        self._key: str | None = None

    def _refuse(self, why: str) -> GraphError:
        return GraphError(f"line {self.parser.CurrentLineNumber}: {why}")

    def _doctype(self, *_: Any) -> None:
        raise self._refuse("document types and entities are not allowed")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(" ")[2]
        if not self._open and tag != "graphml":
            raise self._refuse(f"begins with <{tag[:40]}>; <graphml> is expected")
        data: dict[str, str] | None = None
        try:
            if tag == "key":
                self._names[attributes["id"]] = attributes.get("attr.name", attributes["id"])
            elif tag == "node":
                data = {}
                self.nodes.append(Node(attributes["id"], data))
            elif tag == "edge":
                data = {}
                self.edges.append(Edge(attributes["source"], attributes["target"], data))
            elif tag == "data" and self._open[-1] is not None:
                self._key = self._names.get(attributes["key"], attributes["key"])
        except KeyError as missing:
            raise self._refuse(f"<{tag}> has no attribute {missing}") from None
        if len(self.nodes) > MAX_NODES or len(self.edges) > MAX_EDGES:
            raise self._refuse(f"more than {MAX_NODES} nodes or {MAX_EDGES} edges")
        self._open.append(data)

    def _text(self, text: str) -> None:
        if self._key is not None:
            # The data belongs to the element around <data>.
            owner = self._open[-2]
            if owner is not None:
                owner[self._key] = owner.get(self._key, "") + text

    def _end(self, name: str) -> None:
        self._open.pop()
        if name.rpartition(" ")[2] == "data":
            self._key = None
