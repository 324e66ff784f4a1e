"""The AsyncAPI document is what the code makes, holds together, and leaves no subject out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from msgspec.json import encode

from phalanx.bus import subjects
from phalanx.bus.permissions import grants
from phalanx.fabric.asyncapi import document, text
from phalanx.fabric.operations import AGENT_OPERATIONS, AgentCounters
from phalanx.fabric.registration import Registration
from phalanx.identity.names import Identity, Role

DOCUMENT = document()
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.yaml"
ALLOWED: dict[str, set[str]] = {
    "": {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"},
    "channel": {"address", "description", "parameters", "messages"},
    "operation": {"action", "channel", "summary", "messages", "reply"},
    "reply": {"channel", "messages"},
    "message": {"summary", "contentType", "headers", "payload"},
}
"""Fields of AsyncAPI 3.0 objects that are in use; each is one that the specification has."""


def test_the_stored_document_is_what_the_code_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == text()
    assert yaml.safe_load(text()) == document()


def nodes(value: object, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from nodes(item, f"{path}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from nodes(item, f"{path}/{index}")


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_each_object_has_the_fields_that_the_specification_gives_it() -> None:
    made = DOCUMENT
    assert made["asyncapi"] == "3.0.0"
    assert set(made) <= ALLOWED[""]
    assert {"title", "version"} <= set(made["info"])
    for channel in made["channels"].values():
        assert set(channel) <= ALLOWED["channel"]
        parameters = re.findall(r"{(\w+)}", channel["address"] or "")
        assert parameters == list(channel.get("parameters", {}))
        for message in channel["messages"].values():
            assert message["$ref"].startswith("#/components/messages/")
    for message in made["components"]["messages"].values():
        assert set(message) <= ALLOWED["message"]
    for operation in made["operations"].values():
        assert set(operation) <= ALLOWED["operation"]
        assert operation["action"] in ("send", "receive")
        assert set(operation.get("reply", {})) <= ALLOWED["reply"]


def test_each_reference_leads_somewhere() -> None:
    references = [node["$ref"] for _, node in nodes(DOCUMENT) if "$ref" in node]
    assert len(references) > 50
    for reference in references:
        resolve(reference)


def test_messages_of_operations_are_those_of_their_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        for part in (operation, operation.get("reply", {})):
            for message in part.get("messages", ()):
                assert message["$ref"].startswith(part["channel"]["$ref"] + "/messages/")


def test_schemas_are_in_the_words_of_draft_07() -> None:
    for path, node in nodes(DOCUMENT["components"]["schemas"]):
        if not path.endswith("/properties"):
            assert "prefixItems" not in node, path
            assert isinstance(node.get("discriminator", ""), str), path


def test_every_subject_that_a_role_may_use_is_described() -> None:
    patterns = [
        re.escape(channel["address"])
        .replace(r"\{topic\}", ".+")
        .replace(r"\{kind\}", ".+")
        .replace(r"\{domain\}", "edge")
        for channel in DOCUMENT["channels"].values()
        if channel["address"]
    ]
    patterns = [re.sub(r"\\{\w+\\}", r"[^.]+", pattern) for pattern in patterns]
    for role in Role:
        granted = grants(Identity("me", role, "edge"))
        for subject in (*granted.publish, *granted.subscribe):
            assert any(re.fullmatch(pattern, subject) for pattern in patterns), subject


def test_addresses_are_those_of_the_subjects() -> None:
    channels = DOCUMENT["channels"]
    made = {
        "messages": subjects.message("domain", "receiver", "sender"),
        "events": subjects.event("domain", "agent", "kind"),
        "actions": subjects.act("domain", "pop"),
        "percepts": subjects.percept("domain", "pop"),
        "calls": subjects.call("domain", "provider", "operation", "role", "caller"),
        "announcements": subjects.announcement("domain", "publisher", "topic"),
        "answers": subjects.answers(
            subjects.call("domain", "provider", "operation", "role", "caller")
        ),
        "outcomes": subjects.answers(subjects.act("domain", "pop")),
    }
    for name, subject in made.items():
        address = channels[name]["address"].replace("{", "").replace("}", "")
        assert address == (subject or "").replace("*", "id"), name
    assert set(channels) == {*made, "registry"}


def test_what_is_said_fits_the_schemas() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for kind in (Registration, AgentCounters, *(o.answer for o in AGENT_OPERATIONS)):
        assert set(schemas[kind.__name__]["properties"]) == set(kind.__struct_encode_fields__)
    assert encode(DOCUMENT)
