"""The review judge: what scikit-learn trains is what NumPy reads, and a file that runs no code."""

import pickle

import numpy as np
import pytest

from w2s.reproduce.judge import Judge, terms, train_judge

TEXTS = ("lovely fun in this film", "awful awful film", "words it never met", "", "A GREAT story!")


@pytest.fixture
def judge(made_up_reviews):
    return train_judge(made_up_reviews, made_up_reviews[:12])


def test_it_judges_as_the_classifier_it_was_trained_as(judge, made_up_reviews):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    whole = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True),
        LogisticRegression(C=10, max_iter=300),
    ).fit([one.text for one in made_up_reviews], [one.positive for one in made_up_reviews])
    expected = whole.predict_proba(TEXTS)[:, 1]
    assert [judge(text) for text in TEXTS] == pytest.approx(expected.tolist(), abs=1e-6)


def test_training_again_gives_the_same_judge(judge, made_up_reviews):
    again = train_judge(made_up_reviews, made_up_reviews[:12])
    assert again.facts == judge.facts
    assert [again(text) for text in TEXTS] == [judge(text) for text in TEXTS]


def test_it_says_how_often_it_is_right(judge):
    assert judge.facts["trained_on"] == 60
    assert judge.facts["accuracy"] == judge.facts["accuracy_of_pieces"] == 1.0


def test_a_saved_judge_judges_alike(judge, tmp_path):
    judge.save(tmp_path / "judge.npz")
    loaded = Judge.load(tmp_path / "judge.npz")
    assert loaded.facts == judge.facts
    assert [loaded(text) for text in TEXTS] == [judge(text) for text in TEXTS]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("kind", ["pickle", "objects", "text", "empty"])
def test_a_file_of_another_kind_is_refused_and_not_executed(kind, tmp_path):
    path = tmp_path / "judge.npz"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif kind == "objects":
        with path.open("wb") as file:
            np.savez(file, terms=np.array([Trap()], dtype=object))
    else:
        path.write_text("no judge" if kind == "text" else "")
    with pytest.raises(ValueError, match=r"judge\.npz is not the file of a judge"):
        Judge.load(path)


def test_arrays_that_do_not_fit_are_refused(judge, tmp_path):
    Judge(judge.column, judge.idf[:-1], judge.weight, judge.bias, {}).save(tmp_path / "judge.npz")
    with pytest.raises(ValueError, match="must be as many"):
        Judge.load(tmp_path / "judge.npz")


def test_terms_are_words_and_neighbours():
    assert terms("A Film, not a film!") == ["film", "not", "film", "film not", "not film"]
