"""The mutation check: what it breaks is where it says, and it tells who notices first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

import pytest
from nbformat import v4

from tests.mutants import MUTANTS, Mutant
from tests.mutations import ROOT, Finding, cells_of, control_of, sabotage, try_mutant
from tests.profiles import Profile, entered

import claims  # isort: skip  (tests.lessons has made course/ importable)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: f"{one.claim}-{one.lesson}")
def test_what_is_broken_is_in_one_place_and_its_claim_in_the_lesson(mutant: Mutant, tmp_path) -> None:
    file = tmp_path / mutant.file
    file.parent.mkdir(parents=True)
    file.write_text((ROOT / mutant.file).read_text())
    sabotage(mutant, tmp_path)
    ast.parse(file.read_text())
    assert cells_of(mutant)


def test_every_claim_has_a_mutant() -> None:
    assert {one.claim for one in MUTANTS} == set(claims.CLAIMS)


def test_only_the_claims_own_assertion_proves_it() -> None:
    [mutant] = [one for one in MUTANTS if one.claim == "C1"]
    shows, other = (v4.new_code_cell("", metadata={"tags": tags}) for tags in (["claim:C1"], ["claim:C2"]))
    assert Finding(mutant, shows, 1, "AssertionError").is_as_it_should_be
    assert not Finding(mutant, shows, 1, "ValueError").is_as_it_should_be
    assert not Finding(mutant, other, 1, "AssertionError").is_as_it_should_be
    assert not Finding(mutant).is_as_it_should_be
    assert not Finding(control_of([mutant]), shows, 1, "AssertionError").is_as_it_should_be


def test_a_replacement_that_does_not_fit_is_refused(tmp_path) -> None:
    mutant = replace(MUTANTS[0], file="file", old="x")
    (tmp_path / "file").write_text("x = x")
    with pytest.raises(ValueError, match="2 places, not one"):
        sabotage(mutant, tmp_path)


@pytest.fixture(scope="module")
def here() -> Iterator[Profile]:
    with entered("here") as profile:
        yield profile


@pytest.mark.needs("containers-on-host")
def test_a_missing_namespace_is_noticed(here: Profile) -> None:
    finding = try_mutant(next(one for one in MUTANTS if one.claim == "C1"), here)
    assert finding.cell is not None and "claim:C1" in finding.cell.metadata.tags
    assert finding.said.startswith("assert ") and finding.is_as_it_should_be


@pytest.mark.needs("containers-on-host")
def test_without_a_mutant_the_lesson_is_green(here: Profile) -> None:
    control = control_of([one for one in MUTANTS if one.claim == "C1"])
    finding = try_mutant(control, here)
    assert finding.cell is None and finding.is_as_it_should_be
