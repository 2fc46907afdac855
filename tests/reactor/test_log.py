from __future__ import annotations

import logging
import threading

import pytest
from support.greenlets import wait_until

from smolmix_sync.reactor.log import ReactorLogger
from smolmix_sync.reactor.loop import ReactorLoop


class Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((threading.get_ident(), record.getMessage()))


def test_handlers_never_run_in_the_reactor(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("smolmix_sync.reactor.test")
    handler = Handler()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    log = ReactorLogger("reactor.test")
    loop = ReactorLoop().start()
    try:
        reactor = loop.call(threading.get_ident)

        def speak() -> None:
            log.debug("one %d", 1)
            log.info("two")
            log.warning("three")
            try:
                raise RuntimeError("four")
            except RuntimeError:
                log.exception("a bug")

        loop.call(speak)
        log.info("five")
        wait_until(lambda: len(handler.records) == 5)
    finally:
        loop.stop()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    messages = sorted(message.splitlines()[0] for _, message in handler.records)
    assert messages == ["a bug:", "five", "one 1", "three", "two"]
    assert reactor not in {ident for ident, _ in handler.records}
    here = [ident for ident, message in handler.records if message == "five"]
    assert here == [threading.get_ident()]
