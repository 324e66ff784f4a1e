"""Delay: frames are held in this process, and sent on by the device that they were to leave by.

The kernel needs no queueing discipline for it: a rule sends what it matches into a TAP device,
from which this process reads. What is sent on carries ``HELD_MARK``.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections import deque
from itertools import count
from threading import Thread

from .nft import HELD_MARK

MOST_HELD = 8192
"""Frames held at a time; more are dropped."""
_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TAP_BARE = 0x400454CA, 0x1002
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_LARGEST = 1 << 16
_NUMBERS = count()


class DelayLine:
    """Holds the frames that one measure takes from one device, each for the same time.

    Args:
        device: what the frames leave by.
        delay_s: how long each is held, in seconds.
        rate: octets that may go on in a second; 0: any number. What exceeds it is dropped.

    """

    def __init__(self, device: str, delay_s: float, rate: float) -> None:
        self.device = device
        self.tap = f"phd{os.getpid():x}_{next(_NUMBERS) % 0x1000:x}"
        """Name of the TAP device."""
        self.sent = self.octets = 0
        """Frames that were sent on, and their octets."""
        self.waiting: deque[tuple[float, bytes]] = deque()
        """Frames that are held, with the time at which each goes on."""
        self._delay_s = delay_s
        self._rate = rate
        self._free = 0.0
        """When the rate allows the next frame."""

    def open(self) -> None:
        """Make the TAP device and begin.

        Raises:
            OSError: if the kernel refuses.

        """
        self._stop = os.eventfd(0)
        self._in = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        name = self.tap.encode()
        fcntl.ioctl(self._in, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TAP_BARE))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            fcntl.ioctl(plain, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
        self._out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, HELD_MARK)
        self._out.bind((self.device, 0))
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop what is held, and remove the TAP device."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._out.close()
        for descriptor in (self._in, self._stop):
            os.close(descriptor)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._in, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                self._send(self.waiting.popleft()[1])
            left = (self.waiting[0][0] - now) * 1e3 + 1 if self.waiting else None
            ready = {descriptor for descriptor, _ in poll.poll(left)}
            if self._stop in ready:
                return
            if self._in in ready:
                self._hold(os.read(self._in, _LARGEST))

    def _hold(self, frame: bytes) -> None:
        # What the kernel itself says on a new device, from no or a local address, is no traffic.
        six = frame[12:14] == _IPV6 and frame[22:23] not in (b"\0", b"\xfe")
        if not (six or frame[12:14] == _IPV4) or len(self.waiting) >= MOST_HELD:
            return
        now = time.monotonic()
        if self._rate:
            if self._free > now:
                return
            self._free = now + len(frame) / self._rate
        self.waiting.append((now + self._delay_s, frame))

    def _send(self, frame: bytes) -> None:
        try:
            self._out.send(frame)
        except OSError:
            return  # the device is gone or full: the frame is lost, as on any link
        self.sent += 1
        self.octets += len(frame)
