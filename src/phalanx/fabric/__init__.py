"""The integration fabric: services that register, are found, and are called by who may.

Its words are those of ETSI ZSM (GS ZSM 002, the management integration fabric): services
register, are discovered by capability and scope, and are invoked (request/reply) or listened
to (publish/subscribe) by authorised consumers. It runs on any ``bus.client.BrokerClient`` and
has no server of its own, so there is no single point that can fail with it.
"""
