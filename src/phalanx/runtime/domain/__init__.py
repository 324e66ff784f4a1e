"""A domain: the agents that work together, their identities, and the brokers between them."""
