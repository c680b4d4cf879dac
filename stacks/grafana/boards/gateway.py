"""The gateways, or the one that is chosen: what devices say, what goes into Kafka, and what the process costs."""

from __future__ import annotations

from stacks.grafana.panels import BAD, GOOD, WARN, Board, figure, gateways, prom, series

_G = '{gateway=~"$gateway"}'


def _sum(name: str) -> str:
    """Of a gauge: a gateway of several processes shows one each."""
    return f"sum by (gateway) ({name}{_G})"


def _rate(name: str, by: str = "") -> str:
    return f"sum by ({', '.join(filter(None, ('gateway', by)))}) (rate({name}{_G}[$__rate_interval]))"


def _bootstrap(asked: str, by: str = "") -> str:
    """Of the bootstrap servers, which say by their build whose they are."""
    build = 'headwater_build_info{component="bootstrap", gateway=~"$gateway"}'
    labels = ", ".join(filter(None, ("gateway", by)))
    return f"sum by ({labels}) ({asked} * on (job, instance) group_left (gateway) {build})"


def _of_process(metric: str) -> str:
    """A metric of the process that is a gateway: processes are told apart by their scrape's job and instance."""
    build = 'headwater_build_info{component="gateway", gateway=~"$gateway"}'
    return f"sum by (gateway) ({metric} * on (job, instance) group_left (gateway) {build})"


BOARD = Board(
    uid="headwater-gateway",
    title="Headwater: gateway",
    description="Each gateway, or the one that is chosen: devices, notifications, commands, its Kafka, its process.",
    variables=[gateways()],
    rows=[
        (
            "",
            [
                figure(
                    "Ready",
                    "What /readyz says: the gateway is of use now.",
                    "none",
                    prom('headwater_ready{component="gateway", gateway=~"$gateway"}', "{{gateway}}"),
                    steps=((0, BAD), (1, GOOD)),
                    words={"0": "not ready", "1": "ready"},
                ),
                figure(
                    "Accepting",
                    "Whether what comes from devices can be made durable: the Kafka beside the gateway answers.",
                    "none",
                    prom(f"min by (gateway) (headwater_gateway_accepting{_G})", "{{gateway}}"),
                    steps=((0, BAD), (1, GOOD)),
                    words={"0": "no Kafka", "1": "yes"},
                ),
                figure(
                    "Devices",
                    "Registered devices: their lifetime has not run out.",
                    "short",
                    prom(_sum("headwater_gateway_devices"), "{{gateway}}"),
                ),
                figure(
                    "Observations", "Established.", "short", prom(_sum("headwater_gateway_observations"), "{{gateway}}")
                ),
                figure(
                    "Commands waiting",
                    "Commands without a durable reply; those for sleeping devices wait here.",
                    "short",
                    prom(_sum("headwater_gateway_commands_waiting"), "{{gateway}}"),
                    steps=((0, GOOD), (100, WARN)),
                ),
                figure(
                    "Memory",
                    "Resident memory of the process.",
                    "bytes",
                    prom(_of_process("process_resident_memory_bytes"), "{{gateway}}"),
                    steps=((0, GOOD), (256e6, WARN), (512e6, BAD)),
                ),
            ],
        ),
        (
            "From the devices",
            [
                series(
                    "Notifications",
                    "Taken: acknowledged and in Kafka. Came again: retransmissions. Late: overtaken by a newer one. "
                    "Refused: left unacknowledged, as Kafka did not answer; the device tells them again.",
                    "ops",
                    prom(_rate("headwater_gateway_notifications_total"), "{{gateway}} taken"),
                    prom(_rate("headwater_gateway_notification_duplicates_total"), "{{gateway}} came again"),
                    prom(_rate("headwater_gateway_notifications_late_total"), "{{gateway}} late"),
                    prom(_rate("headwater_gateway_notifications_refused_total"), "{{gateway}} refused"),
                ),
                series(
                    "Registrations",
                    "Registers, updates, de-registers; expired: the lifetime ran out; refused: answered 5.03.",
                    "ops",
                    prom(_rate("headwater_gateway_registrations_total"), "{{gateway}} registered"),
                    prom(_rate("headwater_gateway_updates_total"), "{{gateway}} updated"),
                    prom(_rate("headwater_gateway_deregistrations_total"), "{{gateway}} de-registered"),
                    prom(_rate("headwater_gateway_expired_total"), "{{gateway}} expired"),
                    prom(_rate("headwater_gateway_registrations_refused_total"), "{{gateway}} refused"),
                ),
                series(
                    "Datagrams",
                    "All that came to the CoAP port, and what was dropped at the door.",
                    "pps",
                    prom(_rate("headwater_gateway_datagrams_total"), "{{gateway}} received"),
                    prom(
                        _rate("headwater_gateway_datagrams_dropped_total", "reason"), "{{gateway}} dropped: {{reason}}"
                    ),
                ),
                series(
                    "Notifications not recorded, by reason",
                    "In the last range of the rate; each reason appears once it has happened.",
                    "ops",
                    prom(_rate("headwater_gateway_notifications_dropped_total", "reason"), "{{gateway}} {{reason}}"),
                ),
                series(
                    "Sends",
                    "What devices tell by themselves: recorded; come again; and not recorded, by reason, each of which "
                    "appears once it has happened.",
                    "ops",
                    prom(_rate("headwater_gateway_sends_total"), "{{gateway}} recorded"),
                    prom(_rate("headwater_gateway_sends_repeated_total"), "{{gateway}} came again"),
                    prom(_rate("headwater_gateway_sends_refused_total", "reason"), "{{gateway}} refused: {{reason}}"),
                ),
                series(
                    "Devices behind a device",
                    "Of the registered devices those that a gateway of devices tells of; left out: per second and by "
                    "reason, each of which appears once it has happened.",
                    "short",
                    prom(_sum("headwater_gateway_devices_behind"), "{{gateway}} registered"),
                    prom(
                        _rate("headwater_gateway_devices_behind_refused_total", "reason"),
                        "{{gateway}} left out: {{reason}}",
                    ),
                ),
            ],
        ),
        (
            "Devices with keys (DTLS)",
            [
                series(
                    "Sessions",
                    "Established, and handshakes that are under way. Empty where the gateway has no credentials.",
                    "short",
                    prom(_sum("headwater_gateway_dtls_sessions"), "{{gateway}} sessions"),
                    prom(_sum("headwater_gateway_dtls_handshakes_open"), "{{gateway}} under way"),
                ),
                series(
                    "Handshakes",
                    "Completed ones, whole or resumed; sessions that went on from another address; sessions that were "
                    "ended as their key was removed or changed.",
                    "ops",
                    prom(_rate("headwater_gateway_dtls_handshakes_total", "kind"), "{{gateway}} {{kind}}"),
                    prom(_rate("headwater_gateway_dtls_moved_total"), "{{gateway}} moved"),
                    prom(_rate("headwater_gateway_dtls_revoked_total"), "{{gateway}} revoked"),
                ),
                series(
                    "Dropped, by reason",
                    "DTLS records that came to nothing: wrong keys, unknown identities, replays, no session. "
                    "Each reason appears once it has happened.",
                    "ops",
                    prom(_rate("headwater_gateway_dtls_dropped_total", "reason"), "{{gateway}} {{reason}}"),
                ),
                series(
                    "Not sent",
                    "Messages to devices without a session, mostly after a restart and until they speak again; looks "
                    "into the credentials that failed.",
                    "ops",
                    prom(_rate("headwater_gateway_dtls_unsent_total", "reason"), "{{gateway}} {{reason}}"),
                    prom(_rate("headwater_gateway_credentials_unreadable_total"), "{{gateway}} credentials unreadable"),
                ),
            ],
        ),
        (
            "Devices with certificates and OSCORE",
            [
                series(
                    "Sessions and contexts",
                    "DTLS sessions with certificates, handshakes of theirs that are under way, security contexts of "
                    "OSCORE in use. Empty where the gateway has no certificate, or no credentials.",
                    "short",
                    prom(_sum("headwater_gateway_dtls_certificate_sessions"), "{{gateway}} certificates"),
                    prom(_sum("headwater_gateway_dtls_certificate_handshakes_open"), "{{gateway}} handshakes"),
                    prom(_sum("headwater_gateway_oscore_contexts"), "{{gateway}} OSCORE"),
                ),
                series(
                    "Dropped certificates, by reason",
                    "Handshakes and records with certificates that came to nothing: one that ran out, nobody's, weak. "
                    "Each reason appears once it has happened.",
                    "ops",
                    prom(_rate("headwater_gateway_dtls_certificate_dropped_total", "reason"), "{{gateway}} {{reason}}"),
                ),
                series(
                    "OSCORE messages",
                    "Opened; keys that a device had derived anew; and what came to nothing, by reason, each of which "
                    "appears once it has happened.",
                    "ops",
                    prom(_rate("headwater_gateway_oscore_opened_total"), "{{gateway}} opened"),
                    prom(_rate("headwater_gateway_oscore_renewed_total"), "{{gateway}} renewed"),
                    prom(_rate("headwater_gateway_oscore_refused_total", "reason"), "{{gateway}} {{reason}}"),
                ),
            ],
        ),
        (
            "Bootstrap",
            [
                series(
                    "Bootstrap runs, by how they ended",
                    "Done: the device has its servers and a new key. Failed: it keeps what it had, and comes again. "
                    "Empty where the gateway has no bootstrap server.",
                    "ops",
                    prom(
                        _bootstrap("rate(headwater_bootstrap_runs_total[$__rate_interval])", "outcome"),
                        "{{gateway}} {{outcome}}",
                    ),
                ),
                series(
                    "Bootstrap: under way, and who asked in vain",
                    "Under way; refused requests by code, and DTLS records dropped by reason, such as a wrong key, per "
                    "second: each appears once it has happened.",
                    "short",
                    prom(_bootstrap("headwater_bootstrap_running"), "{{gateway}} under way"),
                    prom(
                        _bootstrap("rate(headwater_bootstrap_refused_total[$__rate_interval])", "code"),
                        "{{gateway}} refused: {{code}}",
                    ),
                    prom(
                        _bootstrap("rate(headwater_bootstrap_dtls_dropped_total[$__rate_interval])", "reason"),
                        "{{gateway}} dropped: {{reason}}",
                    ),
                ),
            ],
        ),
        (
            "Commands",
            [
                series(
                    "Commands, by how they ended",
                    "Every request gets exactly one reply; this is which.",
                    "ops",
                    prom(_rate("headwater_gateway_commands_total", "outcome"), "{{gateway}} {{outcome}}"),
                ),
                series(
                    "Commands waiting",
                    "Without a durable reply, and requests that came again.",
                    "short",
                    prom(_sum("headwater_gateway_commands_waiting"), "{{gateway}} waiting"),
                    prom(_rate("headwater_gateway_commands_repeated_total"), "{{gateway}} came again, per second"),
                ),
            ],
        ),
        (
            "Into Kafka and the state file",
            [
                series(
                    "Records",
                    "Handed to the producer, and those that it did not take or lost.",
                    "ops",
                    prom(_rate("headwater_gateway_records_total"), "{{gateway}} handed over"),
                    prom(_rate("headwater_gateway_records_failed_total"), "{{gateway}} failed"),
                ),
                series(
                    "Under way",
                    "Delivery reports of the edge's Kafka that are awaited.",
                    "short",
                    prom(_sum("headwater_gateway_uplink_under_way"), "{{gateway}} awaited"),
                ),
                series(
                    "Groups written to the state file",
                    "Registrations, observations and tickets are written in groups; failed: the disk refused.",
                    "ops",
                    prom(_rate("headwater_gateway_state_groups_total"), "{{gateway}} written"),
                    prom(_rate("headwater_gateway_state_groups_failed_total"), "{{gateway}} failed"),
                ),
                series(
                    "Dead letters",
                    "What could not be handled, by the stage at which.",
                    "ops",
                    prom(_rate("headwater_gateway_dead_letters_total", "stage"), "{{gateway}} {{stage}}"),
                ),
            ],
        ),
        (
            "The process",
            [
                series(
                    "CPU",
                    "Of one core.",
                    "percentunit",
                    prom(_of_process("rate(process_cpu_seconds_total[$__rate_interval])"), "{{gateway}} CPU"),
                ),
                series(
                    "Resident memory",
                    "Of the gateway's process.",
                    "bytes",
                    prom(_of_process("process_resident_memory_bytes"), "{{gateway}} resident"),
                ),
            ],
        ),
    ],
)
