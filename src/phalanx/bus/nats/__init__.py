"""The exchange over NATS: the client, one server, what is made at it, and what it refused."""
