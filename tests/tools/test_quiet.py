"""A package's logger is silent within the block, and as it was after it, whatever happens there."""

from __future__ import annotations

import logging
import os

import pytest

from openmm_fab.tools.quiet import logged_to, quiet, silence_stdout


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


def test_a_log_goes_to_a_file_while_it_is_asked_for(tmp_path) -> None:
    logger, path = logging.getLogger("openmm_fab.train"), tmp_path / "run.log"
    before = logging.getLogger("openmm_fab").level
    with logged_to(path):
        logger.info("iteration %d", 3)
        logger.debug("too much")
    logger.warning("afterwards")
    (line,) = path.read_text().splitlines()
    assert line.endswith(" iteration 3") and logging.getLogger("openmm_fab").level == before


def test_what_c_code_prints_is_dropped(capfd) -> None:
    with silence_stdout():
        os.write(1, b"dcdplugin) detected\n")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"
