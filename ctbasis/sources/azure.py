"""The sources `az://container/prefix` and `abfs://`: blobs of Azure Storage, by Microsoft's library.

The variables are those of the Azure CLI and, for a sign-in or a managed identity, of azure-identity.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.http import ErrorAnswer, Site
from ctbasis.sources.listing import object_changed, pages
from ctbasis.sources.received import receive, require_range
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "AZURE_STORAGE_ACCOUNT"
KEY = "AZURE_STORAGE_KEY"
SAS = "AZURE_STORAGE_SAS_TOKEN"
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
ANONYMOUS = "AZURE_STORAGE_ANON"
"""Variable of adlfs for a public container: requests are unsigned if it is `true`."""

CONTAINER = re.compile(r"[a-z0-9$](?:[a-z0-9-]{1,61}[a-z0-9])?")

HOST = re.compile(r"([a-z0-9]{3,24})\.(?:dfs|blob)\.([a-z0-9.-]+)")
"""Host of an `abfs://` URI: account, service, and the suffix of the cloud, such as core.windows.net."""

PIECE_BYTES = 4 << 20
"""Bytes per request. Azure's library keeps an answer in memory."""

CHECK = f"check {ACCOUNT}, {KEY}, {SAS} and {CONNECTION}"

SIGN_IN_AGAIN = f"renew the token (a new {SAS}, or `az login`) and run the step again; it continues where it stopped"

CODES = {
    "AuthenticationFailed": (
        "",
        f"the account's key is wrong, the token {SAS} is malformed or of another account, or this clock is wrong",
        CHECK,
    ),
    "BlobArchived": (
        "a blob is in the archive tier",
        "it cannot be read there",
        "rehydrate it to the hot or cool tier",
    ),
    "InvalidAuthenticationInfo": ("", "the token is malformed or has expired", SIGN_IN_AGAIN),
    "NoAuthenticationInformation": ("", "no key and no token were found", CHECK),
    "PublicAccessNotPermitted": ("", "the account allows no access without a key or a token", CHECK),
    "AccountIsDisabled": ("", "the account is disabled", "ask the account's owner"),
}
"""Error codes of Azure Storage: what was found (empty: access is denied), the likely cause, and the remedy."""

EXPIRED = ("Signature not valid in the specified time frame", "token is expired", "Lifetime validation failed")
"""Texts of Azure Storage for a shared access signature, or another token, that has expired."""


class AzureSource:
    """The blobs below a prefix, or the single blob that the URI names.

    Args:
        uri: `az://container/prefix`, `abfs://container/prefix`, or
            `abfs://container@account.dfs.core.windows.net/prefix`.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI names no container, no account is known, the variables are not valid, or Azure's library
            is not installed.
    """

    def __init__(self, uri: str, connections: int) -> None:
        try:
            from azure.core.pipeline.transport import RequestsTransport
        except ImportError:
            raise CtbasisError(
                "Azure's library is not installed",
                expected="the packages azure-storage-blob and azure-identity",
                remedy="pip install 'ctbasis[azure]'",
            ) from None
        self._container, self._prefix, self._account_url = _split(uri)
        self._site = Site(
            "Azure Storage",
            what="Azure Storage",
            # One more connection for the listing, which continues during downloads.
            connections=connections + 1,
            explain=self._explain,
        )
        self._client = self._opened(
            {
                "transport": RequestsTransport(session=self._site.session, session_owner=False),
                "retry_total": 0,
                "max_single_get_size": PIECE_BYTES,
                "max_chunk_get_size": PIECE_BYTES,
            }
        )
        address = parse_address(
            self._client.primary_endpoint.partition("?")[0],
            what="the blob endpoint",
            schemes=("http", "https"),
            example="https://account.blob.core.windows.net",
        )
        self._site.server = str(address)

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the blobs below the prefix as their listing arrives, or else the blob that the prefix names.

        Raises:
            CtbasisError: The container does not exist, access is denied, the server does not answer, or its answer is
                not a valid listing.
        """
        folder = f"{self._prefix}/" if self._prefix else ""
        empty = True
        for blob in self._listing(folder):
            empty = False
            yield self._remote_object(blob, folder)
        if empty and self._prefix:
            for blob in self._listing(self._prefix):
                if blob.name == self._prefix:
                    yield self._remote_object(blob, self._prefix[: self._prefix.rfind("/") + 1])
                return

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Write the blob to `target` in pieces; see `Source.download`."""
        with self._translated():
            return receive(self._content(entry).chunks(), entry, target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return a range of bytes of the blob; see `Source.read`."""
        stop = stop if entry.size is None else min(stop, entry.size)
        if start >= stop:
            return b""
        with self._translated():
            return require_range(self._content(entry, start, stop - start).readall(), start, stop, entry)

    def _content(self, entry: RemoteObject, offset: int | None = None, length: int | None = None) -> Any:
        from azure.core import MatchConditions

        name, _, etag = entry.location.rpartition("#")
        condition = {"etag": f'"{etag}"', "match_condition": MatchConditions.IfNotModified} if etag else {}
        return self._client.download_blob(name, offset, length, max_concurrency=1, **condition)

    def _opened(self, options: dict[str, Any]) -> Any:
        from azure.storage.blob import ContainerClient

        text = os.environ.get(CONNECTION, "")
        try:
            if text and not self._account_url:
                return ContainerClient.from_connection_string(text, self._container, **options)
            return ContainerClient(self._account_url or _account_url(), self._container, _credential(), **options)
        except (ValueError, AttributeError, TypeError) as error:
            # The message may repeat a key.
            raise CtbasisError(
                f"the Azure configuration is not valid ({type(error).__name__})",
                expected=f"{ACCOUNT} with {KEY} or {SAS}, or {CONNECTION}",
                remedy=CHECK,
            ) from None

    def _listing(self, prefix: str) -> Iterator[Any]:
        return pages(
            lambda token: self._page(prefix, token), invalid=self._site.invalid, unreachable=self._site.unreachable
        )

    def _page(self, prefix: str, token: str) -> tuple[list[Any], str]:
        listing = self._client.list_blobs(name_starts_with=prefix or None, include=["metadata"])
        page = listing.by_page(continuation_token=token or None)
        with self._translated(listing=True):
            blobs = [blob for blob in next(page, ()) if not _is_folder(blob)]
        return blobs, str(page.continuation_token or "")

    def _remote_object(self, blob: Any, folder: str) -> RemoteObject:
        if not isinstance(blob.name, str) or not blob.name.startswith(folder):
            raise self._site.invalid("a blob has no name, or a name outside of the prefix")
        if not isinstance(blob.size, int) or blob.size < 0:
            raise self._site.invalid("a blob has no size, or a negative one")
        etag = str(blob.etag or "").strip('"')
        # Azure computes the MD5 of a block blob that was put at once. Appending to a blob leaves the old MD5.
        md5 = bytes(blob.content_settings.content_md5 or b"").hex() if blob.blob_type == "BlockBlob" else ""
        return RemoteObject(blob.name[len(folder) :], f"{blob.name}#{etag}", blob.size, md5 or etag.lower())

    @contextmanager
    def _translated(self, *, listing: bool = False) -> Iterator[None]:
        """Turn the exceptions of Azure's library into those of `Source`. No message repeats an address."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError

        try:
            with self._site.translated():
                yield
        except ClientAuthenticationError as error:
            raise CtbasisError(
                f"requests to Azure Storage cannot be signed ({type(error).__name__})",
                expected=f"{KEY}, {SAS}, {CONNECTION}, or a sign-in of azure-identity (AZURE_CLIENT_ID, `az login`)",
                cause="the sign-in has expired, there is none, or the key of the account is malformed",
                remedy=f"{CHECK}; or {SIGN_IN_AGAIN}; for a public container, set {ANONYMOUS}=true",
            ) from None
        except DecodeError:
            raise self._site.invalid("it is not XML") from None
        except AzureError as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error.inner_exception
            translated = self._site.translate(cause) if isinstance(cause, Exception) else None
            raise translated or TransientError(type(error).__name__) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The library assumes well-formed answers.
            fault = f"it does not parse ({type(error).__name__})"
            raise (self._site.invalid(fault) if listing else TransientError(f"the answer: {fault}")) from None

    def _explain(self, answer: ErrorAnswer) -> CtbasisError:
        place = f"container {self._container!r}"
        code = answer.headers.get("x-ms-error-code", "") or answer.field(r"<Code>([^<]*)</Code>")
        code = code if re.fullmatch(r"\w{1,80}", code) else str(answer.status)
        if answer.status == HTTPStatus.PRECONDITION_FAILED or code == "BlobNotFound":
            return object_changed(place)
        if answer.status == HTTPStatus.NOT_FOUND:
            return CtbasisError(
                f"there is no {place} at {self._site.server}",
                expected="an existing container",
                cause="the name of the container or of the account is misspelt",
                remedy=f"check the source and {ACCOUNT}",
            )
        found, cause, remedy = CODES.get(code, ("", "", ""))
        if any(text in answer.text for text in EXPIRED):
            found, cause, remedy = "the token has expired", "its time has passed", SIGN_IN_AGAIN
        if answer.is_denied or found or cause:
            denied = f"{self._site.server} denies access to {place} ({code})"
            return CtbasisError(
                f"{denied}: {found}" if found else denied,
                expected="permission to list and read it (Storage Blob Data Reader)",
                cause=cause or "the key or the token lacks the permission, or a firewall of the account refuses it",
                remedy=remedy or CHECK,
            )
        return CtbasisError(
            f"{self._site.server} answers {code} ({answer.status}) to a request for {place}",
            expected="the Blob service of Azure Storage",
            cause="the account or the endpoint is that of another service, or the container's name is not valid",
            remedy=CHECK,
        )


def _split(uri: str) -> tuple[str, str, str]:
    """Return the container, the prefix and the URL of the account, which is empty if the URI does not name it."""
    authority, _, prefix = uri.partition("://")[2].partition("/")
    container, at, host = authority.partition("@")
    match = HOST.fullmatch(host.lower())
    if not CONTAINER.fullmatch(container) or (at and not match):
        # The URI is not repeated: it may hold a token.
        raise CtbasisError(
            "the URI of the source names no container of Azure Storage",
            expected="az://container/prefix, or abfs://container@account.dfs.core.windows.net/prefix",
            remedy="correct the source; keys and tokens have variables of their own",
        )
    return container, prefix.strip("/"), f"https://{match[1]}.blob.{match[2]}" if match else ""


def _account_url() -> str:
    account = os.environ.get(ACCOUNT, "")
    if not re.fullmatch(r"[a-z0-9]{3,24}", account):
        raise CtbasisError(
            f"{ACCOUNT} {'names no account' if account else 'is not set'}",
            expected="the name of the storage account, or abfs://container@account.dfs.core.windows.net/prefix",
            remedy=f"set {ACCOUNT}, or {CONNECTION}",
        )
    return f"https://{account}.blob.core.windows.net"


def _credential() -> Any:
    """Return the first of: account key, shared access signature, none for a public container, Azure's own sign-in."""
    for variable in (KEY, SAS):
        if os.environ.get(variable):
            return os.environ[variable].strip().removeprefix("?")
    if os.environ.get(ANONYMOUS, "").lower() in {"true", "1"}:
        return None
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential(process_timeout=30)


def _is_folder(blob: Any) -> bool:
    """Return whether a blob is the marker of a folder of Data Lake Storage, which has no slash at its end."""
    return str((blob.metadata or {}).get("hdi_isfolder", "")).lower() == "true"
