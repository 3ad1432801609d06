"""How many processes on how many nodes: arithmetic that is exact or refused."""

from dataclasses import dataclass

from launch.settings import ProcessSettings
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Processes on nodes: one for each GPU, or as many as asked for on CPUs."""

    nodes: int
    processes_per_node: int
    gpus_per_node: int

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node


def layout_of(settings: ProcessSettings) -> Layout:
    """Raises UserError if the numbers contradict each other, or GPUs do not fill whole nodes."""
    nodes, gpus_per_node, gpus = settings.nodes, settings.gpus_per_node or 0, settings.gpus
    if gpus is not None:
        if not gpus_per_node:
            raise UserError(f"--gpus {gpus} needs --gpus-per-node, the number of GPUs that a node has")
        if gpus < gpus_per_node:
            full, gpus_per_node = 1, gpus
        elif gpus % gpus_per_node:
            fewer = gpus - gpus % gpus_per_node
            raise UserError(
                f"--gpus {gpus} do not fill nodes of {gpus_per_node}: use {fewer} or {fewer + gpus_per_node}, or "
                f"share them differently with --nodes and --gpus-per-node"
            )
        else:
            full = gpus // gpus_per_node
        if nodes not in (None, full):
            raise UserError(f"--gpus {gpus} with {gpus_per_node} on each node are {full} nodes, not --nodes {nodes}")
        nodes = full
    processes = settings.processes_per_node
    if gpus_per_node and processes not in (None, gpus_per_node):
        raise UserError(
            f"--processes-per-node {processes} with --gpus-per-node {gpus_per_node}: each process has one GPU, so "
            f"leave the first out"
        )
    return Layout(nodes=nodes or 1, processes_per_node=gpus_per_node or processes or 1, gpus_per_node=gpus_per_node)
