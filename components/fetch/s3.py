"""`s3://bucket/prefix`: AWS or any S3-compatible endpoint."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
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
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from components.errors import CtbasisError
from components.fetch.etag import Digest, Verdict
from components.fetch.source import RemoteObject, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECT_SECONDS = 5
READ_SECONDS = 20

REQUEST_ATTEMPTS = 2
"""botocore's, for each request; downloads are tried again as a whole, by `fetch`."""

PIECE = 1 << 20
"""Bytes taken from the network at once."""

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

TRANSIENT = (BotoConnectionError, HTTPClientError, IncompleteReadError, FlexibleChecksumError)

CHANGED = {"404", "412", "NoSuchKey", "NotFound", "PreconditionFailed"}
"""What a download answers when the object is no longer the one that was listed."""


class S3:
    """Objects below a prefix, or the one object that it names.

    Endpoint, region and keys are those of the usual AWS_* variables and profiles. Without keys requests go unsigned, as
    public buckets take them.

    Args:
        uri: `s3://bucket/prefix`.
        connections: How many requests run at once.

    Raises:
        CtbasisError: The URI names no bucket, or the AWS_* variables are no configuration.
    """

    def __init__(self, uri: str, connections: int) -> None:
        self._bucket, _, prefix = uri.partition("://")[2].partition("/")
        self._prefix = prefix.strip("/")
        if not self._bucket or "@" in self._bucket:
            # Not repeated here: what stands before an @ may be a secret.
            raise CtbasisError("the source names no bucket", expected="s3://bucket/prefix")
        self._endpoint = "the S3 endpoint"
        try:
            session = boto3.session.Session()
            self._signed = session.get_credentials() is not None
            self._client = _client(session, connections, signed=self._signed)
        except (BotoCoreError, ValueError) as error:
            raise CtbasisError(
                f"the AWS configuration is not usable ({type(error).__name__})",
                expected="AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or neither; AWS_ENDPOINT_URL as a full URL",
                remedy="check the AWS_* variables and the profile",
            ) from None
        # Without a user name and password that the URL may carry.
        address = urlsplit(self._client.meta.endpoint_url)
        self._endpoint = f"{address.hostname}:{address.port}" if address.port else str(address.hostname)

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects below the prefix, page after page, or the one object of that name."""
        below = f"{self._prefix}/" if self._prefix else ""
        found = False
        for entry in self._listing(below):
            found = True
            yield _remote(entry, entry["Key"].removeprefix(below))
        if not found and self._prefix:
            first = next(self._listing(self._prefix), {"Key": ""})
            if first["Key"] == self._prefix:
                yield _remote(first, self._prefix.rpartition("/")[2])

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the object to `target`; check its size, and its ETag where that tells the content."""
        digest = Digest(entry.etag, entry.size)
        try:
            condition = {"IfMatch": f'"{entry.etag}"'} if entry.etag else {}
            answer = self._client.get_object(Bucket=self._bucket, Key=entry.location, **condition)
            with target.open("wb") as file:
                for piece in answer["Body"].iter_chunks(PIECE):
                    digest.update(piece)
                    file.write(piece)
        except (BotoCoreError, ClientError) as error:
            raise self._changed(error) or self._mapped(error) from None
        verdict = digest.verdict()
        # Objects encrypted with keys of their own have an ETag that looks like an MD5 and is none.
        if answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption")).startswith("aws:kms"):
            return False
        if verdict is Verdict.DIFFERS:
            raise TransientError("the content is not what the listing promised")
        return verdict is Verdict.MATCHES

    def _listing(self, prefix: str) -> Iterator[Any]:
        paginator = self._client.get_paginator("list_objects_v2")
        try:
            for page in paginator.paginate(Bucket=self._bucket, Prefix=prefix):
                yield from page.get("Contents", [])
        except (BotoCoreError, ClientError) as error:
            mapped = self._mapped(error)
            raise (self._unreachable(str(mapped)) if isinstance(mapped, TransientError) else mapped) from None

    def _changed(self, error: BotoCoreError | ClientError) -> CtbasisError | None:
        if not isinstance(error, ClientError) or error.response.get("Error", {}).get("Code") not in CHANGED:
            return None
        return CtbasisError(
            f"an object of bucket {self._bucket!r} was changed or removed after it had been listed",
            cause="somebody writes to the source",
            remedy="run the step again when the source is complete",
        )

    def _mapped(self, error: BotoCoreError | ClientError) -> CtbasisError | TransientError:
        """Say what botocore said without its words: they may repeat what was signed."""
        name = type(error).__name__
        if isinstance(error, ClientError):
            return self._answered(
                str(error.response.get("Error", {}).get("Code", "")),
                int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
            )
        if isinstance(error, SSLError):
            return CtbasisError(
                f"{self._endpoint} does not prove who it is (SSLError)",
                cause="its certificate is not signed by an authority that this machine knows",
                remedy="set AWS_CA_BUNDLE to that authority's certificate",
            )
        if isinstance(error, ParamValidationError):
            return CtbasisError(f"{self._bucket!r} is no name of a bucket", expected="s3://bucket/prefix")
        if isinstance(error, TRANSIENT):
            return TransientError(name)
        if isinstance(error, (NoCredentialsError, CredentialRetrievalError)):
            return self._refused(name)
        return self._unreachable(name)

    def _answered(self, code: str, status: int) -> CtbasisError | TransientError:
        if code == "NoSuchBucket":
            return CtbasisError(
                f"there is no bucket {self._bucket!r} at {self._endpoint}",
                cause="a misspelt name, or AWS_ENDPOINT_URL names another server",
                remedy="check the source and AWS_ENDPOINT_URL",
            )
        if code in WRONG_KEYS or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return self._refused(code or str(status))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            return TransientError(f"{code or status}")
        return CtbasisError(
            f"{self._endpoint} answers {code or status} to a request for bucket {self._bucket!r}",
            expected="an S3-compatible server that knows the bucket",
            cause="AWS_ENDPOINT_URL or the region names another server",
            remedy="check the source, AWS_ENDPOINT_URL and AWS_REGION",
        )

    def _refused(self, reason: str) -> CtbasisError:
        if self._signed:
            cause, remedy = (
                "the keys are wrong, expired or not allowed to read it",
                "check AWS_ACCESS_KEY_ID and its kin",
            )
        else:
            cause, remedy = (
                "no keys were found, so it was asked as a public bucket",
                "set AWS_ACCESS_KEY_ID and its kin",
            )
        return CtbasisError(
            f"{self._endpoint} does not let us read bucket {self._bucket!r} ({reason})", cause=cause, remedy=remedy
        )

    def _unreachable(self, reason: str) -> CtbasisError:
        return CtbasisError(
            f"S3 at {self._endpoint} does not answer ({reason})",
            expected=f"an answer within {CONNECT_SECONDS} s",
            cause="the server is down or overloaded, or the address is wrong, or a proxy or firewall is between",
            remedy="check AWS_ENDPOINT_URL and the network, and run the step again",
        )


def _client(session: boto3.session.Session, connections: int, *, signed: bool) -> Any:
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        # One more, for the listing that goes on meanwhile.
        "max_pool_connections": connections + 1,
        "retries": {"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
    }
    if not signed:
        settings["signature_version"] = UNSIGNED
    client = session.client("s3", config=Config(**settings))
    if str(urlsplit(client.meta.endpoint_url).hostname).endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Few servers but AWS answer at bucket.host.
    return session.client("s3", config=Config(s3={"addressing_style": "path"}, **settings))


def _remote(entry: Any, key: str) -> RemoteObject:
    return RemoteObject(key, entry["Key"], int(entry["Size"]), str(entry.get("ETag", "")).strip('"').lower())
