"""MME: the answer rule and both accuracies."""

import pytest

from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.scoring import mme


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("NO\n", "no"),
        ("Yes, it is", "yes"),
        (" no", "no"),
        ("  yes", "other"),  # only four characters count
        ("  no", "no"),
        ("not", "no"),
        ("know", "no"),
        ("unknown", "other"),
        ("", "other"),
        ("\n", "other"),
        ("noye", "no"),
        ("yesno", "yes"),
        ("It is no", "other"),
    ],
)
def test_answers(text, answer):
    assert mme.read_answer(text) == answer


def test_scores_by_hand():
    pairs = [("Yes", "yes"), ("no", "No."), ("yes", "no"), ("no", "No"), ("yes", "I see"), ("no", "yes")]
    result = mme.score({"existence": pairs, "count": pairs[:2]})
    existence = result["tasks"]["existence"]
    assert existence["accuracy"] == 3 / 6
    assert existence["accuracy_plus"] == 1 / 3
    assert existence["score"] == 3 / 6 * 100 + 1 / 3 * 100
    assert [existence[name] for name in ("tp", "fn", "tn", "fp", "other", "n")] == [1, 1, 2, 1, 1, 6]
    assert result["total"] == existence["score"] + 200.0


def test_nothing_to_score():
    result = mme.score({"color": []})
    assert (result["tasks"]["color"]["score"], result["total"]) == (None, 0)
    assert result["warnings"] == ["the task color has no answers."]


def test_bad_answers():
    with pytest.raises(ValueError, match="3 answers: give two"):
        mme.score({"count": [("yes", "yes")] * 3})
    with pytest.raises(ValueError, match="the truth 'maybe'"):
        mme.score({"count": [("maybe", "yes")] * 2})


def test_files(tmp_path):
    for task in mme.TASKS:
        (tmp_path / f"{task}.txt").write_text("a.jpg\tIs it red?\tYes\tYes\na.jpg\tIs it blue?\tNo\tno way\n")
    assert scored.score_mme(tmp_path)["total"] == 800.0
    (tmp_path / "count.txt").write_text("a.jpg\tIs it red?\tYes\n")
    with pytest.raises(ValueError, match="line 1, has 3 fields"):
        scored.score_mme(tmp_path)
    (tmp_path / "count.txt").write_text(
        "\na.jpg\tIs it red?\tYes\tYes\n\n\nb.jpg\tIs it?\tYes\tYes\n\na.jpg\tIs it?\tYes\n"
    )
    with pytest.raises(ValueError, match="line 7, has 3 fields"):
        scored.score_mme(tmp_path)
    (tmp_path / "count.txt").write_text("\na.jpg\tIs it red?\tYes\tYes\n\n\nb.jpg\tIs it?\tYes\tYes\n")
    with pytest.raises(ValueError, match="lines 2 and 5, are of the images 'a"):
        scored.score_mme(tmp_path)
    (tmp_path / "count.txt").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        scored.score_mme(tmp_path)


def test_no_task_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no task of MME was given"):
        mme.read(tmp_path, ())
