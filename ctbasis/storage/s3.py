"""S3 at AWS or any compatible endpoint: a client configured by the AWS_* variables, and errors in plain words."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from ctbasis.errors import CtbasisError, TransientError

CONNECT_SECONDS = 5
READ_SECONDS = 20

REQUEST_ATTEMPTS = 2
"""Attempts that botocore makes for one request; the callers repeat the whole operation."""

ACCESS_DENIED = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}

TRANSIENT_ERRORS = (
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseStreamingError,
)

NO_SUCH_KEY = {"404", "NoSuchKey", "NotFound"}


def error_code(error: Exception) -> str:
    """Return the S3 error code of a server's answer, such as NoSuchKey; empty for any other exception."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def split_uri(uri: str, *, what: str) -> tuple[str, str]:
    """Return the bucket and the prefix of `s3://bucket/prefix`; the prefix neither begins nor ends with a slash.

    Args:
        uri: The URI.
        what: What the URI stands for in an error message: source, store.

    Raises:
        CtbasisError: The URI is not of this form, or holds a user name or password.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme.lower() != "s3" or not bucket or "@" in bucket:
        # The URI is not repeated: text before an @ may be a password.
        raise CtbasisError(
            f"the URI of the {what} names no bucket", expected="s3://bucket/prefix", remedy=f"correct the {what}"
        )
    return bucket, prefix.strip("/")


class Bucket:
    """An S3 bucket with the client that accesses it.

    Endpoint, region and keys come from the usual AWS_* variables and profiles. Requests are unsigned if there are no
    keys, as public buckets allow. Any number of threads may use the client, but only in the process that created it.

    Attributes:
        name: Name of the bucket.
        client: boto3's S3 client.
        endpoint: Host and port of the server, without a user name or password.

    Args:
        name: Name of the bucket.
        what: What the bucket stands for in error messages: source, store.
        connections: Concurrent requests.
        use: The intended access in error messages: read, or read and write.
        settings: Settings of botocore's Config that override the defaults of this module.

    Raises:
        CtbasisError: The AWS_* variables or the profile are not valid.
    """

    def __init__(self, name: str, *, what: str, connections: int, use: str = "read", **settings: Any) -> None:
        self.name = name
        self._what = what
        self._use = use
        try:
            session = boto3.session.Session()
            self._signed = session.get_credentials() is not None
            self.client = _client(session, connections, signed=self._signed, settings=settings)
        except (BotoCoreError, ValueError) as error:
            raise CtbasisError(
                f"the AWS configuration is not valid ({type(error).__name__})",
                expected="AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or neither; AWS_ENDPOINT_URL as a full URL",
                remedy="check the AWS_* variables and the profile",
            ) from None
        # AWS_ENDPOINT_URL may carry a user name and a password.
        address = urlsplit(self.client.meta.endpoint_url)
        self.endpoint = f"{address.hostname}:{address.port}" if address.port else str(address.hostname)

    def translate(self, error: BotoCoreError | ClientError) -> CtbasisError | TransientError:
        """Return the error for the user. It does not repeat botocore's message, which may hold signed headers."""
        name = type(error).__name__
        if isinstance(error, ClientError):
            return self._error_answer(
                error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            )
        if isinstance(error, SSLError):
            return CtbasisError(
                f"the TLS certificate of {self.endpoint} cannot be verified (SSLError)",
                expected="a certificate signed by an authority that this machine trusts",
                cause="a private certificate authority, or a proxy that replaces certificates",
                remedy="set AWS_CA_BUNDLE to the certificate of that authority",
            )
        if isinstance(error, ParamValidationError):
            return CtbasisError(
                f"{self.name!r} is not a valid bucket name",
                expected="s3://bucket/prefix",
                remedy=f"correct the {self._what}",
            )
        if isinstance(error, TRANSIENT_ERRORS):
            return TransientError(name)
        if isinstance(error, (NoCredentialsError, CredentialRetrievalError)):
            return self._access_denied(name)
        return self.unreachable(name)

    def unreachable(self, reason: str) -> CtbasisError:
        """Return the error for a server that gives no answer or none that can be used."""
        return CtbasisError(
            f"S3 at {self.endpoint} does not answer ({reason})",
            expected=f"an answer within {CONNECT_SECONDS} s",
            cause="the server is down or overloaded, its address is wrong, or a proxy or firewall blocks it",
            remedy="check AWS_ENDPOINT_URL and the network, and run the step again",
        )

    def _error_answer(self, code: str, status: int) -> CtbasisError | TransientError:
        if code == "NoSuchBucket":
            return CtbasisError(
                f"there is no bucket {self.name!r} at {self.endpoint}",
                expected="an existing bucket",
                cause="the name is misspelt, or AWS_ENDPOINT_URL names another server",
                remedy=f"check the {self._what} and AWS_ENDPOINT_URL",
            )
        if code in ACCESS_DENIED or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return self._access_denied(code or str(status))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            return TransientError(f"{code or status}")
        return CtbasisError(
            f"{self.endpoint} answers {code or status} to a request for bucket {self.name!r}",
            expected="an S3-compatible server that knows the bucket",
            cause="AWS_ENDPOINT_URL or the region names another server",
            remedy=f"check the {self._what}, AWS_ENDPOINT_URL and AWS_REGION",
        )

    def _access_denied(self, reason: str) -> CtbasisError:
        if self._signed:
            cause = "the keys are wrong or expired, or lack the permission"
            remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
        else:
            cause = "no keys were found, so the request was unsigned, as for a public bucket"
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return CtbasisError(
            f"{self.endpoint} denies access to bucket {self.name!r} ({reason})",
            expected=f"permission to {self._use} it",
            cause=cause,
            remedy=remedy,
        )


def _client(session: boto3.session.Session, connections: int, *, signed: bool, settings: dict[str, Any]) -> Any:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": connections,
        "retries": {"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        **settings,
    }
    if not signed:
        options["signature_version"] = UNSIGNED
    # boto3 itself reads AWS_DEFAULT_REGION only; the other SDKs read AWS_REGION.
    region = session.region_name or os.environ.get("AWS_REGION")
    client = session.client("s3", region_name=region, config=Config(**options))
    if str(urlsplit(client.meta.endpoint_url).hostname).endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Few S3-compatible servers answer at bucket.host, the address style that boto3 prefers.
    return session.client("s3", region_name=region, config=Config(s3={"addressing_style": "path"}, **options))
