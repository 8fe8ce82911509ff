"""Records are read back as strictly as they are quickly: a resumed run reads each line that is there."""

import json
import time

import pytest

from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.runtime.answers.records import record_in

ANSWER = {"file": "cat/1.png", "label": "cat", "index": 3, "confidence": 0.987654321, "exit": 1}


@pytest.mark.parametrize("listed", [[], [0.5, 1, None], [1e-7] * 1000])
def test_probabilities_are_passed_over(listed):
    assert record_in(json.dumps(ANSWER | {"probabilities": listed}).encode(), "jsonl", "record 1") == ANSWER


@pytest.mark.parametrize("odd", [0.5, "0.5 0.5", {}, ["0.5"], [True], [[0.5]], [{}]])
def test_what_is_no_list_of_numbers_is_refused(odd):
    line = json.dumps(ANSWER | {"probabilities": odd}).encode()
    with pytest.raises(RecordError, match="record 1: probabilities: expected a list of numbers"):
        record_in(line, "jsonl", "record 1")


@pytest.mark.parametrize("odd", ["NaN", "1e400", "1" * 30])
def test_probabilities_that_json_leaves_open_are_refused(odd):
    line = json.dumps(ANSWER | {"probabilities": [0.5, 7]}).replace("7]", f"{odd}]").encode()
    with pytest.raises(RecordError, match=r"record 1: expected (whole )?numbers"):
        record_in(line, "jsonl", "record 1")


def test_a_line_of_many_probabilities_takes_little_more_than_its_json():
    listed = [float(f"{k / 1000 + 1e-9:.9g}") for k in range(1000)]
    line = json.dumps(ANSWER | {"probabilities": listed}).encode()

    def least(read):
        taken = []
        for _ in range(50):
            begun = time.process_time()
            read(line)
            taken.append(time.process_time() - begun)
        return min(taken)

    assert least(lambda line: record_in(line, "jsonl", "record 1")) < 3 * least(json.loads)
