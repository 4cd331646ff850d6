"""Certificates by ACME (RFC 8555), the challenge being a file that is asked for by HTTP (8.3).

Everything here waits for an authority: call it from a thread of its own.
"""

from __future__ import annotations

import datetime
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

import requests
from acme import challenges, client, crypto_util, errors, messages
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.jwk import JWK, JWKRSA

from p2prc import __version__
from p2prc.web.orders import Obtained, Order, OrderFailed

_ANSWER_S = 45
_ISSUED_S = 120
_KEY_BITS = 2048


@dataclass(frozen=True, slots=True)
class _Asked:
    challenge: messages.ChallengeBody
    response: challenges.ChallengeResponse
    path: str


def obtain(order: Order, answers: MutableMapping[str, bytes]) -> Obtained:
    """Return a certificate and its key. `answers` are what is served by path meanwhile.

    Raises OrderFailed.
    """
    try:
        return _obtained(order, answers)
    except errors.ValidationError as error:
        raise OrderFailed(_why(error)) from error
    except (errors.Error, messages.Error, requests.RequestException, OSError, ValueError) as error:
        raise OrderFailed(str(error)[:300] or type(error).__name__) from error


def _obtained(order: Order, answers: MutableMapping[str, bytes]) -> Obtained:
    account_key = JWKRSA(key=_account_key(order.account_key))
    network = client.ClientNetwork(
        account_key, user_agent=f"p2prc/{__version__}", timeout=_ANSWER_S
    )
    try:
        directory = client.ClientV2.get_directory(order.directory, network)
        authority = client.ClientV2(directory, network)
        _register(authority, network, order.email)
        key = _pem(ec.generate_private_key(ec.SECP256R1()))
        wanted = authority.new_order(crypto_util.make_csr(key, [order.domain]))
        asked = [_challenge(each, account_key, answers) for each in wanted.authorizations]
        try:
            for each in asked:
                authority.answer_challenge(each.challenge, each.response)
            deadline = datetime.datetime.now() + datetime.timedelta(seconds=_ISSUED_S)  # noqa: DTZ005
            issued = authority.poll_and_finalize(wanted, deadline)
        finally:
            for each in asked:
                answers.pop(each.path, None)
        return Obtained(issued.fullchain_pem.encode(), key)
    finally:
        network.session.close()


def _register(authority: client.ClientV2, network: client.ClientNetwork, email: str) -> None:
    try:
        authority.new_account(
            messages.NewRegistration.from_data(email=email or None, terms_of_service_agreed=True)
        )
    except errors.ConflictError as known:
        found = messages.RegistrationResource(uri=known.location, body=messages.Registration())
        network.account = found
        authority.query_registration(found)


def _challenge(
    authorization: messages.AuthorizationResource,
    key: JWK,
    answers: MutableMapping[str, bytes],
) -> _Asked:
    """Choose the challenge by HTTP and have it answered. Raises OrderFailed."""
    for each in authorization.body.challenges:
        if isinstance(each.chall, challenges.HTTP01):
            response, validation = each.response_and_validation(key)
            path = str(each.chall.path)
            answers[path] = str(validation).encode()
            return _Asked(each, response, path)
    raise OrderFailed("the authority would not ask by HTTP")


def _account_key(path: Path) -> rsa.RSAPrivateKey:
    """Return the account's key, made when there is none."""
    if path.exists():
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(found, rsa.RSAPrivateKey):
            raise OrderFailed(f"`{path}` is no account's key")
        return found
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(_pem(key))
    return key


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _why(error: errors.ValidationError) -> str:
    """Say in the authority's words what it could not see."""
    for authorization in error.failed_authzrs:
        for each in authorization.body.challenges:
            if each.error is not None:
                return str(each.error.detail)[:300]
    return "the authority could not see the challenge"
