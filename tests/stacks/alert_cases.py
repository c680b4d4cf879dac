"""When each alert has to fire, and when not yet: series as promtool takes them, one value a quarter of a minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``series`` hold for hours; at ``quiet`` the alert must not fire, at ``fires`` it must, ``times`` times."""

    alert: str
    series: Mapping[str, str]
    #: Times since the beginning, such as 4m15s.
    quiet: tuple[str, ...]
    fires: str
    times: int = 1


#: A hundred minutes are 400 values. There for ten minutes, gone after, as a target that is not scraped any more.
_UP = "1x39 stale _x400"
_NODE = {'node_uname_info{instance="n:9100", nodename="rock"}': "1x2000"}
_KAFKA = {'kafka_host_info{job="kafka", instance="k:9404", host="kafka-rock64"}': "1x2000"}
_GW = 'gateway="rock64"'
_SINK = 'sink="influxdb", group="g"'
_JOB = 'name="aggregate", group="g"'
_SETUP = 'container_label_com_docker_swarm_service_name="cloud_setup"'
_OTHER_TASK = 'container_label_com_docker_swarm_service_name="connectors_influxdb-sink"'
_TASK = 'container_label_com_docker_swarm_service_name="cloud_kafka"'


def _kafka(name: str, values: str, more: str = "") -> dict[str, str]:
    return {**_KAFKA, f'{name}{{job="kafka", instance="k:9404"{more}}}': values}


CASES = (
    # ---- gateways
    Case(
        alert="GatewayDown",
        # Of two, one goes: only that one is told of.
        series={
            f'headwater_build_info{{component="gateway", {_GW}}}': _UP,
            'headwater_build_info{component="gateway", gateway="other"}': "1x2000",
            f'headwater_build_info{{component="sink", {_GW}}}': "1x39 _x400",
        },
        quiet=("9m", "10m30s"),
        fires="12m",
    ),
    Case(
        alert="GatewayNotReady",
        series={f'headwater_ready{{component="gateway", {_GW}}}': "1x39 0x400"},
        quiet=("9m", "11m45s"),
        fires="12m15s",
    ),
    Case(
        alert="DeviceFleetDropping",
        # A hundred, then 79; of another gateway 80, which is not more than a fifth less; of a third 3 of 4.
        series={
            f"headwater_gateway_devices{{{_GW}}}": "100x39 79x400",
            'headwater_gateway_devices{gateway="other"}': "100x39 80x400",
            'headwater_gateway_devices{gateway="small"}': "4x39 3x400",
        },
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="DeviceFleetGone",
        series={
            f"headwater_gateway_devices{{{_GW}}}": "3x39 0x400",
            'headwater_gateway_devices{gateway="new"}': "0x400",
        },
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="NotificationsStopped",
        # Ten minutes of one a second, then none; the other has no observation, the third goes on.
        series={
            f"headwater_gateway_notifications_total{{{_GW}}}": "0+15x40 600x400",
            f"headwater_gateway_observations{{{_GW}}}": "2x400",
            'headwater_gateway_notifications_total{gateway="idle"}': "0+15x40 600x400",
            'headwater_gateway_observations{gateway="idle"}': "0x400",
            'headwater_gateway_notifications_total{gateway="busy"}': "0+15x400",
            'headwater_gateway_observations{gateway="busy"}': "2x400",
        },
        quiet=("20m", "29m"),
        fires="31m",
    ),
    Case(
        alert="GatewayRefuses",
        series={
            f"headwater_gateway_registrations_refused_total{{{_GW}}}": "0x40 0+3x400",
            f"headwater_gateway_notifications_refused_total{{{_GW}}}": "0x400",
        },
        quiet=("10m", "14m30s"),
        fires="16m",
    ),
    Case(
        alert="GatewayStateFails",
        series={f"headwater_gateway_state_groups_failed_total{{{_GW}}}": "0x40 1x400"},
        quiet=("10m",),
        fires="11m",
    ),
    Case(
        alert="CommandsFail",
        # Twenty commands in ten minutes, of which fifteen fail; elsewhere half; elsewhere three of three.
        series={
            f'headwater_gateway_commands_total{{{_GW}, outcome="done"}}': "0x40 0+0.125x40 5x400",
            f'headwater_gateway_commands_total{{{_GW}, outcome="timed_out"}}': "0x40 0+0.375x40 15x400",
            'headwater_gateway_commands_total{gateway="half", outcome="done"}': "0x40 0+0.25x40 10x400",
            'headwater_gateway_commands_total{gateway="half", outcome="timed_out"}': "0x40 0+0.25x40 10x400",
            'headwater_gateway_commands_total{gateway="few", outcome="done"}': "0x400",
            'headwater_gateway_commands_total{gateway="few", outcome="timed_out"}': "0x40 0+0.075x40 3x400",
        },
        quiet=("10m", "18m"),
        fires="22m",
    ),
    Case(
        alert="BootstrapDown",
        series={
            f'headwater_build_info{{component="bootstrap", {_GW}}}': _UP,
            'headwater_build_info{component="bootstrap", gateway="other"}': "1x2000",
            f'headwater_build_info{{component="gateway", {_GW}}}': "1x39 _x400",
        },
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="BootstrapFails",
        # Three fail; elsewhere two do, and many are done.
        series={
            f'headwater_build_info{{job="bootstrap", instance="b", component="bootstrap", {_GW}}}': "1x2000",
            'headwater_bootstrap_runs_total{job="bootstrap", instance="b", outcome="failed"}': "0x40 1x4 2x4 3x400",
            'headwater_build_info{job="bootstrap", instance="c", component="bootstrap", gateway="other"}': "1x2000",
            'headwater_bootstrap_runs_total{job="bootstrap", instance="c", outcome="failed"}': "0x40 2x400",
            'headwater_bootstrap_runs_total{job="bootstrap", instance="c", outcome="done"}': "0+1x2000",
        },
        quiet=("10m", "12m", "50m"),
        fires="13m30s",
    ),
    Case(
        alert="CampaignsDown",
        series={
            f'headwater_build_info{{component="campaigns", {_GW}}}': _UP,
            'headwater_build_info{component="campaigns", gateway="other"}': "1x2000",
            f'headwater_build_info{{component="gateway", {_GW}}}': "1x39 _x400",
        },
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="CampaignStopped",
        # One is stopped at last; elsewhere some run and pause.
        series={
            f'headwater_campaigns{{{_GW}, standing="stopped"}}': "0x40 1x400",
            'headwater_campaigns{gateway="other", standing="running"}': "3x400",
            'headwater_campaigns{gateway="other", standing="paused"}': "1x400",
        },
        quiet=("10m", "10m45s"),
        fires="12m",
    ),
    Case(
        alert="DeadLetters",
        # Each of the three that write them, once.
        series={
            f'headwater_gateway_dead_letters_total{{{_GW}, instance="a", stage="command"}}': "0x40 1x400",
            f'headwater_sink_dead_letters_total{{{_SINK}, instance="b", stage="decode"}}': "0x40 2x400",
            f'headwater_analytics_dead_letters_total{{{_JOB}, instance="c", stage="decode"}}': "0x40 1x400",
            f'headwater_sink_dead_letters_total{{{_SINK}, instance="b", stage="sink:influxdb"}}': "5x400",
        },
        quiet=("10m", "40m"),
        fires="12m",
        times=3,
    ),
    # ---- replication
    Case(
        alert="ReplicatorDown",
        series={f'headwater_build_info{{component="replicator", {_GW}}}': _UP},
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="ReplicatorCutOff",
        series={
            f'headwater_replicator_connected{{{_GW}, lane="bulk"}}': "1x39 0x400",
            f'headwater_replicator_connected{{{_GW}, lane="replies"}}': "1x400",
        },
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="ReplicationLags",
        series={
            f'headwater_replicator_lag_seconds{{{_GW}, topic="a", partition="0"}}': "0x39 301x400",
            f'headwater_replicator_lag_seconds{{{_GW}, topic="a", partition="1"}}': "0x400",
            'headwater_replicator_lag_seconds{gateway="other", topic="b", partition="0"}': "299x400",
        },
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="EdgeRetentionRunsOut",
        series={
            f'headwater_replicator_retention_left_seconds{{{_GW}, topic="a", partition="0"}}': "1e9x39 86399x400",
            'headwater_replicator_retention_left_seconds{gateway="other", topic="b", partition="0"}': "86401x400",
        },
        quiet=("9m", "10m30s"),
        fires="11m30s",
    ),
    Case(
        alert="EdgeRetentionNearlyOut",
        series={
            f'headwater_replicator_retention_left_seconds{{{_GW}, topic="a", partition="0"}}': "86000x39 14399x400",
        },
        quiet=("9m",),
        fires="11m",
    ),
    Case(
        alert="EdgeDataLost",
        series={f'headwater_replicator_records_lost_to_retention_total{{{_GW}, topic="a"}}': "0x39 7x400"},
        quiet=("9m",),
        fires="11m",
    ),
    Case(
        alert="ReplicatorRefuses",
        series={f'headwater_replicator_records_refused_total{{{_GW}, topic="a"}}': "0x39 1x400"},
        quiet=("9m",),
        fires="11m",
    ),
    Case(
        alert="ReplicationSourceReplaced",
        series={f'headwater_replicator_sources_replaced_total{{{_GW}, topic="a"}}': "0x39 1x400"},
        quiet=("9m",),
        fires="11m",
    ),
    # ---- sinks
    Case(
        alert="SinkDown",
        # Of one group one of two instances goes, which is nothing; of the other the only one.
        series={
            f'headwater_sink_waiting{{{_SINK}, instance="a"}}': _UP,
            'headwater_sink_waiting{sink="orientdb", group="o", instance="b"}': _UP,
            'headwater_sink_waiting{sink="orientdb", group="o", instance="c"}': "0x400",
        },
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="SinkStoreAway",
        series={
            f'headwater_sink_waiting{{{_SINK}, instance="a"}}': "0x39 1x400",
            'headwater_sink_waiting{sink="orientdb", group="o", instance="b"}': "0x400",
        },
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="SinkStopped",
        # One stands still with records in front of it, one with none, and one works.
        series={
            f'headwater_sink_lag_records{{{_SINK}, topic="t", partition="0"}}': "0+50x400",
            f"headwater_sink_records_total{{{_SINK}}}": "0+9x40 360x400",
            'headwater_sink_lag_records{sink="idle", group="i", topic="t", partition="0"}': "1x400",
            'headwater_sink_records_total{sink="idle", group="i"}': "7x400",
            'headwater_sink_lag_records{sink="busy", group="b", topic="t", partition="0"}': "5000x400",
            'headwater_sink_records_total{sink="busy", group="b"}': "0+9x400",
        },
        quiet=("10m", "24m"),
        fires="26m",
    ),
    Case(
        alert="SinkLags",
        series={
            f'headwater_sink_lag_records{{{_SINK}, topic="t", partition="0"}}': "0x39 6000x400",
            f'headwater_sink_lag_records{{{_SINK}, topic="t", partition="1"}}': "0x39 6000x400",
            'headwater_sink_lag_records{sink="other", group="o", topic="t", partition="0"}': "9000x400",
        },
        quiet=("9m", "19m30s"),
        fires="20m30s",
    ),
    Case(
        alert="SinkSlow",
        # All writes between five and ten seconds; elsewhere below a half.
        series={
            f'headwater_sink_write_seconds_bucket{{{_SINK}, le="5"}}': "0x400",
            f'headwater_sink_write_seconds_bucket{{{_SINK}, le="10"}}': "0+1x400",
            f'headwater_sink_write_seconds_bucket{{{_SINK}, le="+Inf"}}': "0+1x400",
            'headwater_sink_write_seconds_bucket{sink="fast", group="f", le="0.5"}': "0+1x400",
            'headwater_sink_write_seconds_bucket{sink="fast", group="f", le="+Inf"}': "0+1x400",
        },
        quiet=("9m",),
        fires="12m",
    ),
    Case(
        alert="SinkCommitsFail",
        series={
            f"headwater_sink_commit_failures_total{{{_SINK}}}": "0x39 0+1x400",
            # Many at once, as while partitions change hands, and a few time and again.
            'headwater_sink_commit_failures_total{sink="other", group="o"}': "0x39 400x400",
            'headwater_sink_commit_failures_total{sink="third", group="t"}': "0x39 1x19 2x19 3x19 4x19 5x300",
        },
        quiet=("9m", "19m30s"),
        fires="22m",
    ),
    Case(
        alert="AlertsNotTold",
        series={'headwater_alertmanager_resend_failures_total{instance="a"}': "0x39 1x400"},
        quiet=("9m",),
        fires="11m",
    ),
    # ---- analytics
    Case(
        alert="AnalyticsJobDown",
        series={f"headwater_analytics_starts_total{{{_JOB}}}": _UP},
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="AnalyticsJobNotReady",
        series={f'headwater_ready{{component="analytics", {_GW}}}': "1x39 0x400"},
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="AnalyticsLags",
        series={f'headwater_analytics_lag_records{{{_JOB}, topic="t", partition="0"}}': "0x39 10001x400"},
        quiet=("9m", "19m30s"),
        fires="20m30s",
    ),
    Case(
        alert="AnalyticsLosesRecords",
        series={f"headwater_analytics_lost_records_total{{{_JOB}}}": "0x39 5x400"},
        quiet=("9m",),
        fires="11m",
    ),
    Case(
        alert="AnalyticsJobBeginsAnew",
        # Five times within ten minutes; elsewhere twice.
        series={
            f"headwater_analytics_starts_total{{{_JOB}}}": "1x39 2x9 3x9 4x9 5x9 6x400",
            'headwater_analytics_starts_total{name="other", group="o"}': "1x39 3x400",
        },
        quiet=("9m", "11m"),
        fires="22m",
    ),
    # ---- certificates: the clock of these tests begins in 1970
    Case(
        alert="CertificateExpires",
        series={
            'headwater_certificate_not_after_timestamp_seconds{identity="a", file="c", source="disk", job="gateway"}': (
                "2593200x400"
            ),
            'headwater_certificate_not_after_timestamp_seconds{identity="b", file="c", source="disk", job="gateway"}': (
                "2692000x400"
            ),
        },
        quiet=("18m",),
        fires="21m",
    ),
    Case(
        alert="CertificateNearlyExpired",
        series={
            'headwater_certificate_not_after_timestamp_seconds{identity="a", file="c", source="disk", job="gateway"}': (
                "606000x400"
            ),
        },
        quiet=("18m",),
        fires="21m",
    ),
    Case(
        alert="CertificateUnreadable",
        series={'headwater_certificate_unreadable{file="c", job="gateway", instance="a"}': "0x39 1x400"},
        quiet=("9m", "10m30s"),
        fires="11m30s",
    ),
    # ---- Kafka
    Case(
        alert="KafkaDown",
        series={
            'kafka_host_info{job="kafka", instance="k:9404", host="kafka-rock64"}': _UP,
            'kafka_host_info{job="kafka", instance="l:9404", host="kafka-cloud"}': "1x400",
        },
        quiet=("9m", "10m30s"),
        fires="12m",
    ),
    Case(
        alert="KafkaOfflinePartitions",
        series=_kafka("kafka_controller_offline_partitions", "0x39 2x400"),
        quiet=("9m", "10m30s"),
        fires="11m30s",
    ),
    Case(
        alert="KafkaUnderReplicated",
        series=_kafka("kafka_server_under_replicated_partitions", "0x39 2x400"),
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="KafkaUnderMinIsr",
        series=_kafka("kafka_server_under_min_isr_partitions", "0x39 2x400"),
        quiet=("9m", "10m30s"),
        fires="11m30s",
    ),
    Case(
        alert="KafkaDiskOffline",
        series=_kafka("kafka_server_offline_replicas", "0x39 2x400"),
        quiet=("9m", "10m30s"),
        fires="11m30s",
    ),
    Case(
        alert="KafkaNoController",
        series=_kafka("kafka_controller_active", "1x39 0x400"),
        quiet=("9m", "11m30s"),
        fires="12m30s",
    ),
    Case(
        alert="KafkaRequestsFail",
        series=_kafka("kafka_server_failed_requests_total", "0x39 0+15x400", ', request="Produce"'),
        quiet=("9m", "14m30s"),
        fires="16m",
    ),
    Case(
        alert="KafkaRefusesCertificates",
        series=_kafka(
            "kafka_server_failed_authentications_total", "0x39 20x400", ', listener="CLIENTS", processor="0"'
        ),
        quiet=("9m",),
        fires="12m",
    ),
    Case(
        alert="KafkaDeniesAccess",
        series=_kafka("kafka_server_denied_per_minute", "0x39 3x400"),
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="KafkaHeapFull",
        series={
            **_kafka("jvm_memory_used_bytes", "50x39 96x400", ', area="heap"'),
            'jvm_memory_max_bytes{job="kafka", instance="k:9404", area="heap"}': "100x400",
        },
        quiet=("9m", "24m30s"),
        fires="25m30s",
    ),
    Case(
        alert="KafkaMetricsFail",
        series=_kafka("jmx_scrape_error", "0x39 1x400"),
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    # ---- nodes
    Case(
        alert="NodeDown",
        series={
            'node_uname_info{instance="n:9100", nodename="rock"}': _UP,
            'node_uname_info{instance="m:9100", nodename="cloud"}': "1x400",
        },
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="NodeCpuBusy",
        # 5 % idle on each of two CPUs from the tenth minute on.
        series={
            **_NODE,
            'node_cpu_seconds_total{instance="n:9100", cpu="0", mode="idle"}': "0+15x39 600+0.75x400",
            'node_cpu_seconds_total{instance="n:9100", cpu="1", mode="idle"}': "0+15x39 600+0.75x400",
        },
        quiet=("9m", "24m"),
        fires="31m",
    ),
    Case(
        alert="NodeMemoryFull",
        series={
            **_NODE,
            'node_memory_MemAvailable_bytes{instance="n:9100"}': "50x39 9x400",
            'node_memory_MemTotal_bytes{instance="n:9100"}': "100x400",
        },
        quiet=("9m", "19m30s"),
        fires="20m30s",
    ),
    Case(
        alert="NodeDiskFull",
        series={
            **_NODE,
            'node_filesystem_avail_bytes{instance="n:9100", mountpoint="/", fstype="ext4"}': "50x39 14x400",
            'node_filesystem_size_bytes{instance="n:9100", mountpoint="/", fstype="ext4"}': "100x400",
            'node_filesystem_avail_bytes{instance="n:9100", mountpoint="/run", fstype="tmpfs"}': "0x400",
            'node_filesystem_size_bytes{instance="n:9100", mountpoint="/run", fstype="tmpfs"}': "100x400",
        },
        quiet=("9m", "14m30s"),
        fires="15m30s",
    ),
    Case(
        alert="NodeDiskNearlyFull",
        series={
            **_NODE,
            'node_filesystem_avail_bytes{instance="n:9100", mountpoint="/", fstype="ext4"}': "50x39 4x400",
            'node_filesystem_size_bytes{instance="n:9100", mountpoint="/", fstype="ext4"}': "100x400",
        },
        quiet=("9m", "10m30s"),
        fires="11m30s",
    ),
    Case(
        alert="NodeDiskFillsUp",
        # A tenth an hour, from 55 % on; another is as full, and stays so.
        series={
            **_NODE,
            'node_filesystem_avail_bytes{instance="n:9100", mountpoint="/", fstype="ext4"}': "45000x39 45000-42x400",
            'node_filesystem_size_bytes{instance="n:9100", mountpoint="/", fstype="ext4"}': "100000x440",
            'node_filesystem_avail_bytes{instance="n:9100", mountpoint="/srv", fstype="ext4"}': "45000x440",
            'node_filesystem_size_bytes{instance="n:9100", mountpoint="/srv", fstype="ext4"}': "100000x440",
        },
        quiet=("10m", "39m"),
        fires="90m",
    ),
    Case(
        alert="NodeClockWrong",
        series={**_NODE, 'node_timex_offset_seconds{instance="n:9100"}': "0.01x39 -0.6x400"},
        quiet=("9m", "19m30s"),
        fires="20m30s",
    ),
    # ---- services
    Case(
        alert="ServiceDown",
        series={
            f'container_start_time_seconds{{{_TASK}, id="/docker/a", name="a"}}': _UP,
            # It is meant to end.
            f'container_start_time_seconds{{{_SETUP}, id="/docker/s", name="s"}}': _UP,
        },
        quiet=("9m", "11m30s"),
        fires="13m",
    ),
    Case(
        alert="ServiceRestarts",
        series={
            f'container_start_time_seconds{{{_TASK}, id="/docker/a", name="a"}}': "1x9 stale _x400",
            f'container_start_time_seconds{{{_TASK}, id="/docker/b", name="b"}}': "_x9 1x9 stale _x400",
            f'container_start_time_seconds{{{_TASK}, id="/docker/c", name="c"}}': "_x19 1x9 stale _x400",
            f'container_start_time_seconds{{{_TASK}, id="/docker/d", name="d"}}': "_x29 1x9 stale _x400",
            f'container_start_time_seconds{{{_TASK}, id="/docker/e", name="e"}}': "_x39 1x400",
            # Of another service five tasks are updated.
            **{
                f'container_start_time_seconds{{{_OTHER_TASK}, id="/docker/{number}", name="{number}"}}': (
                    "1x29 stale _x400" if number < 5 else "_x29 1x400"
                )
                for number in range(10)
            },
        },
        quiet=("9m",),
        fires="16m",
    ),
    Case(
        alert="TaskCpuBusy",
        series={
            f'container_cpu_usage_seconds_total{{{_TASK}, id="/docker/a", name="a", cpu="total"}}': "0x39 0+14.25x400"
        },
        quiet=("9m", "24m"),
        fires="31m",
    ),
    Case(
        alert="TaskMemoryNearLimit",
        series={
            f'container_memory_working_set_bytes{{{_TASK}, id="/docker/a", name="a"}}': "50x39 91x400",
            f'container_spec_memory_limit_bytes{{{_TASK}, id="/docker/a", name="a"}}': "100x400",
            f'container_memory_working_set_bytes{{{_TASK}, id="/docker/b", name="b"}}': "100x400",
            f'container_spec_memory_limit_bytes{{{_TASK}, id="/docker/b", name="b"}}': "0x400",
        },
        quiet=("9m", "19m30s"),
        fires="20m30s",
    ),
    Case(
        alert="TaskMemoryLarge",
        series={
            f'container_memory_working_set_bytes{{{_TASK}, id="/docker/a", name="a"}}': "1000x39 2000000001x400",
            f'container_spec_memory_limit_bytes{{{_TASK}, id="/docker/a", name="a"}}': "0x400",
            f'container_memory_working_set_bytes{{{_TASK}, id="/docker/b", name="b"}}': "3000000000x400",
            f'container_spec_memory_limit_bytes{{{_TASK}, id="/docker/b", name="b"}}': "4000000000x400",
        },
        quiet=("9m", "19m30s"),
        fires="20m30s",
    ),
    Case(
        alert="TaskKilledForMemory",
        series={f'container_oom_events_total{{{_TASK}, id="/docker/a", name="a"}}': "0x39 1x400"},
        quiet=("9m",),
        fires="11m",
    ),
    # ---- monitoring
    Case(alert="Watchdog", series={}, quiet=(), fires="15s"),
    Case(
        alert="TargetDown",
        series={'up{job="gateway", instance="a"}': "1x39 0x400", 'up{job="sink", instance="b"}': "1x400"},
        quiet=("9m", "12m30s"),
        fires="13m30s",
    ),
    Case(
        alert="AlertmanagerDown",
        series={'up{job="alertmanager", instance="a"}': "1x39 0x400"},
        quiet=("9m", "12m30s"),
        fires="13m30s",
    ),
    Case(
        alert="AlertsNotDelivered",
        series={'alertmanager_notifications_failed_total{integration="webhook"}': "0x39 1x400"},
        quiet=("9m",),
        fires="11m",
    ),
    Case(
        alert="RulesFail",
        series={'prometheus_rule_evaluation_failures_total{rule_group="g"}': "0x39 1x400"},
        quiet=("9m",),
        fires="11m",
    ),
)
