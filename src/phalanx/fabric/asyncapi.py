"""The AsyncAPI 3.0 document of a domain: what goes over which subject, in which shape.

It is made from the subjects and the types themselves: ``python -m phalanx.fabric.asyncapi``
prints it. Its schemas are those that msgspec gives, as AsyncAPI wants them (JSON Schema draft 07).
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

from phalanx.bus import subjects
from phalanx.bus.wire import VERSION
from phalanx.fabric.asyncapi_schemas import ASKS, ERRORS, REPLIES, schemas
from phalanx.fabric.envelope import JSON, STRUCTURED
from phalanx.fabric.network.codec import VERSION as NETWORK_VERSION
from phalanx.fabric.network.codec import News
from phalanx.fabric.operations import AGENT_OPERATIONS, Operation
from phalanx.identity.names import Role

ASYNCAPI = "3.0.0"
_OCTETS = "application/octet-stream"

_PARAMETERS = {
    "domain": "The set of agents that work together.",
    "receiver": "The agent that is spoken to.",
    "sender": "The agent that speaks: the authenticated identity.",
    "agent": "Who recorded the event: the authenticated identity.",
    "kind": "The kind of the event, such as `goal.adopted`; its dots stay.",
    "pop": "A point of presence, named as its agent.",
    "provider": "The identity that provides the service.",
    "operation": "The name of the operation.",
    "role": "The role of who calls, as authenticated.",
    "caller": "Who calls: the authenticated identity.",
    "publisher": "Who announces: the authenticated identity.",
    "topic": "Words with dots between them; they stay.",
    "id": "Chosen by the caller's side of the exchange for each request.",
}

_INTRODUCTION = f"""\
What processes of a Phalanx domain say to each other over a NATS cluster, or over the exchange
in memory, which carries the same octets under the same subjects.

Each part of a subject is escaped: what is no letter, digit, `-` or `_` becomes `=` and two
hexadecimal digits for each octet of its UTF-8. The broker lets an identity (proven by its TLS
certificate) publish only where its own name stands as the speaker. Messages between agents are
the octet {VERSION} (the version), then JSON. Roles: {", ".join(role.value for role in Role)}.
"""


def document() -> dict[str, Any]:
    """Return the document as plain data."""
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Phalanx: subjects of a domain",
            "version": str(VERSION),
            "description": _INTRODUCTION,
            "license": {
                "name": "Apache 2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": JSON,
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": schemas()},
    }


def text() -> str:
    """Return the document as YAML."""
    return yaml.safe_dump(document(), sort_keys=False, width=100, allow_unicode=True)


# -- channels -------------------------------------------------------------------------------


def _channels() -> dict[str, Any]:
    channels = {
        "messages": _channel("msg.{receiver}.{sender}", "Messages between agents.", ["message"]),
        "events": _channel(
            "evt.{agent}.{kind}",
            f"Events of the log of causes, kept in the JetStream stream {subjects.EVENTS}.",
            ["event"],
        ),
        "actions": _channel("act.{pop}", "What an agent asks of the infrastructure.", ["ask"]),
        "outcomes": _channel("done.{pop}.{id}", "Answers of the infrastructure.", ["reply"]),
        "percepts": _channel("percept.{pop}", "What the infrastructure tells unasked.", ["news"]),
        "calls": _channel(
            "call.{provider}.{operation}.{role}.{caller}",
            "Invocation of an operation of a service.",
            [_request_name(operation) for operation in AGENT_OPERATIONS],
        ),
        "answers": _channel(
            "ans.{caller}.{provider}.{id}",
            "Answers to calls.",
            [*(_answer_name(operation) for operation in AGENT_OPERATIONS), "error"],
        ),
        "announcements": _channel(
            "pub.{publisher}.{topic}", "Publish/subscribe of services.", ["announcement"]
        ),
    }
    channels["registry"] = {
        "address": None,
        "description": f"The table `{subjects.REGISTRY}` (a JetStream key-value bucket). Its keys "
        "are the names of the owners, escaped as in subjects; each writes its own.",
        "messages": {"registration": _ref("components/messages/registration")},
    }
    return channels


def _channel(address: str, summary: str, messages: list[str]) -> dict[str, Any]:
    names = ["domain", *(part[1:-1] for part in address.split(".") if part.startswith("{"))]
    return {
        "address": f"phx.{{domain}}.{address}",
        "description": summary,
        "parameters": {name: {"description": _PARAMETERS[name]} for name in names},
        "messages": {name: _ref(f"components/messages/{name}") for name in messages},
    }


# -- operations -----------------------------------------------------------------------------


def _operations() -> dict[str, Any]:
    plain = [
        ("sendMessage", "send", "messages", "An agent says something to another."),
        ("receiveMessage", "receive", "messages", "An agent hears what is said to it."),
        ("recordEvent", "send", "events", "Any identity records what happened."),
        ("followEvents", "receive", "events", "Recorders, orchestrators and people read along."),
        ("perceive", "receive", "percepts", "An agent hears of its PoP."),
        ("tell", "send", "percepts", "The network's service tells an agent of its PoP."),
        ("announce", "send", "announcements", "A service announces something."),
        ("listen", "receive", "announcements", "Whoever may listens."),
        ("register", "send", "registry", "A service writes and renews its own entry."),
        ("discover", "receive", "registry", "Every identity watches all entries."),
    ]
    found: dict[str, Any] = {
        name: {"action": action, "channel": _ref(f"channels/{channel}"), "summary": summary}
        for name, action, channel, summary in plain
    }
    for name, action, summary in (
        ("perform", "send", "An agent asks something of the infrastructure of its PoP."),
        ("carryOut", "receive", "The network's service carries it out, each request once."),
    ):
        found[name] = {
            "action": action,
            "channel": _ref("channels/actions"),
            "summary": summary,
            "reply": {"channel": _ref("channels/outcomes")},
        }
    for operation in AGENT_OPERATIONS:
        found[f"invoke{operation.name.capitalize()}"] = _invocation(operation, "send")
        found[f"serve{operation.name.capitalize()}"] = _invocation(operation, "receive")
    return found


def _invocation(operation: Operation[Any, Any], action: str) -> dict[str, Any]:
    access = "Needs a rule that allows it." if operation.changes else "A read."
    return {
        "action": action,
        "channel": _ref("channels/calls"),
        "summary": f"{operation.summary[0].upper()}{operation.summary[1:]}. {access}",
        "messages": [_ref(f"channels/calls/messages/{_request_name(operation)}")],
        "reply": {
            "channel": _ref("channels/answers"),
            "messages": [
                _ref(f"channels/answers/messages/{_answer_name(operation)}"),
                _ref("channels/answers/messages/error"),
            ],
        },
    }


# -- messages -------------------------------------------------------------------------------


def _messages() -> dict[str, Any]:
    messages = {
        "message": {
            "summary": f"The octet {VERSION}, then this as JSON.",
            "contentType": _OCTETS,
            "payload": _schema("Message"),
        },
        "event": {
            "summary": "A CloudEvent in structured mode.",
            "contentType": STRUCTURED,
            "payload": _schema("EventEnvelope"),
        },
        "announcement": {
            "summary": "A CloudEvent in structured mode; its type is `phalanx.` and the topic.",
            "contentType": STRUCTURED,
            "payload": _schema("Envelope"),
        },
        "ask": _of_network("Carry out an action, or tell what there is to perceive.", ASKS),
        "reply": _of_network("What became of it.", REPLIES),
        "news": _of_network("A percept, or an outcome that came late.", (News,)),
        "registration": {
            "summary": "What a service says of itself.",
            "contentType": JSON,
            "payload": _schema("Registration"),
        },
        "error": {
            "summary": "Why there is no answer.",
            "contentType": JSON,
            "payload": _one_of(ERRORS),
        },
    }
    for operation in AGENT_OPERATIONS:
        messages[_request_name(operation)] = {
            "summary": "A CloudEvent in binary mode; `ce-id` is the idempotency key.",
            "contentType": JSON,
            "headers": _schema("CallHeaders"),
            "payload": _schema(operation.request.__name__),
        }
        messages[_answer_name(operation)] = {
            "summary": f"The answer to `{operation.name}`.",
            "contentType": JSON,
            "payload": {
                "type": "object",
                "required": ["type", "answer"],
                "properties": {
                    "type": {"const": "CallDone"},
                    "answer": _schema(operation.answer.__name__),
                },
            },
        }
    return messages


def _of_network(summary: str, kinds: tuple[type, ...]) -> dict[str, Any]:
    return {
        "summary": f"{summary} The octet {NETWORK_VERSION}, then this as JSON; actions, outcomes "
        "and percepts stand in it as [name, value], as in `phalanx.domain.actions`.",
        "contentType": _OCTETS,
        "payload": _one_of(kinds),
    }


def _one_of(kinds: tuple[type, ...]) -> dict[str, Any]:
    return {"oneOf": [_schema(kind.__name__) for kind in kinds]}


def _request_name(operation: Operation[Any, Any]) -> str:
    return f"{operation.name}Request"


def _answer_name(operation: Operation[Any, Any]) -> str:
    return f"{operation.name}Answer"


def _schema(name: str) -> dict[str, str]:
    return _ref(f"components/schemas/{name}")


def _ref(place: str) -> dict[str, str]:
    return {"$ref": f"#/{place}"}


if __name__ == "__main__":
    sys.stdout.write(text())
