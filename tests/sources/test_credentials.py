"""Credentials of Google and Azure: tokens that end, files that cannot be read, and keys that no message repeats.

The token server is a stand-in on the loopback interface; the storage servers are real.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ctbasis.errors import CtbasisError
from ctbasis.sources import gs
from ctbasis.sources.azure import AzureSource
from ctbasis.sources.fetch import fetch
from ctbasis.sources.gs import GsSource
from tests.loopback import Served
from tests.repositories import SECRET, Azure, Gcs, Process, use
from tests.sources.interposed import Handler, Interposed

if TYPE_CHECKING:
    from pathlib import Path


class TokenServer(Served):
    """Gives each token once it is asked for, or refuses as Google does when an account or a sign-in has ended."""

    def __init__(self) -> None:
        server = self
        self.given, self.refuses = 0, False

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                server.given += not server.refuses
                body = {"access_token": f"{SECRET}-{server.given}", "expires_in": 3600, "token_type": "Bearer"}
                if server.refuses:
                    body = {"error": "invalid_grant", "error_description": f"Token has been expired {SECRET}"}
                content = json.dumps(body).encode()
                self.send_response(400 if server.refuses else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Answers)


def key_file(folder: Path, tokens: str) -> Path:
    """Return the key file of an invented service account."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": SECRET,
        "private_key": key.decode(),
        "client_email": "reader@p.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": tokens,
    }
    (folder / "key.json").write_text(json.dumps(content))
    return folder / "key.json"


@pytest.mark.parametrize("ends", [False, True], ids=["renewed", "ended"])
def test_a_token_of_google_is_renewed_or_its_end_is_told(
    gcs_server: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    repository, accepted = Gcs(tmp_path, gcs_server), [1]
    for number in range(6):
        repository.put(f"{number}.dcm", bytes([number]) * 1000)

    def checked(handler: Handler) -> bool:
        """Refuse a token that is not the newest one; the third object ends the first token."""
        if handler.asks_for_object and len(server.objects) == 3:
            accepted[0] = 2
            tokens.refuses = ends
        is_valid = handler.headers["Authorization"] == f"Bearer {SECRET}-{accepted[0]}"
        if not is_valid:
            handler.answer(401, b'{"error": {"code": 401, "message": "Invalid Credentials"}}')
        return not is_valid

    with TokenServer() as tokens, Interposed(gcs_server.endpoint, to_object=checked, to_listing=checked) as server:
        use(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, tokens.url))})
        monkeypatch.setattr(gs, "ENDPOINT", server.url)
        if not ends:
            assert fetch(repository.uri(), tmp_path / "out", workers=1).objects == 6
            assert tokens.given == 2
            return
        with pytest.raises(CtbasisError, match="have expired or were revoked") as caught:
            fetch(repository.uri(), tmp_path / "out", workers=1)
    assert "gcloud auth application-default login" in str(caught.value)
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize(
    "content", [None, "", "no json", "{}", f'{{"type": "service_account", "private_key": "{SECRET}"}}']
)
def test_google_credentials_that_cannot_be_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    use(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")})
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    with pytest.raises(CtbasisError, match="credentials cannot be read") as caught:
        GsSource("gs://bucket/x", 1)
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "AZURE_STORAGE_ACCOUNT is not set"),
        ({"AZURE_STORAGE_ACCOUNT": f"no/account/{SECRET}"}, "names no account"),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={SECRET}"}, "configuration is not valid"),
        ({"AZURE_STORAGE_CONNECTION_STRING": SECRET}, "configuration is not valid"),
    ],
)
def test_an_azure_configuration_that_is_not_valid_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    use(monkeypatch, variables)
    with pytest.raises(CtbasisError, match=words) as caught:
        AzureSource("az://container/x", 1)
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("key", "words"),
    [(f"{SECRET}a", "denies access to container 'repository'"), (SECRET, "cannot be signed")],
    ids=["wrong", "malformed"],
)
def test_a_wrong_azure_key_is_told(
    azurite: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    repository = Azure(tmp_path, azurite)
    text = repository.environment(azurite.endpoint)["AZURE_STORAGE_CONNECTION_STRING"]
    use(monkeypatch, {"AZURE_STORAGE_CONNECTION_STRING": text.replace(Azure.key, key)})
    with pytest.raises(CtbasisError, match=words) as caught:
        fetch(repository.uri(), tmp_path / "out")
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_a_shared_access_signature_reads_a_container_until_it_expires(
    azurite: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from azure.storage.blob import generate_container_sas

    repository = Azure(tmp_path, azurite)
    repository.put("a.dcm", b"content")
    for hours in (1, -1):
        signature = generate_container_sas(
            Azure.account,
            "repository",
            Azure.key,
            permission="rl",
            start=datetime.now(UTC) - timedelta(hours=2),
            expiry=datetime.now(UTC) + timedelta(hours=hours),
        )
        endpoint = f"BlobEndpoint={azurite.endpoint}/{Azure.account};SharedAccessSignature={signature}"
        use(monkeypatch, {"AZURE_STORAGE_CONNECTION_STRING": endpoint})
        if hours > 0:
            assert fetch(repository.uri(), tmp_path / "out").objects == 1
            continue
        with pytest.raises(CtbasisError, match="denies access") as caught:
            fetch(repository.uri(), tmp_path / "none")
        assert signature not in f"{caught.value!r}"
        assert signature.rpartition("sig=")[2] not in f"{caught.value!r}"


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("abfs://scans@account1.dfs.core.windows.net/a/b/", "https://account1.blob.core.windows.net"),
        ("abfss://scans@account1.blob.core.chinacloudapi.cn", "https://account1.blob.core.chinacloudapi.cn"),
    ],
)
def test_an_abfs_uri_names_the_account(uri: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"AZURE_STORAGE_SAS_TOKEN": "?sv=x&sig=y"})
    assert AzureSource(uri, 1)._client.primary_endpoint.startswith(f"{url}/scans?sv=x")


@pytest.mark.parametrize(
    "uri", [f"az://user:{SECRET}@host/x", "az://", "az://UPPER/x", f"abfs://c@{SECRET}/x", f"az://c?{SECRET}"]
)
def test_an_azure_uri_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(CtbasisError, match="names no container") as caught:
        AzureSource(uri, 1)
    assert SECRET not in str(caught.value)
