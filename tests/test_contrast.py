"""Another material on the same lattice is not mapped: its columns are not as bright as the crystal makes them."""

import numpy as np
import pytest

from ferrojax.columns import find_columns
from ferrojax.columns.contrast import expected_contrast, measured_contrast, no_counts
from ferrojax.crystal import material
from ferrojax.crystal.zone import projected_motif
from ferrojax.errors import InputError
from ferrojax.image import Image
from ferrojax.polarization import map_polarization

STEP = 0.3054
PERIOD = 13.0
BORDER = 120.0


def picture(bright_from: float) -> Image:
    """Lead titanate's contrast, and from that x on B columns nearly as bright as A."""
    y, x = np.mgrid[:150, :240].astype(float)
    image = np.full(x.shape, 60.0)
    for i in range(-1, 20):
        for j in range(-1, 13):
            a, b = np.array([PERIOD * i + 5, PERIOD * j + 4]), np.array([PERIOD * i + 11.5, PERIOD * j + 10.5])
            for (cx, cy), height in ((a, 800.0), (b, 720.0 if b[0] > bright_from else 250.0)):
                image += height * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 4)
    return Image(np.random.default_rng(0).poisson(image).astype(float), (STEP, STEP))


@pytest.mark.study
def test_a_part_of_another_material_is_refused_with_its_reason():
    pmap = map_polarization(picture(BORDER), material("PbTiO3"))
    columns = pmap.columns
    x = np.asarray(columns.position_px)[:, 0]
    reason = np.array(columns.rejection_reason)
    b = np.array(columns.label) == "B"
    far = np.abs(x - BORDER) > 2.5 * PERIOD  # where nearly all neighbours are of one kind
    seen = b & far & (reason != "image edge")
    assert set(reason[seen & (x > BORDER)]) == {"unlike the crystal"}
    assert set(reason[seen & (x < BORDER)]) == {""}
    assert (reason[~b] != "unlike the crystal").all()
    at = np.asarray(pmap.position_px, float)[np.asarray(pmap.valid)]
    assert len(at) > 50
    assert at[:, 0].max() < BORDER + 2.5 * PERIOD


def test_one_material_throughout_is_not_refused():
    columns = find_columns(picture(np.inf), material("PbTiO3"))
    assert "unlike the crystal" not in columns.rejection_reason
    assert measured_contrast(columns) == pytest.approx(np.log(800 / 250), abs=0.05)


def test_the_crystal_says_which_columns_are_brighter():
    lead, barium = (expected_contrast(projected_motif(material(name))) for name in ("PbTiO3", "BaTiO3"))
    assert lead > barium > 0
    assert expected_contrast(projected_motif(material("KNbO3"))) < 0


def test_an_image_of_another_material_is_refused_whole():
    with pytest.raises(InputError, match=r"A/B intensity 1\.[01]"):
        find_columns(picture(-np.inf), material("PbTiO3"))


def test_an_image_below_zero_is_said_to_be_no_dark_field():
    counts = np.random.default_rng(0).poisson(100 * np.ones((40, 40))) * 1.0
    counts[::8, ::8] = 900.0
    assert no_counts((counts).ravel(), "HAADF") == ()
    assert no_counts((counts - 60).ravel(), "HAADF") == ()
    assert "dDPC" in no_counts((counts - 300).ravel(), "HAADF")[0]
    assert no_counts((counts - 300).ravel(), "iDPC") == ()
