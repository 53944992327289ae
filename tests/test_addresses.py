"""Addresses of servers and clusters: what is refused, and that no refusal repeats a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from ctbasis.addresses import parse_address
from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.parameters import SvdPlan
from ctbasis.parsing import parse_cluster
from ctbasis.storage.s3 import Bucket

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"  # noqa: S105 - an invented password, which must not appear in messages

REFUSED = {
    "": "is empty",
    "{scheme}host:99999": "the port 99999",
    "{scheme}host:0": "names no port",
    "{scheme}host:-1": "a port that is no number",
    "{scheme}host:": "no port",
    f"{{scheme}}host:{SECRET}": "a port that is no number",
    f"{{scheme}}user:{SECRET}@host:80": "contains an @",
    f"{{scheme}}{SECRET}@host:80": "contains an @",
    f"{{scheme}}host:80/?password={SECRET}": "has a query",
    "{scheme}a host:80": "contains a space",
    "{scheme}host\n:80": "contains a space or a character",
    "{scheme}host\x00:80": "contains a space or a character",
    "{scheme}ho\u202est:80": "contains a space or a character",
    "{scheme}::1:80": "an IPv6 address without brackets",
    "{scheme}[::1:80": "cannot be parsed",
    "{scheme}:80": "names no host",
    "{scheme}/path": "names no host",
    "{scheme}..:80": "names no host",
    "{scheme}" + "h" * 5000: "5,0",
    "gopher://host:80": "begin with",
    f"{SECRET}://host:80": "begin with",
}


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_no_server_can_have_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(CtbasisError) as caught:
        parse_address(text.format(scheme="http://"), what="the host", schemes=("http", "https"), example="http://host")
    assert REFUSED[text] in caught.value.found
    assert SECRET not in str(caught.value)
    assert "remedy: correct the host" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://localhost:8080", "localhost:8080"),
        ("HTTPS://S3.example.org/path", "s3.example.org"),
        ("http://[::1]:9000", "[::1]:9000"),
        ("http://my_service:1", "my_service:1"),
        ("http://10.0.0.1:65535/", "10.0.0.1:65535"),
    ],
)
def test_a_valid_address_is_parsed(text: str, shown: str) -> None:
    assert str(parse_address(text, what="x", schemes=("http", "https"), example="y")) == shown


@pytest.mark.parametrize("text", [text for text in REFUSED if text and text != "{scheme}/path" and "\x00" not in text])
@pytest.mark.usefixtures("no_aws")
def test_an_s3_endpoint_is_such_an_address(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, text.format(scheme="http://"))
            with pytest.raises(CtbasisError, match=variable) as caught:
                Bucket("images", what="source", connections=1)
            assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("no_aws")
def test_the_endpoint_of_a_profile_is_such_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = http://user:{SECRET}@host:80\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(CtbasisError, match="profile contains an @") as caught:
        Bucket("images", what="source", connections=1)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["spark://", "tcp://", "ray://", ""])
@pytest.mark.parametrize("text", [text for text in REFUSED if text and "gopher" not in text])
def test_the_address_of_a_cluster_is_refused_before_a_run(scheme: str, text: str) -> None:
    with pytest.raises(CtbasisError, match="the cluster") as caught:
        SvdPlan.of(cluster=text.format(scheme=scheme))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ["spark://host", "tcp://host:8786/x", "gopher://host:1", "spark://a:1,b:99999"])
def test_a_cluster_has_a_known_scheme_a_port_and_no_path(text: str) -> None:
    with pytest.raises(CtbasisError, match="the cluster"):
        parse_cluster(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("yarn", 0),
        ("local[2]", 0),
        ("local[*]", 0),
        ("auto", 0),
        ("127.0.0.1:6379", 1),
        ("spark://one:7077,two:7077", 2),
        ("k8s://https://host:6443", 1),
        ("tcp://[::1]:8786", 1),
    ],
)
def test_the_addresses_of_each_engine_are_accepted(text: str, count: int) -> None:
    assert len(parse_cluster(text)) == count


@pytest.mark.parametrize("host", [text.format(scheme="http://") for text in REFUSED])
def test_submit_refuses_the_host(host: str, tmp_path: Path) -> None:
    arguments = ["submit", "s3://ct/x", "--host", host, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert SECRET not in result.output
    assert "host" in result.output
