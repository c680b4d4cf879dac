"""Prometheus' own tools and exporters in a test's hands: promtool, amtool, node exporter, the JMX exporter's agent.

The first three are pure Go and built from source once for this user, as the servers are; the agent is a pinned jar.
"""

from __future__ import annotations

from pathlib import Path

from headwater.servers.installed import installed
from tests.alertmanager_server import ALERTMANAGER_VERSION
from tests.prometheus_server import PROMETHEUS_VERSION, go_install

NODE_EXPORTER_VERSION = "1.12.1"
#: The coordinate and SHA-256 that the Kafka image takes as well.
JMX_AGENT = "io.prometheus.jmx:jmx_prometheus_javaagent:1.0.1"

#: Patience with a busy machine, in seconds.
TOOL_S = 120.0


def promtool() -> Path:
    """Built with the one way of finding targets that our configuration uses: by DNS."""
    return installed(f"promtool-{PROMETHEUS_VERSION}", _build_promtool) / "promtool"


def amtool() -> Path:
    return installed(f"amtool-{ALERTMANAGER_VERSION}", _build_amtool) / "amtool"


def node_exporter() -> Path:
    return installed(f"node_exporter-{NODE_EXPORTER_VERSION}", _build_node_exporter) / "node_exporter"


def _build_promtool(staging: Path) -> Path:
    tags = "netgo,remove_all_sd,enable_dns_sd,remove_all_tracing"
    return go_install(staging, "github.com/prometheus/prometheus/cmd/promtool", PROMETHEUS_VERSION, tags=tags)


def _build_amtool(staging: Path) -> Path:
    return go_install(staging, "github.com/prometheus/alertmanager/cmd/amtool", ALERTMANAGER_VERSION)


def _build_node_exporter(staging: Path) -> Path:
    return go_install(staging, "github.com/prometheus/node_exporter", NODE_EXPORTER_VERSION)
