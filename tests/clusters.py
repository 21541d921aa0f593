"""A Ray cluster of this machine alone, whose nodes can be taken away."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest


@contextmanager
def cluster_of(*nodes: dict[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Nodes with these resources, the first of them the head; its workers import what this process can."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install 'quantvggt[ray]'")
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RAY_memory_monitor_refresh_ms": "0"}
    with patch.dict(os.environ, environment):
        # Room for few objects: what tasks say travels without.
        started = utilities.Cluster(
            initialize_head=True,
            head_node_args={"object_store_memory": 80_000_000, "include_dashboard": False, **nodes[0]},
        )
        try:
            others = [started.add_node(object_store_memory=80_000_000, **node) for node in nodes[1:]]
            yield started, [started.head_node, *others]
        finally:
            started.shutdown()
