"""S3, at AWS or any compatible endpoint: the client that the AWS_* variables describe, and what its errors mean."""

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
"""botocore's, for each request; whoever asks tries again as a whole."""

WRONG_KEYS = {
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

TRANSIENT = (BotoConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError, ResponseStreamingError)

NO_SUCH_KEY = {"404", "NoSuchKey", "NotFound"}


def code_of(error: Exception) -> str:
    """Return what an S3 server calls its refusal, such as NoSuchKey; empty where `error` is no answer of one."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def split(uri: str, *, what: str) -> tuple[str, str]:
    """Return bucket and prefix of `s3://bucket/prefix`; the prefix has no slash at its ends.

    Raises:
        CtbasisError: The URI names no bucket.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme.lower() != "s3" or not bucket or "@" in bucket:
        # Not repeated here: what stands before an @ may be a secret.
        raise CtbasisError(f"the {what} names no bucket", expected="s3://bucket/prefix")
    return bucket, prefix.strip("/")


class Bucket:
    """A bucket, and the client to ask for it.

    Endpoint, region and keys are those of the usual AWS_* variables and profiles. Without keys requests go unsigned, as
    public buckets take them. The client may be used by many threads, and only by the process that made it.

    Args:
        name: Of the bucket.
        what: What the user calls it: the source, the store.
        use: What is done with it: read, or read and write.
        connections: How many requests run at once.
        settings: Of botocore's Config, over those here.

    Raises:
        CtbasisError: The AWS_* variables are no configuration.
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
                f"the AWS configuration is not usable ({type(error).__name__})",
                expected="AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or neither; AWS_ENDPOINT_URL as a full URL",
                remedy="check the AWS_* variables and the profile",
            ) from None
        # Without a user name and password that the URL may carry.
        address = urlsplit(self.client.meta.endpoint_url)
        self.endpoint = f"{address.hostname}:{address.port}" if address.port else str(address.hostname)

    def explained(self, error: BotoCoreError | ClientError) -> CtbasisError | TransientError:
        """Say what botocore said without its words: they may repeat what was signed."""
        name = type(error).__name__
        if isinstance(error, ClientError):
            return self._answered(
                code_of(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            )
        if isinstance(error, SSLError):
            return CtbasisError(
                f"{self.endpoint} does not prove who it is (SSLError)",
                cause="its certificate is not signed by an authority that this machine knows",
                remedy="set AWS_CA_BUNDLE to that authority's certificate",
            )
        if isinstance(error, ParamValidationError):
            return CtbasisError(f"{self.name!r} is no name of a bucket", expected="s3://bucket/prefix")
        if isinstance(error, TRANSIENT):
            return TransientError(name)
        if isinstance(error, (NoCredentialsError, CredentialRetrievalError)):
            return self._refused(name)
        return self.unreachable(name)

    def unreachable(self, reason: str) -> CtbasisError:
        """Say that nothing answers, or nothing usable."""
        return CtbasisError(
            f"S3 at {self.endpoint} does not answer ({reason})",
            expected=f"an answer within {CONNECT_SECONDS} s",
            cause="the server is down or overloaded, or the address is wrong, or a proxy or firewall is between",
            remedy="check AWS_ENDPOINT_URL and the network, and run the step again",
        )

    def _answered(self, code: str, status: int) -> CtbasisError | TransientError:
        if code == "NoSuchBucket":
            return CtbasisError(
                f"there is no bucket {self.name!r} at {self.endpoint}",
                cause="a misspelt name, or AWS_ENDPOINT_URL names another server",
                remedy=f"check the {self._what} and AWS_ENDPOINT_URL",
            )
        if code in WRONG_KEYS or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return self._refused(code or str(status))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            return TransientError(f"{code or status}")
        return CtbasisError(
            f"{self.endpoint} answers {code or status} to a request for bucket {self.name!r}",
            expected="an S3-compatible server that knows the bucket",
            cause="AWS_ENDPOINT_URL or the region names another server",
            remedy=f"check the {self._what}, AWS_ENDPOINT_URL and AWS_REGION",
        )

    def _refused(self, reason: str) -> CtbasisError:
        if self._signed:
            cause, remedy = "the keys are wrong, expired or not allowed to do it", "check AWS_ACCESS_KEY_ID and its kin"
        else:
            cause, remedy = (
                "no keys were found, so it was asked as a public bucket",
                "set AWS_ACCESS_KEY_ID and its kin",
            )
        return CtbasisError(
            f"{self.endpoint} does not let us {self._use} bucket {self.name!r} ({reason})",
            cause=cause,
            remedy=remedy,
        )


def _client(session: boto3.session.Session, connections: int, *, signed: bool, settings: dict[str, Any]) -> Any:
    chosen: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": connections,
        "retries": {"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        **settings,
    }
    if not signed:
        chosen["signature_version"] = UNSIGNED
    # boto3 knows the region by another name than everyone else.
    region = session.region_name or os.environ.get("AWS_REGION")
    client = session.client("s3", region_name=region, config=Config(**chosen))
    if str(urlsplit(client.meta.endpoint_url).hostname).endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Few servers but AWS answer at bucket.host.
    return session.client("s3", region_name=region, config=Config(s3={"addressing_style": "path"}, **chosen))
