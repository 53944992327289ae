"""Error codes of S3 with their causes and remedies. A code that is not in the table is reported without a guess.

The codes and their meaning are those of "Error responses" in the Amazon S3 API Reference and of "Troubleshooting" in
the documentation of AWS KMS.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

CHECK_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"

SIGN_IN_AGAIN = (
    "sign in again, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN to the new values"
)

RESTORE = (
    "restore the objects first (`aws s3api restore-object`), wait until they are restored, and run the step again; or "
    "copy them to another storage class"
)

ASK_SUPPORT = "sign in to the AWS console with this account, or contact AWS Support"

REGION = "set AWS_REGION to the bucket's region, and check AWS_ENDPOINT_URL"


@dataclass(frozen=True)
class Answer:
    """The meaning of an error code.

    Attributes:
        found: What is wrong with the request; empty if access is denied.
        cause: The likely cause.
        remedy: What the user can do.
    """

    found: str
    cause: str
    remedy: str


DENIED = ""
"""`Answer.found` of the codes that say no more than that access is denied."""

ANSWERS: dict[str, Answer] = {
    "AccountProblem": Answer(DENIED, "the AWS account has a problem, such as an unpaid bill", ASK_SUPPORT),
    "AllAccessDisabled": Answer(DENIED, "AWS has disabled all access to this bucket", ASK_SUPPORT),
    "AuthorizationHeaderMalformed": Answer(
        DENIED, "the request was signed for another region, or the keys have a wrong form", f"{REGION}, and the keys"
    ),
    "CredentialsNotSupported": Answer(
        DENIED, "the server does not support keys of this kind", "use keys that the server itself has issued"
    ),
    "ExpiredToken": Answer(DENIED, "the session token of the temporary keys has expired", SIGN_IN_AGAIN),
    "ExpiredTokenException": Answer(DENIED, "the session token of the temporary keys has expired", SIGN_IN_AGAIN),
    "IllegalLocationConstraintException": Answer("the region is refused", "the bucket is in another region", REGION),
    "InvalidAccessKeyId": Answer(
        DENIED,
        "the keys are wrong: the server does not know AWS_ACCESS_KEY_ID, or it is disabled, or it is of another server",
        "check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    ),
    "InvalidClientTokenId": Answer(DENIED, "the server does not know AWS_ACCESS_KEY_ID", CHECK_KEYS),
    "InvalidObjectState": Answer(
        "an object is archived",
        "its storage class is GLACIER, DEEP_ARCHIVE or an archive tier of INTELLIGENT_TIERING, which cannot be read",
        RESTORE,
    ),
    "InvalidPayer": Answer(DENIED, "the account of the bucket's owner is disabled", "contact the bucket's owner"),
    "InvalidSecurity": Answer(DENIED, "the security credentials are not valid", CHECK_KEYS),
    "InvalidToken": Answer(
        DENIED,
        "AWS_SESSION_TOKEN is malformed, or belongs to other keys",
        f"{SIGN_IN_AGAIN}, or unset it for lasting keys",
    ),
    "KMS.AccessDeniedException": Answer(
        "an object cannot be decrypted",
        "the objects are encrypted with AWS KMS, and these keys may not use the KMS key",
        "ask the owner of the KMS key for the permission kms:Decrypt",
    ),
    "KMS.DisabledException": Answer(
        "an object cannot be decrypted", "the KMS key of the objects is disabled", "enable the KMS key"
    ),
    "KMS.InvalidStateException": Answer(
        "an object cannot be decrypted",
        "the KMS key of the objects is pending deletion or import",
        "cancel its deletion, or import its material",
    ),
    "KMS.KMSInvalidStateException": Answer(
        "an object cannot be decrypted",
        "the KMS key of the objects is pending deletion or import",
        "cancel its deletion, or import its material",
    ),
    "KMS.NotFoundException": Answer(
        "an object cannot be decrypted",
        "the KMS key of the objects does not exist in this region",
        "check the KMS key of the objects and AWS_REGION",
    ),
    "NotSignedUp": Answer(DENIED, "the AWS account is not signed up for S3", ASK_SUPPORT),
    "RequestExpired": Answer(
        DENIED,
        "the signature of the request has expired: this machine's clock is wrong, or the request was delayed",
        "synchronize the clock of this machine with a time server (NTP), and run the step again",
    ),
    "SignatureDoesNotMatch": Answer(
        DENIED,
        "the keys are wrong: AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID; or a proxy changes requests",
        "check AWS_SECRET_ACCESS_KEY, spaces and line ends at its end, and proxies",
    ),
    "TokenRefreshRequired": Answer(DENIED, "the session token must be refreshed", SIGN_IN_AGAIN),
    "UnauthorizedAccess": Answer(DENIED, "the account is not allowed in this region (China)", ASK_SUPPORT),
}
"""The meaning of each code that is known, except those that need more than the code: see `Bucket.translate`."""

DENIED_WITHOUT_REASON = frozenset({"401", "403", "AccessDenied", "Forbidden", "Unauthorized"})
"""Codes by which a server denies access without a reason."""

TOO_SKEWED = "RequestTimeTooSkewed"


def skew_answer(response: dict[str, Any], now: datetime | None = None) -> Answer:
    """Return the meaning of RequestTimeTooSkewed: by how much this machine's clock differs from the server's.

    Args:
        response: The server's answer, as botocore parses it.
        now: The time on this machine; None is the present.
    """
    server = _server_time(response)
    if server is None:
        found = "this machine's clock differs from the server's by more than 15 minutes"
    else:
        seconds = ((now or datetime.now(UTC)) - server).total_seconds()
        found = f"this machine's clock is off by {_duration(abs(seconds))}: it is {'fast' if seconds > 0 else 'slow'}"
        found = f"{found}, and the server's Date is {server:%Y-%m-%d %H:%M:%S} UTC"
    return Answer(
        found,
        "the clock of this machine is not synchronized, as after a suspended virtual machine; or the server's is not",
        "synchronize the clock with a time server (NTP), and run the step again; the keys are not the cause",
    )


def _server_time(response: dict[str, Any]) -> datetime | None:
    """Return the time in the header Date, else in the element ServerTime of the answer."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    for parse, text in (
        (parsedate_to_datetime, headers.get("date")),
        (datetime.fromisoformat, response.get("Error", {}).get("ServerTime")),
    ):
        try:
            time = parse(str(text))
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 2:  # noqa: PLR2004 - from here on hours are of no use
        return f"{days:.0f} days"
    return f"{hours:.1f} hours" if hours >= 2 else f"{minutes:.0f} minutes"  # noqa: PLR2004 - the same for minutes
