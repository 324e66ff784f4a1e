"""The schemas of the AsyncAPI document: those of the structs, and of CloudEvents around them."""

from __future__ import annotations

from typing import Any

import msgspec

from phalanx.domain.goals import Predicate
from phalanx.domain.messages import Message
from phalanx.fabric.calls import CallBusy, CallFailed, CallRefused, CallTimedOut, OperationUnknown
from phalanx.fabric.envelope import JSON
from phalanx.fabric.network.codec import Answered, Declined, Do, News, Sync, Synced
from phalanx.fabric.operations import AGENT_OPERATIONS
from phalanx.fabric.registration import Registration

ERRORS = (OperationUnknown, CallRefused, CallBusy, CallFailed, CallTimedOut)
ASKS = (Sync, Do)
REPLIES = (Synced, Answered, Declined)
NETWORK = (*ASKS, *REPLIES, News)
"""What an agent and the service of its infrastructure say to each other."""

_TEXT = {"type": "string", "minLength": 1}
_ENVELOPE: dict[str, Any] = {
    "description": "A CloudEvent 1.0 as JSON. Attributes that are not named here are extensions.",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": {"type": "string", "pattern": "^/phalanx/[^/]+/[^/]+$"},
        "type": {"type": "string", "pattern": "^phalanx\\..+$"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": JSON},
        "cause": {"description": "Id of the event that led to it.", "type": "string"},
        "scope": {"description": "What part of the network it is about.", "type": "string"},
        "data": {},
    },
}


def _event_envelope() -> dict[str, Any]:
    elapsed = {
        "description": "Its time in seconds of the recorder's clock, as a decimal number.",
        "type": "string",
    }
    data = {"description": "What there is to say, by the kind of the event.", "type": "object"}
    return _ENVELOPE | {
        "description": "An event of the log of causes; the type is `phalanx.` and its kind.",
        "required": [*_ENVELOPE["required"], "time", "elapsed", "data"],
        "properties": _ENVELOPE["properties"] | {"elapsed": elapsed, "data": data},
    }


_CALL_HEADERS = {
    "description": "Attributes of a call, percent-encoded as in the HTTP binding of CloudEvents.",
    "type": "object",
    "required": ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-timeoutms"],
    "properties": {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {"description": "Idempotency key.", **_TEXT},
        "ce-source": {"type": "string", "pattern": "^/phalanx/[^/]+/[^/]+$"},
        "ce-type": {"type": "string", "pattern": "^phalanx\\.call\\..+$"},
        "ce-timeoutms": {
            "description": "For how long the caller waits, in milliseconds.",
            "type": "string",
            "pattern": "^[0-9]{1,9}$",
        },
        "ce-cause": {"type": "string"},
        "content-type": {"const": JSON},
    },
}
_PREDICATE = {
    "description": "A predicate, told apart by `type`: an open family that functions add to.",
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"type": "string"}},
}


def schemas() -> dict[str, Any]:
    """Return all schemas, by the names of their structs."""
    kinds: list[type] = [Message, Registration, *NETWORK, *ERRORS]
    for operation in AGENT_OPERATIONS:
        kinds += [operation.request, operation.answer]
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    found |= {
        Predicate.__name__: _PREDICATE,
        "Envelope": _ENVELOPE,
        "EventEnvelope": _event_envelope(),
        "CallHeaders": _CALL_HEADERS,
    }
    return {name: _as_draft_07(found[name]) for name in sorted(found)}


def _as_draft_07(schema: Any) -> Any:
    """Return a schema of msgspec (JSON Schema 2020-12, OpenAPI) in the words of AsyncAPI."""
    if isinstance(schema, list | tuple):
        return [_as_draft_07(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _as_draft_07(value) for key, value in schema.items()}
    if isinstance(found.get("discriminator"), dict):
        found["discriminator"] = found["discriminator"]["propertyName"]
    if "prefixItems" in found:
        found["additionalItems"] = found.pop("items", True)
        found["items"] = found.pop("prefixItems")
    return found
