"""`ctbasis node`: a DICOM node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctbasis.cli.network import (
    AET,
    HOST,
    LARGEST_PORT,
    PEER_CA,
    TLS_CERT,
    TLS_KEY,
    Amount,
    bases_option,
    caller_of,
    http_token,
    largest_request_option,
    parse_host,
    port_option,
    require_pynetdicom,
    tls_ca_option,
    tls_files,
    unfit_option,
)
from ctbasis.cli.options import PATH, absolute, grouped, own_option, verb
from ctbasis.plans import Group

if TYPE_CHECKING:
    from ctbasis.node.listening import HttpListening, Listening


@verb()
@grouped(
    AET,
    port_option(essential=True),
    HOST,
    bases_option("series"),
    unfit_option("series", "it is refused, and nothing is sent"),
    own_option(
        Group.OUTPUT,
        "--forward",
        multiple=True,
        metavar="DESTINATION",
        essential=True,
        help="What gets the denoised series: AET@HOST:PORT or dicom+tls://AET@HOST:PORT by C-STORE, or "
        "dicomweb+https://HOST/PATH by STOW-RS; may be given several times. A destination that is down or refuses is "
        "tried again, with pauses of up to 15 minutes.",
        short="AET@HOST:PORT or dicomweb+https://HOST/PATH that gets the denoised series.",
    ),
    own_option(
        Group.PLACE,
        "--state",
        type=PATH,
        default=Path("ctbasis-node"),
        show_default=True,
        essential=True,
        help="Folder for the queue, received instances and results. A node that was killed goes on from it. It holds "
        "identified images.",
        short="Folder for the queue, received instances and results.",
    ),
    own_option(
        Group.PLACE,
        "--quiet",
        type=Amount(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        essential=True,
        help="Time without an instance of a study after which its series are complete. Longer is safer where a sender "
        "makes pauses; a series whose rest comes later is denoised again.",
        short="Seconds without an instance after which a study is complete.",
    ),
    own_option(
        Group.OUTPUT,
        "--keep",
        type=Amount(min=0),
        default=7.0,
        show_default=True,
        metavar="DAYS",
        help="Time after the last delivery for which received instances and results are kept, and for which "
        "`ctbasis view` can show a job.",
    ),
    own_option(
        Group.PLACE,
        "--allow",
        multiple=True,
        metavar="AET[@HOST:PORT]",
        help="AE title that may connect; without any, all may. With an address, reports of storage commitment are sent "
        "there; without one, on the association that asked.",
    ),
    own_option(
        Group.PLACE,
        "--associations",
        type=click.IntRange(1, 1000),
        default=16,
        show_default=True,
        help="Associations at the same time at most; further ones are rejected.",
    ),
    own_option(
        Group.PLACE,
        "--timeout",
        type=Amount(min=1),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Time without a byte, or within one message, after which an association is aborted.",
    ),
    TLS_CERT,
    TLS_KEY,
    tls_ca_option("peer"),
    PEER_CA,
    own_option(
        Group.PLACE,
        "--http-port",
        type=click.IntRange(0, LARGEST_PORT),
        essential=True,
        help="Port of an HTTP server for DICOMweb (STOW-RS at /dicom-web/studies), /jobs (also for `ctbasis view`), "
        "/metrics and /openapi.json; without it, there is none; 0 takes a free one. Clients must send the bearer token "
        "of CTBASIS_HTTP_TOKEN, if that is set.",
        short="Port of an HTTP server for DICOMweb, jobs and metrics.",
    ),
    largest_request_option(8.0, "Size of one HTTP request at most, in 10^9 bytes."),
)
def node(state: Path, basis: tuple[str, ...], forward: tuple[str, ...], allow: tuple[str, ...], **options: Any) -> None:
    """Receive CT series as a DICOM node, denoise each by a stored basis, and send the result on.

    The node answers C-ECHO, C-STORE of CT and enhanced CT, storage commitment, and with --http-port STOW-RS. It runs
    until SIGTERM or Ctrl-C.
    Results are not for diagnosis.
    """
    require_pynetdicom()
    from ctbasis.node.listening import Listening
    from ctbasis.node.peers import parse_destination, parse_peer, parse_title

    destinations = tuple(parse_destination(text, what="--forward") for text in forward)
    peers = tuple(parse_peer(text, what="--allow", needs_address=False) for text in allow)
    tls = tls_files(options["tls_cert"], options["tls_key"], options["tls_ca"])
    listening = Listening(
        title=parse_title(options["aet"], what="--aet"),
        host=parse_host(options["host"]),
        port=options["port"],
        allowed=tuple(peer.title for peer in peers),
        associations=options["associations"],
        seconds=options["timeout"],
        tls=tls,
    )
    http = _http(listening, options["http_port"], int(options["largest_request"] * 1e9))
    # pynetdicom and pydicom; a mistake above is told before.
    from ctbasis.node.service import Node, NodeSettings
    from ctbasis.traces import Traces

    settings = NodeSettings(
        state=Path(absolute(str(state))),
        listening=listening,
        bases=tuple(map(absolute, basis)),
        unfit=options["unfit"],
        destinations=destinations,
        peers=peers,
        quiet=options["quiet"],
        keep=options["keep"],
        http=http,
        caller=caller_of(options["aet"], options["peer_ca"], tls),
        traces=Traces.from_environment("ctbasis-node"),
    )
    Node(settings).run()


def _http(listening: Listening, port: int | None, largest: int) -> HttpListening | None:
    from ctbasis.node.listening import HttpListening

    if port is None:
        return None
    token = http_token(listening.host, "send images and read the list of jobs")
    return HttpListening(listening.host, port, token, largest, listening.tls)
