"""A small base and aligned model as folders, and a survey of them."""

import shutil
from types import SimpleNamespace

import pytest

from support.expo_pairs import llama, train, word_tokenizer, words
from w2s.expo.recipe import Recipe
from w2s.expo.survey import check_recipe


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    base = llama(root / "base")
    word_tokenizer(base, words())
    return SimpleNamespace(base=base, aligned=train(base, root / "aligned"))


@pytest.fixture
def pair(originals, tmp_path):
    """Copies of a base and an aligned model that a test may spoil."""
    return SimpleNamespace(
        base=shutil.copytree(originals.base, tmp_path / "base"),
        aligned=shutil.copytree(originals.aligned, tmp_path / "aligned"),
        out=tmp_path / "out",
    )


@pytest.fixture
def check(pair):
    """Surveys `pair` with any fields of a `Recipe`."""

    def run(*, out=None, resume=False, force_space=False, **settings):
        recipe = {"base": str(pair.base), "aligned": str(pair.aligned), "alpha": 0.3} | settings
        return check_recipe(Recipe(**recipe), out, resume=resume, force_space=force_space)

    return run
