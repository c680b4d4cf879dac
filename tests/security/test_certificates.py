"""Certificates of the own authority over real TLS connections, and before OpenSSL's own eyes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from security.authority import NOW, Authority, Keys, Step
from security.certificates import check_name, common_name, names_of
from security.errors import FolderError, Refused
from security.identities import Identity
from security.tls_folder import Side, read_folder

WAIT_S = 20.0
BROKER = Identity.parse("broker:rock64")
GATEWAY = Identity.parse("gateway:rock64")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.create()
    return made


def broker(authority: Authority) -> Path:
    return authority.ensure(BROKER, names=["localhost", "127.0.0.1"]).folder


def connect(server: Path, client: Path, host: str = "localhost") -> str:
    """One connection, both sides with their certificates: the principal that the server sees.

    Raises:
        ssl.SSLError: one of the two refuses the other.
    """
    context = read_folder(server).context(Side.SERVER)
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)

        def serve() -> None:
            with contextlib.suppress(OSError):  # a client that hangs up; it tells what was wrong
                plain, _ = listener.accept()
                plain.settimeout(WAIT_S)
                with context.wrap_socket(plain, server_side=True) as spoken:
                    certificate = spoken.getpeercert(binary_form=True)
                    assert certificate is not None
                    seen.append(common_name(x509.load_der_x509_certificate(certificate)))
                    spoken.sendall(b"!")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()[:2], timeout=WAIT_S) as plain,
                read_folder(client).context(Side.CLIENT).wrap_socket(plain, server_hostname=host) as spoken,
            ):
                # With TLS 1.3 a server's refusal comes after the handshake.
                answered = spoken.recv(1)
        finally:
            thread.join(WAIT_S)
    if answered != b"!":
        raise ssl.SSLError("the server hung up")
    return seen[0]


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which("openssl")
    assert found, "these tests need the program openssl (apt-get install openssl)"
    return subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def verified(authority: Authority, folder: Path) -> bool:
    bundle, lists = authority.folder.bundle_file, authority.folder.list_file
    done = openssl("verify", "-x509_strict", "-CAfile", bundle, "-CRLfile", lists, "-crl_check", folder / "cert.pem")
    return done.returncode == 0


def test_both_ends_of_a_connection_know_each_other(authority: Authority) -> None:
    gateway = authority.ensure(GATEWAY).folder
    for host in ("localhost", "127.0.0.1"):
        assert connect(broker(authority), gateway, host) == "gateway:rock64"


def test_a_broker_connects_to_a_broker(authority: Authority) -> None:
    assert connect(broker(authority), broker(authority)) == "broker:rock64"


def test_a_client_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.create()
    stranger = other.ensure(GATEWAY).folder
    with pytest.raises(ssl.SSLError):
        connect(broker(authority), stranger)
    # It trusts the right authority, but its own certificate is of the wrong one.
    mixed = tmp_path / "mixed"
    shutil.copytree(stranger, mixed)
    (mixed / "ca.pem").write_bytes((stranger / "ca.pem").read_bytes() + authority.folder.bundle_file.read_bytes())
    with pytest.raises(ssl.SSLError):
        connect(broker(authority), mixed)


def test_a_server_by_another_name_is_refused(authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(broker(authority), authority.ensure(GATEWAY).folder, "kafka-cloud")


def test_a_client_cannot_play_a_broker(authority: Authority) -> None:
    gateway = authority.ensure(GATEWAY).folder
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        connect(gateway, gateway)


def test_what_has_run_out_is_refused_on_both_sides(tmp_path: Path) -> None:
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    old = Authority(tmp_path / "pki", clock=lambda: then)
    old.create()
    old_gateway = old.ensure(GATEWAY, days=10).folder
    old_broker = old.ensure(BROKER, names=["localhost"], days=10).folder
    now = Authority(tmp_path / "pki")
    other = now.ensure(Identity.parse("user:anna")).folder
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(old_broker, other)
    with pytest.raises(ssl.SSLError):
        connect(now.ensure(Identity.parse("broker:cloud"), names=["localhost"]).folder, old_gateway)
    with pytest.raises(FolderError, match=r"ran out on .*headwater certs renew gateway:rock64"):
        read_folder(old_gateway).check_dates(datetime.now(UTC))
    # Renewed, it is let in again.
    now.renew(BROKER)
    now.renew(GATEWAY)
    assert connect(old_broker, old_gateway) == "gateway:rock64"


def test_a_clock_that_is_behind_is_told(authority: Authority) -> None:
    held = read_folder(authority.ensure(GATEWAY).folder)
    with pytest.raises(FolderError, match="set the clock"):
        held.check_dates(datetime.now(UTC) - timedelta(days=3))
    held.check_dates(datetime.now(UTC) - timedelta(hours=12))


def test_the_identity_after_a_revocation_is_another_principal(authority: Authority) -> None:
    stolen = authority.ensure(GATEWAY).folder
    gone = authority.revoke(GATEWAY, reason="stolen").folder
    assert not stolen.exists()
    following = authority.ensure(GATEWAY).folder
    # TLS alone lets both in, as Kafka does: their principals differ, and the rights hang on those.
    assert connect(broker(authority), gone) == "gateway:rock64"
    assert connect(broker(authority), following) == "gateway:rock64:2"


def test_old_and_renewed_certificates_hold_side_by_side(authority: Authority, tmp_path: Path) -> None:
    folder = authority.ensure(GATEWAY).folder
    before = tmp_path / "as it was"
    shutil.copytree(folder, before)
    authority.renew(GATEWAY, within=NOW, keys=Keys.NEW)
    assert (before / "key.pem").read_bytes() != (folder / "key.pem").read_bytes()
    assert [connect(broker(authority), one) for one in (before, folder)] == ["gateway:rock64"] * 2


def test_the_authority_is_rotated_with_nobody_shut_out(authority: Authority, tmp_path: Path) -> None:
    first_broker, first_gateway = broker(authority), authority.ensure(GATEWAY).folder
    versions: list[tuple[Path, Path]] = []

    def keep(name: str) -> None:
        for folder, what in ((first_broker, "broker"), (first_gateway, "gateway")):
            shutil.copytree(folder, tmp_path / f"{name} {what}")
        versions.append((tmp_path / f"{name} broker", tmp_path / f"{name} gateway"))

    keep("at first")
    for step in Step:
        authority.rotate(step)
        keep(step.value)
    # Whoever is a step behind, or a step ahead, is understood.
    for (a_broker, a_gateway), (b_broker, b_gateway) in pairwise(versions):
        for server, client in ((a_broker, b_gateway), (b_broker, a_gateway), (b_broker, b_gateway)):
            assert connect(server, client) == "gateway:rock64"
    # The old authority counts no more at the end.
    with pytest.raises(ssl.SSLError):
        connect(first_broker, versions[0][1])


def test_openssl_finds_the_chains_strictly_right(authority: Authority) -> None:
    folders = [broker(authority), authority.ensure(GATEWAY).folder]
    assert all(verified(authority, folder) for folder in folders)
    bundle = authority.folder.bundle_file
    assert openssl("verify", "-x509_strict", "-CAfile", bundle, bundle).returncode == 0
    authority.rotate(Step.BEGIN)
    assert all(verified(authority, folder) for folder in folders)
    authority.rotate(Step.SIGN)
    assert all(verified(authority, folder) for folder in folders)


def test_openssl_finds_the_revoked_in_the_list_also_after_a_rotation(authority: Authority) -> None:
    authority.ensure(GATEWAY)
    authority.renew(GATEWAY, within=NOW)
    other = broker(authority)
    gone = authority.revoke(GATEWAY).folder
    assert not verified(authority, gone)
    assert verified(authority, other)
    listed = openssl("crl", "-in", authority.folder.list_file, "-noout", "-text").stdout
    # Both of its certificates: the one before the renewal is as stolen.
    assert listed.count("Serial Number:") == 2
    authority.rotate(Step.BEGIN)
    assert not verified(authority, gone)
    authority.rotate(Step.SIGN)
    assert not verified(authority, gone)
    assert verified(authority, other)


def test_openssl_reads_the_key_and_the_keystore(authority: Authority) -> None:
    folder = broker(authority)
    assert openssl("pkey", "-in", folder / "key.pem", "-noout", "-check").returncode == 0
    assert (folder / "key.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    both = (folder / "keystore.pem").read_text()
    assert both == (folder / "key.pem").read_text() + (folder / "cert.pem").read_text()


def test_an_authority_signs_leaves_and_lists_and_nothing_else(authority: Authority) -> None:
    certificate = authority.folder.signer_certificate(authority.record().signer)
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)


def test_only_a_broker_is_a_server(authority: Authority) -> None:
    uses = {
        folder: set(read_folder(folder).certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for folder in (broker(authority), authority.ensure(GATEWAY).folder)
    }
    assert list(uses.values()) == [
        {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH},
        {ExtendedKeyUsageOID.CLIENT_AUTH},
    ]


def test_the_subject_is_the_principal_and_nothing_else(authority: Authority) -> None:
    certificate = read_folder(broker(authority)).certificate
    assert certificate.subject.rfc4514_string() == "CN=broker:rock64"
    assert names_of(certificate) == ("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Kafka.Example", "kafka.example"),
        ("kafka-my_gw", "kafka-my_gw"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("localhost", "localhost"),
    ],
)
def test_a_name_is_written_as_it_is_compared(text: str, name: str) -> None:
    assert check_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "*.example", "a b", "kafka:9092", "-a.example", "a..b", "1.2.3", "10.0.0.256", "a.", "ä.example", "a," * 9],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="no host name"):
        check_name(text)
