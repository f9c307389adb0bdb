"""Views of codes: distances and variances that are kept, colours at the points they belong to."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from sklearn import manifold
from sklearn.decomposition import PCA

from gengen.representation import embedding
from gengen.viz.grid import SAMPLE_COLOUR
from gengen.viz.latent import COLOURS

RNG = np.random.default_rng(0)
PLANE = RNG.normal(size=(40, 2)) * [3, 1]


def where(picture, colour):
    """Rows and columns of the pixels of a colour, which has alpha 0.7 on white."""
    want = 0.7 * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) + 0.3 * 255
    return np.argwhere(np.abs(picture.astype(int) - want).max(-1) < 6)


def test_pca_is_scikit_learns_up_to_signs():
    z = RNG.normal(size=(30, 6)) @ RNG.normal(size=(6, 6)) + 5
    model = PCA(2).fit(z)
    got, want = embedding.pca(z), model.transform(z)
    sign = np.sign((got * want).sum(0))
    np.testing.assert_allclose(got * sign, want, atol=1e-9)
    np.testing.assert_allclose(got.var(0, ddof=1), model.explained_variance_)
    for x in (z, -z):  # the largest loading is positive, whatever the decomposition returns
        loadings = (x - x.mean(0)).T @ embedding.pca(x)
        assert (np.take_along_axis(loadings, np.abs(loadings).argmax(0)[None], 0) > 0).all()


def test_pca_of_few_dimensions_and_few_codes():
    line = RNG.normal(size=(9, 1))
    got = embedding.pca(line)
    np.testing.assert_allclose(got, np.concatenate([line - line.mean(), 0 * line], 1), atol=1e-12)
    assert embedding.pca([[1.0, 2, 3]]).shape == (1, 2)


@pytest.mark.parametrize(
    "points", [PLANE, PLANE @ np.linalg.qr(RNG.normal(size=(5, 5)))[0][:2] + 7]
)
def test_mds_keeps_the_distances_of_points_of_a_plane(points):
    # SMACOF stops where its stress changes by less than 1e-6.
    np.testing.assert_allclose(pdist(embedding.mds(points)), pdist(PLANE), atol=1e-3)


def test_mds_is_nearer_to_the_distances_than_pca():
    z = RNG.normal(size=(40, 6))
    stress = [
        ((pdist(view) - pdist(z)) ** 2).sum() for view in (embedding.mds(z), embedding.pca(z))
    ]
    assert stress[0] < 0.5 * stress[1]


def test_tsne_keeps_neighbours():
    labels = np.arange(30) % 3
    z = 20 * np.eye(5)[labels] + RNG.normal(size=(30, 5))
    view = embedding.tsne(z, perplexity=5)
    distance = cdist(view, view) + 1e9 * np.eye(30)
    np.testing.assert_array_equal(labels[distance.argmin(1)], labels)


def test_flatten_takes_the_view_the_perplexity_and_the_seed(monkeypatch):
    class Recorded:
        def __init__(self, dims, perplexity, random_state):
            self.given = dims, perplexity, random_state

        def fit_transform(self, z):
            return np.array([self.given])

    monkeypatch.setattr(manifold, "TSNE", Recorded)
    z = RNG.normal(size=(20, 4))
    np.testing.assert_array_equal(embedding.flatten(z), embedding.pca(z))
    np.testing.assert_array_equal(embedding.flatten(z, "mds", seed=3), embedding.mds(z, 3))
    np.testing.assert_array_equal(embedding.flatten(z, "tsne", 4.0, 1), [[2, 4, 1]])
    np.testing.assert_array_equal(embedding.flatten(PLANE, "tsne"), PLANE)


def test_the_colours_are_where_the_points_of_their_class_are():
    """Three classes apart from each other, in no order: the pixels of a colour lie at its class."""
    labels = RNG.permutation(np.arange(90) % 3)
    centres = np.array([[0, 0], [10, 0], [10, 10.0]])
    z = centres[labels] + 0.3 * RNG.normal(size=(90, 2))
    picture = embedding.scatter(z, labels, ("a", "b", "c"))
    assert picture.shape == (640, 640, 3) and picture.dtype == np.uint8
    places = [np.median(where(picture[:, :520], colour), axis=0) for colour in COLOURS[:3]]
    (low, left), (low_too, right), (high, right_too) = places  # rows grow downwards
    assert right - left > 200 and low - high > 200
    assert abs(low - low_too) < 30 and abs(right - right_too) < 30


def test_without_labels_there_is_one_colour():
    picture = embedding.scatter(RNG.normal(size=(90, 3)))
    assert len(where(picture, SAMPLE_COLOUR)) > 50
    assert not any(len(where(picture, colour)) for colour in COLOURS[:6])


def test_the_title_says_the_view_and_the_perplexity(monkeypatch):
    titles, render = [], embedding._render

    def recorded(figure):
        titles.append(figure.axes[0].get_title())
        return render(figure)

    monkeypatch.setattr(embedding, "_render", recorded)
    monkeypatch.setattr(embedding, "tsne", lambda z, perplexity, seed: z[:, :2])
    z = RNG.normal(size=(20, 4))
    for view in embedding.VIEWS:
        embedding.scatter(z, view=view, perplexity=7.5)
    embedding.scatter(PLANE, view="tsne")
    assert titles == ["first two principal components", "MDS", "t-SNE, perplexity 7.5", "codes"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: embedding.flatten([[1.0, 2, 3]], "umap"), "pca, mds, tsne"),
        (lambda: embedding.flatten(np.eye(3), "tsne"), "number of codes, 3"),
        (lambda: embedding.scatter([[1.0, 2.0]], [0.5]), "labels"),
        (lambda: embedding.pca([[np.nan, 1.0]]), "finite"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
