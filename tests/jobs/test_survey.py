"""The first pass: everything wrong with an input is found, with file and line."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import pytest

from aurora_pool.errors import BadRecord
from aurora_pool.jobs.files import InputFile
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.jobs.survey import Survey
from tests.jobs.shared import WriteLines


def survey(path: Path, **options: object) -> Survey:
    source = InputFile(path)
    return Survey(source, RequestReader(text=source.is_text), **options)  # type: ignore[arg-type]


def pending(found: Survey) -> list[str]:
    return [request.id for request in found.pending()]


def test_counts_requests_and_leaves_blank_lines_out(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", [{"prompt": "a"}, "", "  ", {"prompt": "b"}])
    found = survey(path)
    assert (found.requests, found.remaining) == (2, 2)
    assert pending(found) == ["line-1", "line-4"]
    assert (found.line_of("line-4"), found.line_of("line-2")) == (4, None)


def test_what_is_done_is_not_pending(write_lines: WriteLines) -> None:
    found = survey(write_lines("in.jsonl", [{"prompt": text} for text in "abc"]))
    found.todo[2] = 0
    assert pending(found) == ["line-1", "line-3"]
    assert found.remaining == 2


def test_a_bad_line_is_named(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", [{"prompt": "a"}, "", "{oops"])
    with pytest.raises(BadRecord, match=r"in\.jsonl:3: expected a JSON object"):
        survey(path)


def test_bad_lines_are_skipped_if_asked(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", ["{oops", {"prompt": "a"}, {"prompt": 3}])
    found = survey(path, on_bad_line="skip")
    assert [bad.line for bad in found.bad_records] == [1, 3]
    assert pending(found) == ["line-2"]


def test_an_id_that_is_listed_twice_is_an_error_that_names_both_lines(write_lines: WriteLines) -> None:
    lines = [{"id": "x", "prompt": "a"}, {"id": "y", "prompt": "a"}, {"id": "x", "prompt": "b"}]
    with pytest.raises(BadRecord, match=r":3: the id 'x' is in line 1 already"):
        survey(write_lines("in.jsonl", lines))
    found = survey(write_lines("in.jsonl", lines), on_bad_line="skip")
    assert (pending(found), found.line_of("x"), [bad.line for bad in found.bad_records]) == (["x", "y"], 1, [3])


def test_all_bad_lines_are_told_at_once(write_lines: WriteLines) -> None:
    lines = [{"id": 0, "prompt": "a"}, *("{oo" + "p" * n for n in range(30)), {"id": 0, "prompt": "a"}]
    path = write_lines("in.jsonl", [*lines[:20], {"id": 0, "text": "a"}, *lines[21:]])
    with pytest.raises(BadRecord) as raised:
        survey(path)
    told = str(raised.value).splitlines()
    assert (told[0], told[-1]) == (f"{path}: 31 bad lines", "  and 11 more")
    assert re.fullmatch(rf"  {path}:2: expected a JSON object.* \(and lines 3, 4, 5, .*, 18, 19, 20\)", told[1])
    (columns,) = told[2:-1]
    expected = "expected an object with 'prompt', 'messages' or 'body'; it has text: say --prompt-field, or --template"
    assert columns == f"  {path}:21: {expected}"


def test_an_input_without_requests_is_a_mistake_unless_allowed(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", ["", " "])
    with pytest.raises(BadRecord, match="no request in it"):
        survey(path)
    assert survey(path, allow_empty=True).requests == 0


@pytest.mark.parametrize("lines", [[], [{"prompt": "a"}], [{"prompt": "a"}, "", {"prompt": "c"}]])
def test_an_input_that_is_cut_during_a_run_is_noticed(write_lines: WriteLines, lines: list[object]) -> None:
    path = write_lines("in.jsonl", [{"prompt": text} for text in "abc"])
    found = survey(path)
    write_lines("in.jsonl", lines)
    with pytest.raises(BadRecord, match="the input changed while the job ran"):
        list(found.pending())


def test_a_made_up_id_may_not_be_taken_either(write_lines: WriteLines) -> None:
    with pytest.raises(BadRecord, match=r":2: the id 'line-2' is in line 1"):
        survey(write_lines("in.jsonl", [{"id": "line-2", "prompt": "a"}, {"prompt": "b"}]))


def test_a_job_has_one_model(write_lines: WriteLines) -> None:
    lines = [{"prompt": "a"}, {"prompt": "b", "model": "m"}, {"prompt": "c", "model": "n"}]
    assert survey(write_lines("one.jsonl", lines[:2])).model == "m"
    with pytest.raises(BadRecord, match=r":3: it asks for the model 'n', line 2 asks for 'm'"):
        survey(write_lines("two.jsonl", lines))
    with pytest.raises(BadRecord, match=r":2: it asks for the model 'm', the job asks for 'z'"):
        survey(write_lines("other.jsonl", lines), model="z")


def test_an_input_that_changes_during_a_run_is_noticed(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    found = survey(path)
    requests = found.pending()
    assert next(requests) is not None
    found.pending()
    write_lines("in.jsonl", [{"prompt": "a"}, {"prompt": "c"}])
    with pytest.raises(BadRecord, match=r":2: the input changed"):
        list(found.pending())


def test_lines_appended_during_a_run_are_the_next_runs(write_lines: WriteLines) -> None:
    found = survey(write_lines("in.jsonl", [{"prompt": "a"}]))
    write_lines("in.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    assert pending(found) == ["line-1"]


@pytest.mark.parametrize(
    ("name", "first", "is_text"),
    [
        ("a.txt", b'{"prompt": "x"}', True),
        ("a.jsonl", b"hello", False),
        ("a.jsonl.gz", b"hello", False),
        ("a", b' {"prompt": "x"}', False),
        ("a.text", b"hello", True),
        ("a.txt.gz", b"{", True),
    ],
)
def test_the_name_tells_the_format_and_else_the_first_character(
    tmp_path: Path, name: str, first: bytes, is_text: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(first) if name.endswith(".gz") else first)
    assert InputFile(path).is_text == is_text


def test_reads_compressed_input_of_several_parts(tmp_path: Path) -> None:
    import zstandard

    parts = [b'{"prompt": "a"}\n{"pro', b'mpt": "b"}\n']
    gz, zst = tmp_path / "in.jsonl.gz", tmp_path / "in.jsonl.zst"
    gz.write_bytes(b"".join(map(gzip.compress, parts)))
    zst.write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, parts)))
    assert pending(survey(gz)) == pending(survey(zst)) == ["line-1", "line-2"]


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_compressed_input_that_is_broken_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is not compressed")
    with pytest.raises(BadRecord, match="can't be read"):
        survey(path)


def test_standard_input_can_be_read_twice() -> None:
    source = InputFile("-", stdin=io.BytesIO(b'{"prompt": "a"}\r\n{"prompt": "b"}'))
    found = Survey(source, RequestReader())
    assert found.requests == 2
    assert pending(found) == pending(found) == ["line-1", "line-2"]
    source.close()


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfHello\r\n")
    (request,) = survey(path).pending()
    assert request is not None
    assert request.body == {"prompt": "Hello"}


def test_a_missing_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=r"nowhere\.jsonl: the input can't be read \(No such file"):
        survey(tmp_path / "nowhere.jsonl")
