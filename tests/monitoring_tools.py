"""What exports metrics beside our own processes, in a test's hands: node exporter, and the JMX exporter's agent.

The first is pure Go and built from source once for this user, as the servers are; the agent is a pinned jar.
"""

from __future__ import annotations

from pathlib import Path

from headwater.servers.installed import installed
from tests import alertmanager_server, prometheus_server

NODE_EXPORTER_VERSION = "1.12.1"
#: The coordinate that the Kafka image takes as well.
JMX_AGENT = "io.prometheus.jmx:jmx_prometheus_javaagent:1.0.1"


def node_exporter() -> Path:
    """The binary, built first if need be."""
    return installed(f"node_exporter-{NODE_EXPORTER_VERSION}", _build_node_exporter) / "node_exporter"


def everything() -> None:
    """Have all that the tests of the monitoring run: these, Prometheus and Alertmanager, and their tools."""
    prometheus_server.prometheus()
    alertmanager_server.alertmanager()
    node_exporter()


def _build_node_exporter(staging: Path) -> Path:
    return prometheus_server.go_install(staging, "github.com/prometheus/node_exporter", NODE_EXPORTER_VERSION)
