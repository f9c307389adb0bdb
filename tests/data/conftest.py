import numpy as np
import pytest

from tests.data.pictures import noise, save


@pytest.fixture
def folder(tmp_path):
    """Two classes of 3 and 2 colour images, 6 wide and 4 high."""
    images = [
        save(tmp_path / "pets" / name / f"{i}.png", noise(4, 6, 3))
        for name, n in (("cat", 3), ("dog", 2))
        for i in range(n)
    ]
    return tmp_path / "pets", np.stack(images)
