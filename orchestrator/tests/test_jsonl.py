import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import episode
from orchestrator.records import Episode

from orchestrator import jsonl


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "e.jsonl"
    with jsonl.JsonLinesWriter(file) as writer:
        writer.append(episode(2, 0.5))
    assert list(jsonl.read(file, Episode)) == [episode(2, 0.5)]


def test_a_line_torn_by_a_kill_is_passed_over_and_cut_off_before_the_next(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    with jsonl.JsonLinesWriter(file) as writer:
        writer.append(episode(1, 0.0))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:50])
    assert len(list(jsonl.read(file, Episode))) == 1
    with jsonl.JsonLinesWriter(file) as writer:
        writer.append(episode(2, 1.0))
    assert [e.reward for e in jsonl.read(file, Episode)] == [0.0, 1.0]


def test_a_full_disk_in_mid_line_leaves_the_lines_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "e.jsonl"
    write = os.write
    with jsonl.JsonLinesWriter(file) as writer:
        writer.append(episode(1, 0.0))
        room = [100]

        def write_until_full(fd: int, data: bytes) -> int:
            if room[0] <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            wrote = write(fd, bytes(data)[: room[0]])
            room[0] -= wrote
            return wrote

        monkeypatch.setattr(os, "write", write_until_full)
        with pytest.raises(OSError, match="No space left"):
            writer.append(episode(2, 1.0))
        monkeypatch.undo()
    assert [e.reward for e in jsonl.read(file, Episode)] == [0.0]
    assert file.read_bytes().endswith(b"\n")


def test_what_many_tasks_write_is_flushed_together_and_each_line_is_there_when_its_task_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, flush, flushes = tmp_path / "e.jsonl", os.fsync, []

    def counted(fd: int) -> None:
        flushes.append(fd)
        flush(fd)

    monkeypatch.setattr(os, "fsync", counted)

    async def main() -> None:
        async with jsonl.SharedWriter(file) as writer:

            async def one(number: int) -> None:
                await writer.append(episode(number, float(number)))
                assert float(number) in [e.reward for e in jsonl.read(file, Episode)]

            await asyncio.gather(*map(one, range(50)))
            await asyncio.gather(one(50), one(51))

    asyncio.run(main())
    assert len(list(jsonl.read(file, Episode))) == 52
    assert len(flushes) <= 4


def test_all_that_were_to_be_flushed_to_a_full_disk_are_told_and_the_next_may_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with jsonl.SharedWriter(tmp_path / "e.jsonl") as writer:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", full)
                told = await asyncio.gather(*(writer.append(episode(n, 0.0)) for n in range(3)), return_exceptions=True)
            assert [type(error) for error in told] == [OSError] * 3
            await writer.append(episode(7, 1.0))

    asyncio.run(main())
    assert [e.reward for e in jsonl.read(tmp_path / "e.jsonl", Episode)] == [1.0]


def test_a_damaged_line_is_named_with_file_and_number(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text(episode(1, 0.0).model_dump_json(by_alias=True) + '\n{"env": 3}\n')
    with pytest.raises(jsonl.DataFileError, match=r"e\.jsonl, line 2: "):
        list(jsonl.read(file, Episode))


def test_a_whole_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"

    def failing() -> Iterator[Episode]:
        yield episode(1, 0.0)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        jsonl.write_all(file, failing())
    assert not file.exists()
    jsonl.write_all(file, [episode(1, 0.0)])
    assert len(list(jsonl.read(file, Episode))) == 1
