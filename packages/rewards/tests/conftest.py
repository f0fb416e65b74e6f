"""One pool for the tests that need expressions compared."""

import pytest

from coldforge.rewards import MathPool


@pytest.fixture(scope="session")
def pool():
    with MathPool(workers=1, seconds=20) as pool:
        yield pool
