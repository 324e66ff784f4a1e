"""The IML: starts and stops the agents of a service at a site (figure 2, step 2)."""
