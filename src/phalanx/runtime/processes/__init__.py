"""Processes of their own: an agent, a simulated network, a recorder, and whoever starts them."""
