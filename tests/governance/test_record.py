import json
import multiprocessing

from fedhealth.governance.record import append


def _write(path, who):
    for number in range(200):
        append(path, {"who": who, "n": number})


def test_lines_of_several_writers_are_whole_and_in_each_ones_order(tmp_path):
    path = tmp_path / "audit.jsonl"
    writers = [multiprocessing.get_context("spawn").Process(target=_write, args=(path, who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["n"] for row in rows if row["who"] == "a"] == list(range(200))
    assert len(rows) == 400
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_value_can_not_forge_a_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    append(path, {"who": 'x"}\n{"who":"coordinator\u2028'})
    assert len(path.read_text().splitlines()) == 1
