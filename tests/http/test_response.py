"""Responses and headers by themselves."""

from __future__ import annotations

import pickle

import pytest

from smolmix_sync.http import (
    BadResponse,
    BodyTruncated,
    FetchError,
    Headers,
    HTTPStatusError,
    RedirectError,
    Response,
)


def response(body: bytes = b"0123456789", *fields: tuple[str, str]) -> Response:
    return Response(200, "OK", Headers(fields), "http://a.test/", body)


def test_pieces_have_the_size_asked_for() -> None:
    assert list(response().iter(4)) == [b"0123", b"4567", b"89"]
    assert list(response(b"").iter(4)) == []
    with pytest.raises(ValueError):
        response().iter(0)


def test_a_kept_body_can_be_read_again() -> None:
    answer = response()
    assert answer.body == b"".join(answer) == answer.body
    answer.close()
    assert answer.body == b"0123456789"


def test_charset_is_found_and_can_be_overruled() -> None:
    answer = response("é".encode("cp1252"), ("Content-Type", 'text/html; a=b; Charset="windows-1252"'))
    assert answer.text() == "é"
    assert answer.text("latin-1") == "é"
    assert answer.text("utf-8") == "\ufffd"


def test_headers_are_a_mapping_without_case() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert dict(headers) == {"a": "1, 3", "b": "2"}
    assert len(headers) == 2
    with pytest.raises(KeyError):
        headers["c"]


@pytest.mark.parametrize("kind", [BadResponse, BodyTruncated, FetchError, HTTPStatusError, RedirectError])
def test_errors_survive_pickling(kind: type[FetchError]) -> None:
    error = pickle.loads(pickle.dumps(kind("words")))
    assert type(error) is kind
    assert str(error) == "words"
    assert isinstance(error, OSError)
    assert error.errno == kind.default_errno
