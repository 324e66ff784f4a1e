"""Messages and receivers that the tests of the bus share."""

from __future__ import annotations

from phalanx.domain.messages import Message, Performative, Verdict


def message(
    number: int,
    sender: str = "a",
    receiver: str = "b",
    performative: Performative = Performative.INFORM,
) -> Message:
    return Message(f"m{number}", performative, sender, receiver, "c", Verdict(), "e")


class Inbox(list[Message]):
    """A handler that keeps what it gets."""

    def __call__(self, got: Message) -> None:
        self.append(got)

    @property
    def ids(self) -> list[str]:
        return [got.id for got in self]
