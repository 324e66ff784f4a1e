"""The network functions as programs: one process each, driven over HTTP on a Unix socket.

This package runs from an image inside a PoP's namespace, so it uses nothing but the standard
library and never imports the rest of Phalanx. What a function puts in force lies in nftables
tables of its own and is gated by a lease that the kernel ends by itself.

A function is started in the midst of an attack: what its modules do as they are imported counts.
``typing.NamedTuple`` takes half a millisecond for each class, so there is none.
"""
