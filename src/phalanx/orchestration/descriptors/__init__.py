"""Descriptors of network services in the shape of ETSI GS NFV-SOL006, sites and requests."""
