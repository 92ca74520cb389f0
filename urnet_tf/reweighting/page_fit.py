"""Whether a picture fits the text of its own page: a network of images and texts sees both.

In: vectors of pages' texts and of their pictures in one space. Out: a score a page.

  f_i  = max over the texts of page i of  cos(t, v_i)
  f'_i = f_i - (a + b cos(v_i, texts of the given class))        a, b by least squares

A picture that is right fits the page that names its class because it fits the class, which `zero_shot` has
counted already. So the part that goes with the class is taken off, and what is left is whether the page
speaks of this picture at all: banners, logos and pictures of other articles fit neither. What that is worth
is read off the crawl, by source (see `evidence`).

Source: not in the paper.
"""

from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting.zero_shot import unit_rows

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

_FEWEST = 3  # pages, for a line


def compute_page_fit(text_vectors: np.ndarray, texts: np.ndarray, image_vectors: np.ndarray) -> np.ndarray:
    """The cosine of each picture and that text of its page which it fits best.

    Args:
      text_vectors: float [U, E], L2-normalized.
      texts: int [N, F], the texts of each page as rows of `text_vectors`; -1 = none.
      image_vectors: float [N, E], of any length.

    Returns:
      float32 [N] from -1 to 1; NaN for a page without text.
    """
    texts = np.asarray(texts)
    near = np.full(texts.shape, -np.inf, np.float32)
    images = unit_rows(image_vectors)
    for place in range(texts.shape[1]):
        told = np.flatnonzero(texts[:, place] >= 0)
        vectors = np.asarray(text_vectors[texts[told, place]], np.float32)
        near[told, place] = np.einsum("ne,ne->n", vectors, images[told])
    found = near.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(found), found, np.nan).astype(np.float32)


def beyond_class(page_fit: np.ndarray, class_cosine: np.ndarray) -> np.ndarray:
    """What of the fit does not go with that of the given class: float64 [N], NaN where it is not known.

    Args:
      page_fit: float [N], see `compute_page_fit`.
      class_cosine: float [N], of the picture and the texts of its given class.
    """
    fit, cosine = np.asarray(page_fit, np.float64), np.asarray(class_cosine, np.float64)
    known = np.isfinite(fit)
    left = np.full(len(fit), np.nan)
    if known.sum() < _FEWEST:
        return left
    design = np.stack([np.ones(known.sum()), cosine[known]], axis=1)
    left[known] = fit[known] - design @ np.linalg.lstsq(design, fit[known], rcond=None)[0]
    return left


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where no page has text, or no network reads it.

    By how much the fit changes P(right), as a factor.
    """
    if instances.page_fit is None:
        return None
    return instances.share_of_evidence("page_fit", recipe)
