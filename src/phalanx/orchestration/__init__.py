"""What deploys and changes pipelines of agents: descriptors, and the MLFO that computes them."""
