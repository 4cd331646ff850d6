"""A relay of iroh's with a certificate that nodes believe, as the public ones have.

Only such a relay tells nodes the address that it sees. iroh trusts the authorities that its library
was built with and takes no other; so nodes here run with a copy of the library in which the key of
one authority is ours.
"""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path

import iroh
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIBRARY = "libiroh_ffi.so"


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs, and what nodes and relays need to know of it."""

    variables: dict[str, str]
    """For nodes that are to believe it."""
    settings: Path
    """For `iroh-relay --config-path`."""


def authority_for(address: str, folder: Path) -> Authority | None:
    """Write a library, certificates and settings of a relay at the address.

    None: this iroh does not have the authority that we would stand in for.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    package = folder / "packages"
    name = _stand_in(key, package)
    if name is None:
        return None
    root = _certificate(name, name, key, key, "")
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    leaf = _certificate(leaf_name, name, leaf_key, key, address)
    for file, content in (
        ("root.pem", root.public_bytes(serialization.Encoding.PEM)),
        ("leaf.pem", leaf.public_bytes(serialization.Encoding.PEM)),
        ("leaf.key", leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption())),
    ):  # fmt: skip
        (folder / file).write_bytes(content)
    settings = folder / "relay.toml"
    settings.write_text(f"""
enable_relay = true
enable_quic_addr_discovery = true
enable_metrics = false
http_bind_addr = "0.0.0.0:80"
[tls]
https_bind_addr = "0.0.0.0:443"
cert_mode = "Manual"
manual_cert_path = "{folder / "leaf.pem"}"
manual_key_path = "{folder / "leaf.key"}"
""")
    variables = {"PYTHONPATH": str(package), "SSL_CERT_FILE": str(folder / "root.pem")}
    return Authority(variables, settings)


def _stand_in(key: ec.EllipticCurvePrivateKey, folder: Path) -> x509.Name | None:
    """Copy the package `iroh` with our key in place of an authority's; return whose it was."""
    own = Path(iroh.__file__).parent
    library = (own / _LIBRARY).read_bytes()
    for encoded in ssl.create_default_context().get_ca_certs(binary_form=True):
        authority = x509.load_der_x509_certificate(encoded)
        known = authority.public_key()
        if not isinstance(known, ec.EllipticCurvePublicKey) or known.key_size != key.key_size:
            continue
        if _point(known) in library:
            shutil.copytree(own, folder / "iroh", ignore=shutil.ignore_patterns(_LIBRARY))
            changed = library.replace(_point(known), _point(key.public_key()))
            (folder / "iroh" / _LIBRARY).write_bytes(changed)
            return authority.subject
    return None


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def _certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    address: str,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=not address, path_length=None), critical=True)
    )
    if address:
        names = [x509.IPAddress(ipaddress.ip_address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(signer, hashes.SHA384())
