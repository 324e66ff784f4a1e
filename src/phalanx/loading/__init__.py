"""Files that a user wrote: typed data, or one line that says what is wrong with the file.

What HTTP servers say is read the same way, in ``http``: bounded, or refused in one line.

What reads a kind of file (scenarios, sites, descriptors) gives its schema as a msgspec Struct,
and says in ``Offence`` words what the fields say about each other.
"""

from phalanx.loading.files import (
    MAX_BYTES,
    Tree,
    not_a_file,
    open_file,
    parse_as,
    parse_toml_as,
    read_text,
    read_toml,
    read_xml,
    refusal,
)
from phalanx.loading.installed import installed
from phalanx.loading.refusals import Name, Offence, nearest, one_line, show, twice, unknown

__all__ = [
    "MAX_BYTES",
    "Name",
    "Offence",
    "Tree",
    "installed",
    "nearest",
    "not_a_file",
    "one_line",
    "open_file",
    "parse_as",
    "parse_toml_as",
    "read_text",
    "read_toml",
    "read_xml",
    "refusal",
    "show",
    "twice",
    "unknown",
]
