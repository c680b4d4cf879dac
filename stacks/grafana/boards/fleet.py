"""The fleet: who is registered where, in which version of LwM2M, who says nothing for long, how far campaigns are."""

from __future__ import annotations

from stacks.grafana.panels import (
    BAD,
    GOOD,
    WARN,
    Board,
    Shape,
    figure,
    gateways,
    influx,
    prom,
    rows,
    series,
)

_G = '{gateway=~"$gateway"}'


def _sum(name: str) -> str:
    return f"sum by (gateway) (rate({name}{_G}[$__rate_interval]))"


BOARD = Board(
    uid="headwater-fleet",
    title="Headwater: fleet",
    description="All gateways and their devices: registered, online, versions.",
    variables=[gateways()],
    rows=[
        (
            "",
            [
                figure(
                    "Gateways ready",
                    "Gateways whose /readyz says that they are of use.",
                    "short",
                    prom('sum(headwater_ready{component="gateway", gateway=~"$gateway"})'),
                    steps=((0, BAD), (1, GOOD)),
                ),
                figure(
                    "Gateways not ready",
                    "Scraped, and not of use. One that does not answer at all is not counted: see the alerts.",
                    "short",
                    prom('count(headwater_ready{component="gateway", gateway=~"$gateway"} == 0) or vector(0)'),
                    steps=((0, GOOD), (1, BAD)),
                ),
                figure(
                    "Devices online",
                    "Registered: their lifetime has not run out.",
                    "short",
                    prom(f"sum(headwater_gateway_devices{_G})"),
                ),
                figure(
                    "Change in an hour",
                    "Devices now against an hour ago, or since there are figures if that is less.",
                    "short",
                    prom(
                        f"sum(headwater_gateway_devices{_G}) - sum(headwater_gateway_devices{_G} offset 1h"
                        f" or min_over_time(headwater_gateway_devices{_G}[1h]))"
                    ),
                    steps=((0, WARN), (0, GOOD)),
                ),
                figure(
                    "Observations",
                    "Established on all devices.",
                    "short",
                    prom(f"sum(headwater_gateway_observations{_G})"),
                ),
                figure(
                    "Notifications",
                    "Taken from all devices, per second.",
                    "ops",
                    prom(f"sum(rate(headwater_gateway_notifications_total{_G}[$__rate_interval]))"),
                ),
            ],
        ),
        (
            "Registrations",
            [
                series(
                    "Devices online",
                    "By gateway.",
                    "short",
                    prom(f"sum by (gateway) (headwater_gateway_devices{_G})", "{{gateway}}"),
                    stack=True,
                ),
                series(
                    "LwM2M versions",
                    "Registered devices by the version of LwM2M that they speak.",
                    "short",
                    prom(
                        'sum by (version) (headwater_gateway_devices_by_version{gateway=~"$gateway"})',
                        "LwM2M {{version}}",
                    ),
                    stack=True,
                ),
                series(
                    "Coming and going",
                    "Registers, de-registers, and registrations whose lifetime ran out without a word.",
                    "ops",
                    prom(_sum("headwater_gateway_registrations_total"), "{{gateway}} registered"),
                    prom(_sum("headwater_gateway_deregistrations_total"), "{{gateway}} de-registered"),
                    prom(_sum("headwater_gateway_expired_total"), "{{gateway}} expired"),
                ),
                series(
                    "Signs of life",
                    "Registration updates and notifications.",
                    "ops",
                    prom(_sum("headwater_gateway_updates_total"), "{{gateway}} updates"),
                    prom(_sum("headwater_gateway_notifications_total"), "{{gateway}} notifications"),
                ),
                rows(
                    "Gateways",
                    "What runs at each gateway: devices, observations, and which build.",
                    prom(f"sum by (gateway) (headwater_gateway_devices{_G})", instant=True),
                    prom(f"sum by (gateway) (headwater_gateway_observations{_G})", instant=True),
                    prom(
                        'max by (gateway, version, python) (headwater_build_info{component="gateway", '
                        'gateway=~"$gateway"})',
                        instant=True,
                    ),
                    span=12,
                    hidden=("Time", "Value #C"),
                    renamed={"Value #A": "devices", "Value #B": "observations"},
                ),
                rows(
                    "Who said how much",
                    "Notifications and replies of each device within the time shown, and its last one, from InfluxDB. "
                    "A device that is not here said nothing.",
                    influx(
                        'SELECT count("value") AS "numbers" FROM "resources" WHERE $timeFilter AND '
                        '"serverId" =~ /^${gateway:regex}$/ GROUP BY "serverId", "ep"',
                        shape=Shape.TABLE,
                    ),
                    span=12,
                    hidden=("Time",),
                    renamed={"serverId": "gateway", "ep": "device"},
                ),
            ],
        ),
        (
            "Campaigns",
            [
                series(
                    "Campaigns",
                    "By how they stand. A stopped one had more failures than it allows: `headwater campaign status` "
                    "says which.",
                    "short",
                    prom(f"sum by (gateway, standing) (headwater_campaigns{_G})", "{{gateway}} {{standing}}"),
                    span=8,
                    stack=True,
                ),
                series(
                    "Devices of campaigns",
                    "Of campaigns that are not done, by where each device stands; waiting: it has not begun.",
                    "short",
                    prom(f"sum by (gateway, phase) (headwater_campaigns_devices{_G})", "{{gateway}} {{phase}}"),
                    span=8,
                    stack=True,
                ),
                series(
                    "Requests for campaigns",
                    "Sent to devices, per second.",
                    "ops",
                    prom(_sum("headwater_campaigns_requests_total"), "{{gateway}}"),
                    span=8,
                ),
            ],
        ),
        (
            "Certificates",
            [
                rows(
                    "Certificates",
                    "Until each runs out, the next one first: that on the disk, and that which the process has.",
                    prom(
                        "sort(min by (identity, source, job) "
                        "(headwater_certificate_not_after_timestamp_seconds - time()))",
                        instant=True,
                    ),
                    height=6,
                    unit="s",
                    hidden=("Time",),
                    renamed={"Value": "runs out in"},
                ),
            ],
        ),
    ],
)
