"""The DICOM reader against damaged files."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from ctbasis.bench import fuzz as module
from ctbasis.bench.fuzz import corpus, damaged_file, fuzz
from ctbasis.simulate.mutations import DAMAGES, elements

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.simulate.mutations import Damage

CASES = 20_000
SEED = 0


def test_twenty_thousand_damaged_files_are_read_correctly_refused_or_isolated() -> None:
    summary = fuzz(range(CASES), seed=SEED)
    assert summary.outcomes.total() == CASES
    assert summary.wrong == [], str(summary)
    # If nearly all files were refused at the first byte, the code behind it would not be tested.
    assert summary.outcomes["read"] > CASES / 10
    assert summary.outcomes["refused"] > CASES / 10
    assert summary.peak_mib < 512


def test_a_case_is_reproducible() -> None:
    assert [damaged_file(3, number) for number in range(50)] == [damaged_file(3, number) for number in range(50)]
    assert len({damaged_file(seed, 1) for seed in range(50)}) > 40


def test_the_elements_of_the_corpus_are_found_at_their_positions() -> None:
    assert len(corpus()) > 20
    assert sum(not places for _, places in corpus()) <= 2
    for content, places in corpus():
        assert places == elements(content)
        lengths = [content[place.length : place.length + place.length_size] for place in places]
        correct = [
            place.size in {int.from_bytes(length, "little"), int.from_bytes(length, "big")}
            for place, length in zip(places, lengths, strict=True)
        ]
        assert sum(correct) >= 0.9 * len(places)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_changes_files(damage: Damage) -> None:
    rng = random.Random(1)
    changed = 0
    for content, places in corpus():
        for _ in range(20):
            damaged = bytearray(content)
            if places:
                damage(damaged, places, rng)
            changed += damaged != content
    assert changed > len(corpus())


def test_a_faulty_reader_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: object) -> object:
        return module_read_values(*arguments) + 1  # type: ignore[arg-type]

    module_read_values = module.read_values
    monkeypatch.setattr(module, "read_values", shifted)
    summary = fuzz(range(300), seed=SEED)
    assert any("values differ" in case.reason for case in summary.wrong)


def aborts_at(name: str, judge: Callable[..., tuple[str, str]]) -> Callable[..., tuple[str, str]]:
    return lambda *arguments: os.abort() if arguments[1] == name else judge(*arguments)


def test_a_case_that_kills_its_process_is_isolated_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_judge", aborts_at("7.dcm", module._judge))
    summary = fuzz(range(20), seed=SEED)
    assert summary.outcomes["isolated"] == 1
    assert summary.reasons["its process crashed (SIGABRT)"] == 1
    assert summary.outcomes.total() == 20
