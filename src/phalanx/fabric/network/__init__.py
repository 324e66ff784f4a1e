"""The infrastructure as a service: one process serves it, agents in others use it."""

from phalanx.fabric.network.admin import serve_network
from phalanx.fabric.network.client import RemoteInfrastructure
from phalanx.fabric.network.patience import Patience
from phalanx.fabric.network.service import NetworkService

__all__ = ["NetworkService", "Patience", "RemoteInfrastructure", "serve_network"]
