"""The services of the Swarm, out of cAdvisor: what the containers of each take of processor, memory and network."""

from __future__ import annotations

from stacks.grafana.panels import BAD, GOOD, WARN, Board, choice, figure, prom, rows, series

_NAME = "container_label_com_docker_swarm_service_name"
_TASK = "container_label_com_docker_swarm_task_name"
#: Containers of services; others, and the control groups above them, have an empty name.
_OF = f'{_NAME}=~"$service", {_NAME}!=""'
_USE: tuple[tuple[float, str], ...] = ((0, GOOD), (0.8, WARN), (0.95, BAD))


def _once(expr: str) -> str:
    """Each container once: where a hierarchy of control groups hangs elsewhere than the others (version 1), cAdvisor
    shows it twice, with half of its figures each."""
    return f"max by ({_NAME}, {_TASK}, image, instance, interface) ({expr})"


def _by(expr: str, how: str = "sum", *kept: str) -> str:
    return f"{how} by ({', '.join((_NAME, *kept))}) ({_once(expr)})"


def _rate(name: str, more: str = "") -> str:
    return f"rate({name}{{{_OF}{more}}}[$__rate_interval])"


#: cAdvisor tells 0 for "no limit".
_OF_LIMIT = f"container_memory_working_set_bytes{{{_OF}}} / (container_spec_memory_limit_bytes{{{_OF}}} > 0)"
_LEGEND = f"{{{{{_NAME}}}}}"

BOARD = Board(
    uid="headwater-services",
    title="Headwater: Swarm services",
    description="What each service takes: processor, memory, network; tasks and their restarts.",
    variables=[
        choice(
            "service",
            "Service",
            "Services of which a container runs.",
            f'label_values(container_last_seen{{{_NAME}!=""}}, {_NAME})',
        )
    ],
    rows=[
        (
            "",
            [
                figure(
                    "Services",
                    "Of which at least one container runs.",
                    "short",
                    prom(f"count({_by(f'container_last_seen{{{_OF}}}', 'count')})"),
                    span=6,
                ),
                figure(
                    "Tasks", "Containers.", "short", prom(f"count({_once(f'container_last_seen{{{_OF}}}')})"), span=6
                ),
                figure(
                    "Nearest to its limit",
                    "Memory of the container that is nearest to the limit of its service.",
                    "percentunit",
                    prom(f"max({_OF_LIMIT})"),
                    span=6,
                    steps=_USE,
                ),
                figure(
                    "Out of memory",
                    "Times that the kernel ended a process for want of memory, within the time shown.",
                    "short",
                    prom(f"round(sum({_once(f'increase(container_oom_events_total{{{_OF}}}[$__range])')}))"),
                    span=6,
                    steps=((0, GOOD), (1, BAD)),
                ),
            ],
        ),
        (
            "Processor and memory",
            [
                series(
                    "Processor",
                    "Cores in use, all tasks of a service together.",
                    "none",
                    prom(_by(f"{_rate('container_cpu_usage_seconds_total')}"), _LEGEND),
                    stack=True,
                ),
                series(
                    "Held back",
                    "Seconds of a second in which containers had to wait, as their limit of processor was reached. "
                    "Only services with such a limit are here.",
                    "percentunit",
                    prom(_by(_rate("container_cpu_cfs_throttled_seconds_total")), _LEGEND),
                ),
                series(
                    "Memory",
                    "Working set (what cannot be given back at once), all tasks of a service together.",
                    "bytes",
                    prom(_by(f"container_memory_working_set_bytes{{{_OF}}}"), _LEGEND),
                    stack=True,
                ),
                series(
                    "Memory of the limit",
                    "The fullest task of each service that has a limit.",
                    "percentunit",
                    prom(_by(_OF_LIMIT, "max"), _LEGEND),
                    high=1,
                    steps=_USE,
                ),
            ],
        ),
        (
            "Network and disks",
            [
                series(
                    "Received",
                    "Of overlay networks and bridges; host-mode ports are counted with their container.",
                    "Bps",
                    prom(_by(_rate("container_network_receive_bytes_total")), _LEGEND),
                ),
                series("Sent", "Likewise.", "Bps", prom(_by(_rate("container_network_transmit_bytes_total")), _LEGEND)),
            ],
        ),
        (
            "Tasks",
            [
                series(
                    "Running tasks",
                    "By service.",
                    "short",
                    prom(_by(f"container_last_seen{{{_OF}}}", "count"), _LEGEND),
                ),
                series(
                    "Age of the youngest task",
                    "A service that is started over and over stays near 0.",
                    "s",
                    prom(_by(f"time() - container_start_time_seconds{{{_OF}}}", "min"), _LEGEND),
                ),
                rows(
                    "Tasks now",
                    "Memory of each task, its limit (0: none) and its age.",
                    prom(_by(f"container_memory_working_set_bytes{{{_OF}}}", "sum", _TASK, "image"), instant=True),
                    prom(_by(f"container_spec_memory_limit_bytes{{{_OF}}}", "sum", _TASK, "image"), instant=True),
                    prom(_by(f"time() - container_start_time_seconds{{{_OF}}}", "max", _TASK, "image"), instant=True),
                    hidden=("Time",),
                    renamed={
                        _NAME: "service",
                        _TASK: "task",
                        "Value #A": "memory (bytes)",
                        "Value #B": "limit (bytes)",
                        "Value #C": "age (s)",
                    },
                ),
            ],
        ),
    ],
)
