"""Labels in one array are the lists that they were made of."""

from hypothesis import given
from hypothesis import strategies as st

from asr.data.labels import LabelArray
from asr.text.tokenizer import min_frames

LABELS = st.lists(st.lists(st.integers(1, 3), max_size=6), max_size=8)


@given(LABELS)
def test_labels_are_those_that_were_given(labels):
    assert list(LabelArray(labels)) == labels


@given(LABELS)
def test_needed_frames_are_those_of_each_label(labels):
    assert LabelArray(labels).needed_frames.tolist() == [min_frames(label) for label in labels]


@given(LABELS, st.data())
def test_some_rows_are_kept(labels, data):
    rows = data.draw(st.lists(st.sampled_from(range(len(labels))), unique=True)) if labels else []
    kept = LabelArray(labels).keep(rows)
    assert list(kept) == [labels[row] for row in rows]
    assert kept.needed_frames.tolist() == [min_frames(labels[row]) for row in rows]
