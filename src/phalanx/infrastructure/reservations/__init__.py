"""The reservations of a driver: which PoP and link hold what, for which instance, until when.

They are the same for the simulated network and for the Linux driver. What differs is who does
the work: a driver brings its own ``Downloads``, ``Measures`` and ``Observer`` (``instances``).
"""
