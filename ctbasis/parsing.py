"""Parsers of the parameters whose value is a text with a syntax of its own.

These are rank, memory, cluster, retain, store, deploy and registry.

A rank is a number of basis vectors, or a rule that chooses it from the singular values:

50                  number of basis vectors
auto, auto:gd       Gavish and Donoho's hard threshold for white noise of unknown level
auto:gd=12          the same for noise of 12 HU
auto:mp, auto:mp=12 largest singular value that white noise alone would have (Marchenko and Pastur)
auto:energy=0.99    smallest rank that holds this share of ||A||_F^2
auto:noise=12       smallest rank whose residual is no stronger than noise of 12 HU, white or not

`ctbasis/svd/rank.py` applies the rules to singular values.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ctbasis.addresses import Address, parse_address
from ctbasis.choices import AUTO, RETAIN_OPTIONS, SERVED_KINDS
from ctbasis.errors import CtbasisError

RULE_NAMES = ("gd", "mp", "energy", "noise")

NUMBER_OPTIONAL = frozenset({"gd", "mp"})
"""Rules that estimate the noise themselves where no number is given."""

SYNTAX = "a whole number from 1, auto, auto:gd[=HU], auto:mp[=HU], auto:energy=SHARE or auto:noise=HU"


LARGEST_SIZE = 1e15
"""Number before the unit of a size, at most; more is no memory of any machine, and Python refuses to convert it."""

OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""Name of an object of Kubernetes (RFC 1123)."""

LONGEST_NAME = 253

MEMORY_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Rule:
    """A rule that chooses the rank k from the singular values.

    Attributes:
        name: One of `RULE_NAMES`.
        value: Noise in HU (gd, mp, noise) or share of the energy (energy); None if the rule estimates it.
    """

    name: str
    value: float | None = None

    def __str__(self) -> str:
        return f"{AUTO}:{self.name}" + ("" if self.value is None else f"={self.value:g}")


def parse_rank(text: str) -> int | Rule:
    """Parse the parameter `rank`.

    >>> parse_rank("50")
    50
    >>> parse_rank("auto:noise=12")
    Rule(name='noise', value=12.0)

    Raises:
        CtbasisError: `text` is neither a whole number from 1 nor a rule.
    """
    normalized = text.strip().lower()
    if normalized == AUTO:
        return Rule("gd")
    if not normalized.startswith(f"{AUTO}:"):
        return _positive(text)
    name, _, number = normalized.removeprefix(f"{AUTO}:").partition("=")
    if name not in RULE_NAMES:
        raise CtbasisError(f"rank {text.strip()!r}", expected=SYNTAX)
    return Rule(name, _rule_value(text, name, number))


def parse_ranks(text: str) -> list[int]:
    """Parse the parameter `ranks`, a comma-separated list; the result is ascending and holds each rank once.

    >>> parse_ranks("300, 50,244,50")
    [50, 244, 300]

    Raises:
        CtbasisError: The list is empty, or an entry is no whole number from 1.
    """
    ranks = sorted({_positive(entry) for entry in text.split(",") if entry.strip()})
    if not ranks:
        raise CtbasisError("ranks is empty", expected="a comma-separated list such as 50,244,300")
    return ranks


def parse_memory(text: str) -> int:
    """Parse the parameter `memory`: a size in bytes; 0 if it is empty or `auto`, for a share of the free memory.

    >>> parse_memory("3GiB") == parse_memory("3g") == 3 * 2**30
    True

    Raises:
        CtbasisError: `text` is no size.
    """
    normalized = text.strip().lower()
    if normalized in {"", AUTO}:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", normalized)
    if match is None or not 0 < float(match[1]) < LARGEST_SIZE:
        raise CtbasisError(f"memory {text.strip()!r}", expected="a size such as 512MiB, 3GiB or 3g, or auto")
    return int(float(match[1]) * MEMORY_UNITS[match[2]])


CLUSTER_SCHEMES = ("spark", "tcp", "tls", "ucx", "ws", "wss", "ray")
"""Schemes of the clusters that are addressed by host and port; Spark has masters of other forms besides."""

OTHER_MASTERS = re.compile(r"auto|yarn|local(\[(\*|\d{1,4})(,\d{1,4})?\])?")
"""Ray's `auto`, and Spark's masters without an address."""


def parse_cluster(text: str) -> tuple[Address, ...]:
    """Parse the parameter `cluster`: the addresses of a cluster; none if it is empty or a word such as `yarn`.

    >>> [str(address) for address in parse_cluster("spark://one:7077,two:7077")]
    ['one:7077', 'two:7077']

    Raises:
        CtbasisError: `text` is no address that an engine knows.
    """
    text = text.strip()
    if not text or OTHER_MASTERS.fullmatch(text):
        return ()
    if text.startswith("k8s://"):
        kubernetes = text.removeprefix("k8s://")
        return (
            parse_address(kubernetes, what="the cluster", schemes=("https", "http", ""), example="k8s://host:6443"),
        )
    scheme, separator, hosts = text.partition("://")
    # Spark's standby masters are separated by commas.
    members = [f"{scheme}://{host}" for host in hosts.split(",")] if separator and scheme == "spark" else [text]
    return tuple(
        parse_address(
            member,
            what="the cluster",
            schemes=(*CLUSTER_SCHEMES, ""),
            example="spark://host:7077, tcp://host:8786 or ray://host:10001",
            needs_port=True,
            path_allowed=False,
        )
        for member in members
    )


def parse_retain(text: str) -> tuple[str, ...]:
    """Parse the parameter `retain`: names of options, comma-separated, returned in the order of `RETAIN_OPTIONS`.

    Raises:
        CtbasisError: A name is unknown, or two options contradict each other.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - RETAIN_OPTIONS.keys())
    if unknown:
        raise CtbasisError(
            f"retain names {', '.join(map(repr, unknown))}",
            expected=f"some of {', '.join(RETAIN_OPTIONS)}, comma-separated",
        )
    if {"full-dates", "modified-dates"} <= names:
        raise CtbasisError("retain names full-dates and modified-dates", expected="one of the two")
    return tuple(name for name in RETAIN_OPTIONS if name in names)


def validate_store(text: str) -> None:
    """Refuse a value of the parameter `store` that is no `s3://bucket/prefix`; empty is the run's workspace.

    Raises:
        CtbasisError: `text` is something else.
    """
    # zarr, which the stores import, is not needed for --help.
    from ctbasis.storage import stores

    stores.validate_prefix(text)


def parse_served(text: str) -> tuple[str, str] | None:
    """Parse the parameter `deploy`: kind and name of a served model; None if it is empty.

    >>> parse_served("deployment/ctbasis-serving")
    ('deployment', 'ctbasis-serving')

    Raises:
        CtbasisError: `text` names no object of a kind that serves.
    """
    if not text:
        return None
    kind, _, name = text.partition("/")
    if kind not in SERVED_KINDS or len(name) > LONGEST_NAME or not OBJECT_NAME.fullmatch(name):
        raise CtbasisError(
            f"deploy is {text[: 2 * LONGEST_NAME]!r}",
            expected=f"{' or '.join(f'{kind}/NAME' for kind in SERVED_KINDS)}, such as deployment/ctbasis-serving",
        )
    return kind, name


def parse_registry(text: str) -> Address | None:
    """Parse the parameter `registry`, the address of a Model Registry; None if it is empty.

    >>> str(parse_registry("http://model-registry-service:8080"))
    'model-registry-service:8080'

    Raises:
        CtbasisError: `text` is no address.
    """
    if not text:
        return None
    return parse_address(
        text,
        what="registry",
        schemes=("http", "https"),
        example="http://model-registry-service.kubeflow:8080",
        path_allowed=False,
    )


def _rule_value(text: str, name: str, number: str) -> float | None:
    if not number and name in NUMBER_OPTIONAL:
        return None
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or (name == "energy" and value > 1):
        meaning = "a share of the energy from 0 to 1" if name == "energy" else "the standard deviation of noise in HU"
        raise CtbasisError(
            f"rank {text.strip()!r}",
            expected=f"{AUTO}:{name}= and {meaning}",
            remedy="" if name == "energy" else "measure it over all voxels of a slice, air included",
        )
    return value


def _positive(text: str) -> int:
    try:
        rank = int(text)
    except ValueError:
        rank = 0
    if rank < 1:
        raise CtbasisError(f"rank {text.strip()!r}", expected=SYNTAX) from None
    return rank
