"""The machines of the Swarm, out of node exporter: processor, memory, disks, network."""

from __future__ import annotations

from stacks.grafana.panels import BAD, GOOD, WARN, Board, choice, figure, prom, rows, series

#: Node exporter knows a machine's name in one series; the others are joined to it.
_NAMED = ' * on (instance) group_left (nodename) node_uname_info{nodename=~"$node"}'
_DISK = 'fstype!~"tmpfs|ramfs|overlay|squashfs|nsfs|devtmpfs|iso9660", mountpoint!~"/run/.*|/var/lib/docker/.+"'
_NET = 'device!~"lo|veth.*|docker.*|br-.*|vxlan.*"'


def _named(expr: str, *kept: str) -> str:
    by = ", ".join(("nodename", *kept))
    return f"sum by ({by}) (({expr}){_NAMED})"


_BUSY = '1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))'
_USED = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"
_FULL = f"1 - node_filesystem_avail_bytes{{{_DISK}}} / (node_filesystem_size_bytes{{{_DISK}}} > 0)"
_USE: tuple[tuple[float, str], ...] = ((0, GOOD), (0.8, WARN), (0.9, BAD))

BOARD = Board(
    uid="headwater-nodes",
    title="Headwater: Swarm nodes",
    description="The machines: processor, memory, disks, network.",
    variables=[choice("node", "Node", "Machines with a node exporter.", "label_values(node_uname_info, nodename)")],
    rows=[
        (
            "",
            [
                figure("Nodes", "That answer.", "short", prom('count(node_uname_info{nodename=~"$node"})')),
                figure(
                    "Busiest processor",
                    "Part of the time in which it was not idle, on the busiest node.",
                    "percentunit",
                    prom(f"max({_named(_BUSY)})"),
                    steps=_USE,
                ),
                figure(
                    "Fullest memory", "On the fullest node.", "percentunit", prom(f"max({_named(_USED)})"), steps=_USE
                ),
                figure(
                    "Fullest disk",
                    "Of all file systems of all nodes.",
                    "percentunit",
                    prom(f"max({_named(_FULL, 'mountpoint')})"),
                    steps=_USE,
                ),
                figure(
                    "Load per core",
                    "Over 5 minutes, on the most loaded node.",
                    "short",
                    prom(
                        "max("
                        + _named('node_load5 / on (instance) count by (instance) (node_cpu_seconds_total{mode="idle"})')
                        + ")"
                    ),
                    steps=((0, GOOD), (1, WARN), (2, BAD)),
                ),
                figure(
                    "Youngest",
                    "Time since the last start of a node.",
                    "s",
                    prom(f"min({_named('time() - node_boot_time_seconds')})"),
                ),
            ],
        ),
        (
            "Processor and memory",
            [
                series(
                    "Processor",
                    "Part of the time in which it was not idle.",
                    "percentunit",
                    prom(_named(_BUSY), "{{nodename}}"),
                    high=1,
                    steps=_USE,
                ),
                series(
                    "Load per core",
                    "Over 1 minute; above 1 processes wait.",
                    "short",
                    prom(
                        _named('node_load1 / on (instance) count by (instance) (node_cpu_seconds_total{mode="idle"})'),
                        "{{nodename}}",
                    ),
                ),
                series(
                    "Memory used",
                    "Part that is not available to new processes.",
                    "percentunit",
                    prom(_named(_USED), "{{nodename}}"),
                    high=1,
                    steps=_USE,
                ),
                series(
                    "Memory available",
                    "Without swapping.",
                    "bytes",
                    prom(_named("node_memory_MemAvailable_bytes"), "{{nodename}}"),
                ),
            ],
        ),
        (
            "Disks",
            [
                series(
                    "File systems",
                    "Part that is used.",
                    "percentunit",
                    prom(_named(_FULL, "mountpoint"), "{{nodename}} {{mountpoint}}"),
                    high=1,
                    steps=_USE,
                ),
                series(
                    "Read and written",
                    "All disks of a node together.",
                    "Bps",
                    prom(
                        _named("sum by (instance) (rate(node_disk_read_bytes_total[$__rate_interval]))"),
                        "{{nodename}} read",
                    ),
                    prom(
                        _named("sum by (instance) (rate(node_disk_written_bytes_total[$__rate_interval]))"),
                        "{{nodename}} written",
                    ),
                ),
            ],
        ),
        (
            "Network",
            [
                series(
                    "Traffic",
                    "All network cards of a node together; those of containers are left out.",
                    "Bps",
                    prom(
                        _named(
                            f"sum by (instance) (rate(node_network_receive_bytes_total{{{_NET}}}[$__rate_interval]))"
                        ),
                        "{{nodename}} received",
                    ),
                    prom(
                        _named(
                            f"sum by (instance) (rate(node_network_transmit_bytes_total{{{_NET}}}[$__rate_interval]))"
                        ),
                        "{{nodename}} sent",
                    ),
                ),
                series(
                    "Errors and drops",
                    "Of received and sent packets.",
                    "pps",
                    prom(
                        _named(
                            f"sum by (instance) (rate(node_network_receive_errs_total{{{_NET}}}[$__rate_interval])"
                            f" + rate(node_network_transmit_errs_total{{{_NET}}}[$__rate_interval]))"
                        ),
                        "{{nodename}} errors",
                    ),
                    prom(
                        _named(
                            f"sum by (instance) (rate(node_network_receive_drop_total{{{_NET}}}[$__rate_interval])"
                            f" + rate(node_network_transmit_drop_total{{{_NET}}}[$__rate_interval]))"
                        ),
                        "{{nodename}} drops",
                    ),
                ),
                rows(
                    "Nodes",
                    "What each of them is.",
                    prom('node_uname_info{nodename=~"$node"}', instant=True),
                    hidden=("Time", "Value", "__name__", "domainname", "sysname", "version"),
                    renamed={"nodename": "node", "release": "kernel"},
                ),
            ],
        ),
    ],
)
