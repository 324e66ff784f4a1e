"""The life of network functions and agents: deploy, share, scale, failover, drain, recovery."""
