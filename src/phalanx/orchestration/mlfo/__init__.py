"""The MLFO: computes the optimal pipeline of agents for a network service (figure 2, step 1)."""
