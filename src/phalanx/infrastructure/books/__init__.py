"""The books of a driver: who holds what at which PoP and on which link, and until when.

They are the same for the simulated network and for the Linux driver; what differs is who
does the work (``workers``).
"""
