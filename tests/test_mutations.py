"""The list of broken rules is about the code as it is: ``python -m tests.mutations`` breaks them."""

from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_each_rule_can_be_broken(mutation: Mutation) -> None:
    """What is to be broken is there once, and so are the tests that have to notice."""
    assert mutation.is_possible()
    assert all((ROOT / "tests" / f"test_{name}.py").exists() for name in mutation.tests.split())


def test_the_page_on_durability_counts_them() -> None:
    """Its number is how many there are."""
    assert f"each of {len(MUTATIONS)} rules" in (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
