"""The images that PoPs keep after their download, in the disk that nothing else has allocated.

An image that a running instance uses is part of what that instance has allocated, and stays. All
others give way to allocations, those first that were not needed for longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phalanx.clock import Clock
from phalanx.domain.events import Recorder
from phalanx.domain.network import PopId
from phalanx.domain.vnf import Vnfd
from phalanx.infrastructure.reservations.allocations import (
    ComputeAllocations,
    KeptImage,
    Percepts,
)
from phalanx.infrastructure.reservations.instances import Instance


@dataclass(slots=True, eq=False)
class ImageCache:
    """Which PoP keeps which images, and for how long."""

    clock: Clock
    recorder: Recorder
    compute: ComputeAllocations
    percepts: Percepts
    keeps: bool
    """Whether images are kept at all; the published strategy knows the repository alone."""
    on_gone: Callable[[PopId, Vnfd, str], None] = lambda _pop, _vnfd, _cause: None
    """Told of an image that a PoP keeps no more, with the event that says so."""

    def holders(self, vnfd: Vnfd) -> Iterator[PopId]:
        """Yield the PoPs that have the image, by name."""
        return (pop for pop, kept in sorted(self.compute.images.items()) if vnfd.image in kept)

    def use(self, pop: PopId, vnfd: Vnfd, instance: str = "") -> bool:
        """Note that the image is needed at ``pop``; return whether it is there.

        With an ``instance`` it stays until that ends.
        """
        kept = self.compute.images[pop].get(vnfd.image)
        if kept is not None:
            kept.needed = self.clock.now()
            kept.users.update({instance: None} if instance else {})
        return kept is not None

    def room_mb(self, pop: PopId) -> float:
        """Return the disk at ``pop`` that neither an instance, a hold nor an image takes, in MB."""
        return self.compute.unheld(pop).disk_gb * 1e3 - self.compute.unused_mb(pop)

    def keep(self, pop: PopId, vnfd: Vnfd, cause: str, instance: str = "") -> None:
        """Keep an image that came to ``pop``, for ``instance`` if one is named."""
        images = self.compute.images[pop]
        if not self.keeps or vnfd.image_mb <= 0 or vnfd.image in images:
            return
        users = {instance: None} if instance else {}
        images[vnfd.image] = KeptImage(vnfd, self.clock.now(), users)
        event = self._record("image.cached", pop, vnfd, cause)
        self.percepts.changed((pop,))
        self.give_way(pop, event)

    def release(self, instance: Instance, cause: str) -> None:
        """Note that ``instance`` has ended: its image needs room of its own now."""
        kept = self.compute.images[instance.pop].get(instance.vnfd.image)
        if kept is not None:
            kept.users.pop(instance.id, None)
            kept.needed = self.clock.now()
            self.give_way(instance.pop, cause)

    def give_way(self, pop: PopId, cause: str) -> None:
        """Delete images at ``pop`` until the others fit into what is not allocated."""
        images = self.compute.images[pop]
        free_mb = max(0.0, self.compute.free(pop).disk_gb * 1e3)
        while self.compute.unused_mb(pop) > free_mb:
            unused = (kept for kept in images.values() if not kept.users)
            least = min(unused, key=lambda kept: (kept.needed, kept.vnfd.image))
            self.delete(pop, least.vnfd, "its disk space is needed", cause)

    def delete_unused(self, pop: PopId, reason: str, cause: str) -> None:
        """Keep no image that no instance uses."""
        for kept in list(self.compute.images[pop].values()):
            if not kept.users:
                self.delete(pop, kept.vnfd, reason, cause)

    def delete(self, pop: PopId, vnfd: Vnfd, reason: str, cause: str) -> None:
        """Keep an image no more."""
        if self.compute.images[pop].pop(vnfd.image, None) is not None:
            self.percepts.changed((pop,))
            self.on_gone(pop, vnfd, self.note_gone(pop, vnfd, reason, cause))

    def note_gone(self, pop: PopId, vnfd: Vnfd, reason: str, cause: str) -> str:
        """Tell that ``pop`` does not have an image, whole or in part; return the event."""
        return self._record("image.evicted", pop, vnfd, cause, reason=reason)

    def _record(self, kind: str, pop: PopId, vnfd: Vnfd, cause: str, **data: str) -> str:
        figures = {"vnf": vnfd.name, "version": vnfd.version, "image_mb": vnfd.image_mb}
        return self.recorder.record(kind, cause, pop=pop, **figures, **data)
