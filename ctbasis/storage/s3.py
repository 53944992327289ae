"""S3 at AWS or any compatible endpoint: a client configured by the AWS_* variables, and errors in plain words."""

from __future__ import annotations

import os
import re
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
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from ctbasis.addresses import Address, parse_address
from ctbasis.errors import CtbasisError, TransientError, UnreachableError
from ctbasis.storage.least_rate import meter, rate_fault
from ctbasis.storage.retry_after import retry_after
from ctbasis.storage.s3_answers import ANSWERS, CHECK_KEYS, DENIED_WITHOUT_REASON, TOO_SKEWED, Answer, skew_answer

CONNECT_SECONDS = 5
READ_SECONDS = 20

REQUEST_ATTEMPTS = 2
"""Attempts that botocore makes for one request; the callers repeat the whole operation."""

ENDPOINT = "AWS_ENDPOINT_URL"

EXAMPLE_ENDPOINT = "https://s3.eu-central-1.amazonaws.com or http://minio:9000"

TRANSIENT_ERRORS = (
    HTTPError,
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseStreamingError,
)

REQUEST_ERRORS = (BotoCoreError, ClientError, HTTPError)
"""Exceptions of a request that `Bucket.translate` explains; urllib3's own is raised where an answer breaks off."""

MALFORMED_ANSWER = (ResponseParserError, RecursionError, ValueError, TypeError, KeyError, AttributeError)
"""Exceptions of botocore for an answer that no S3 server gives; its parser assumes a well-formed one."""

ACCESS_POINT = re.compile(r"(arn:[\w-]+:s3(?:-object-lambda)?:[\w-]*:[0-9]*:accesspoint[/:][\w-]+)(?=/|$)")
"""ARN of an access point, which takes the place of a bucket's name; it may contain a slash."""

NO_SUCH_KEY = {"404", "NoSuchKey", "NotFound"}


def error_code(error: Exception) -> str:
    """Return the S3 error code of a server's answer, such as NoSuchKey; empty for any other exception."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def malformed(error: Exception) -> str:
    """Return what is wrong with an answer for which botocore raised one of `MALFORMED_ANSWER`."""
    # botocore follows redirects to another region by calling itself.
    return "redirects in a circle" if isinstance(error, RecursionError) else f"does not parse ({type(error).__name__})"


def invalid_answer(fault: str) -> CtbasisError:
    """Return the error for an answer to a listing request that is no listing.

    Args:
        fault: What is wrong with the answer.
    """
    return CtbasisError(
        f"the answer to the listing request is not an S3 listing: {fault}",
        expected="the answer of an S3-compatible server to ListObjectsV2",
        cause="the endpoint is not an S3 server, or is faulty",
        remedy="check AWS_ENDPOINT_URL",
    )


def split_uri(uri: str, *, what: str, scheme: str = "s3") -> tuple[str, str]:
    """Return the bucket and the prefix of `s3://bucket/prefix`; the prefix neither begins nor ends with a slash.

    Args:
        uri: The URI. The bucket of an S3 URI may be the ARN of an access point:
            `s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/prefix`.
        what: What the URI stands for in an error message: source, store.
        scheme: Another scheme than that of S3.

    Raises:
        CtbasisError: The URI is not of this form, or holds a user name or password.
    """
    given, _, rest = uri.partition("://")
    access_point = ACCESS_POINT.match(rest) if scheme == "s3" else None
    bucket, rest = (access_point[1], rest[access_point.end() :]) if access_point else ("", rest)
    head, _, prefix = rest.partition("/")
    bucket = bucket or head
    if given.lower() != scheme or not bucket or "@" in bucket or "?" in bucket:
        # The URI is not repeated: text before an @ may be a password, and text after a ? a token.
        raise CtbasisError(
            f"the URI of the {what} names no bucket", expected=f"{scheme}://bucket/prefix", remedy=f"correct the {what}"
        )
    return bucket, prefix.strip("/")


class Bucket:
    """An S3 bucket with the client that accesses it.

    Endpoint, region and keys come from the usual AWS_* variables and profiles. Requests are unsigned if there are no
    keys, as public buckets allow. Any number of threads may use the client, but only in the process that created it.

    Attributes:
        name: Name of the bucket.
        client: boto3's S3 client.
        endpoint: Host and port of the server.

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
        for variable in (f"{ENDPOINT}_S3", ENDPOINT):
            if os.environ.get(variable):
                _parse_endpoint(os.environ[variable], variable)
        try:
            session = boto3.session.Session()
            self._signed = session.get_credentials() is not None
            self.client = _client(session, connections, signed=self._signed, settings=settings)
            # A profile may name the endpoint too.
            address = _parse_endpoint(self.client.meta.endpoint_url, "the endpoint URL of the AWS profile")
        except (BotoCoreError, ValueError) as error:
            raise CtbasisError(
                f"the AWS configuration is not valid ({type(error).__name__})",
                expected="AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or neither; AWS_ENDPOINT_URL as a full URL",
                remedy="check the AWS_* variables and the profile",
            ) from None
        self.endpoint = str(address)

    def translate(self, error: BotoCoreError | ClientError | HTTPError) -> CtbasisError | TransientError:
        """Return the error for the user. It does not repeat botocore's message, which may hold signed headers."""
        name = type(error).__name__
        if isinstance(error, ClientError):
            return self._error_answer(error)
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
            return TransientError(rate_fault(error) or name)
        if isinstance(error, (NoCredentialsError, CredentialRetrievalError)):
            return self._access_denied(name)
        return self.unreachable(name)

    def unreachable(self, reason: str) -> UnreachableError:
        """Return the error for a server that gives no answer or none that can be used."""
        return UnreachableError(
            f"S3 at {self.endpoint} does not answer ({reason})",
            expected=f"an answer within {CONNECT_SECONDS} s",
            cause="the server is down or overloaded, its address is wrong, or a proxy or firewall blocks it",
            remedy="check AWS_ENDPOINT_URL and the network, and run the step again",
        )

    def _error_answer(self, error: ClientError) -> CtbasisError | TransientError:
        code, status = error_code(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            return CtbasisError(
                f"there is no bucket {self.name!r} at {self.endpoint}",
                expected="an existing bucket",
                cause="the name is misspelt, or AWS_ENDPOINT_URL names another server",
                remedy=f"check the {self._what} and AWS_ENDPOINT_URL",
            )
        answer = skew_answer(dict(error.response)) if code == TOO_SKEWED else ANSWERS.get(code)
        if answer:
            return self._refused(code, answer)
        if code in DENIED_WITHOUT_REASON or (not code and status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}):
            return self._access_denied(code or str(status))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            # botocore reports an answer that is no XML, such as a web page, as 500 without a code.
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            return TransientError(
                f"{status}: not an answer of S3" if code in {"", str(status)} else code,
                retry_after=retry_after(headers.get("retry-after")),
            )
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return CtbasisError(
                f"{self.endpoint} refuses a request for bucket {self.name!r}: {code} ({status})",
                expected=f"permission to {self._use} it",
                remedy=f"look {code} up in the documentation of the server",
            )
        return CtbasisError(
            f"{self.endpoint} answers {code or status} to a request for bucket {self.name!r}",
            expected="an S3-compatible server that knows the bucket",
            cause="AWS_ENDPOINT_URL or the region names another server",
            remedy=f"check the {self._what}, AWS_ENDPOINT_URL and AWS_REGION",
        )

    def _refused(self, code: str, answer: Answer) -> CtbasisError:
        denied = f"{self.endpoint} denies access to bucket {self.name!r} ({code})"
        return CtbasisError(
            f"{self.endpoint} refuses a request for bucket {self.name!r} ({code}): {answer.found}"
            if answer.found
            else denied,
            expected=f"permission to {self._use} it",
            cause=answer.cause,
            remedy=answer.remedy,
        )

    def _access_denied(self, reason: str) -> CtbasisError:
        if self._signed:
            cause = (
                "the keys lack the permission, a policy of the bucket forbids the access, or the bucket is a Requester "
                "Pays bucket (AWS_REQUEST_PAYER=requester, if your account shall pay)"
            )
            remedy = f"ask the bucket's owner which permissions these keys have, and {CHECK_KEYS}"
        else:
            cause = "no keys were found, so the request was unsigned, as for a public bucket"
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return CtbasisError(
            f"{self.endpoint} denies access to bucket {self.name!r} ({reason})",
            expected=f"permission to {self._use} it",
            cause=cause,
            remedy=remedy,
        )


def _parse_endpoint(text: str, what: str) -> Address:
    return parse_address(text, what=what, schemes=("http", "https"), example=EXAMPLE_ENDPOINT)


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
    host = str(urlsplit(client.meta.endpoint_url).hostname)
    if not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        # Few S3-compatible servers answer at bucket.host, the address style that boto3 prefers.
        client = session.client("s3", region_name=region, config=Config(s3={"addressing_style": "path"}, **options))
    meter(client)
    return client
