"""What the tests over a real kernel share."""

from tests.infrastructure.linux.linux_needs import netns, run

__all__ = ["netns", "run"]
