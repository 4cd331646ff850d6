"""A certificate that lives as long as the process: whoever is told it trusts it and no other."""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Peers compare the certificate itself, and their clocks may be years off: dates mean nothing here.
_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_UNTIL = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is shown (DER), and the context that shows it."""

    der: bytes
    context: ssl.SSLContext


def new_certificate() -> Certificate:
    """Make a key that never leaves the process, and a certificate for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2prc bulk")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    _load(context, secret + certificate.public_bytes(serialization.Encoding.PEM))
    return Certificate(certificate.public_bytes(serialization.Encoding.DER), context)


def trusting(certificate: bytes) -> ssl.SSLContext:
    """Return a dialler's context that trusts one certificate. Raises ValueError for no such."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=certificate)
    except ssl.SSLError as error:
        raise ValueError("not a certificate") from error
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Hand over the key: OpenSSL's Python face reads it from files alone."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("p2prc-bulk")
        with os.fdopen(descriptor, "wb") as memory:
            memory.write(pem)
            memory.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.TemporaryDirectory(prefix="p2prc-") as folder:
        path = Path(folder) / "bulk.pem"
        path.write_bytes(pem)
        context.load_cert_chain(path)
