"""Every input that was worth keeping, once more and without a fuzzer."""

import pytest

from tests.fuzz.seeds_from_captures import first_seeds
from tests.fuzz.targets import SEEDS, TARGETS

_MAX_SEED_BYTES = 200_000  # of one target


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_hold(name: str) -> None:
    """What a target asserts holds for each of its seeds; the failure names the one for which it does not."""
    seeds = [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]
    assert seeds
    for seed in [*first_seeds(name), *seeds]:
        try:
            TARGETS[name].fuzz(seed)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for the input {seed.hex()}") from error


def test_seeds_are_few_and_small() -> None:
    sizes = {name: sum(path.stat().st_size for path in (SEEDS / name).iterdir()) for name in TARGETS}

    assert {} == {name: size for name, size in sizes.items() if size > _MAX_SEED_BYTES}


def test_every_folder_of_seeds_belongs_to_a_target() -> None:
    assert set(TARGETS) == {path.name for path in SEEDS.iterdir()}
