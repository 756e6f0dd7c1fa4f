"""A package's logger is silent within the block, and as it was after it, whatever happens there."""

from __future__ import annotations

import logging

import pytest

from openmm_fab.tools.quiet import quiet


def test_silent_within_the_block_only(caplog: pytest.LogCaptureFixture) -> None:
    loggers = [logging.getLogger(name) for name in ("made_up_a", "made_up_b")]
    loggers[0].setLevel(logging.INFO)
    with pytest.raises(KeyError), quiet("made_up_a", "made_up_b"):
        for logger in loggers:
            logger.warning("greetings")
            logger.error("trouble")
        raise KeyError
    loggers[0].info("after")
    assert [r.message for r in caplog.records] == ["trouble", "trouble", "after"]
    assert loggers[0].level == logging.INFO and loggers[1].level == logging.NOTSET
