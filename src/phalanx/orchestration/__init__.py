"""What deploys and changes pipelines of agents: descriptors, MLFO, IML, workflow, orchestrator."""
