"""Dask on the computers of people you trust; needs the extra `p2prc[dask]`."""

from p2prc.dask.cluster import P2PCluster

__all__ = ["P2PCluster"]
