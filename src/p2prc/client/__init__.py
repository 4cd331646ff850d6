"""p2prc from Python: work through the node that runs on this machine."""

from p2prc.client.asynchronous import AsyncClient, AsyncContainer, AsyncJob
from p2prc.client.client import Client, Completed, Container, Job
from p2prc.client.executor import Executor

__all__ = [
    "AsyncClient",
    "AsyncContainer",
    "AsyncJob",
    "Client",
    "Completed",
    "Container",
    "Executor",
    "Job",
]
