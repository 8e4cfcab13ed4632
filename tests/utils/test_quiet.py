"""Suppressing the output of other libraries: what is suppressed inside, and that everything is restored after."""

import logging
import sys
import warnings

import pytest

from clipos_lightning.utils.quiet import quiet


@pytest.mark.parametrize("streams", [False, True])
def test_quiet_suppresses_and_restores(
    streams: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.INFO)
    try:
        with pytest.raises(RuntimeError), warnings.catch_warnings(record=True) as warned, quiet(streams):
            logging.getLogger("other").error("a log line")
            warnings.warn("a warning", stacklevel=1)
            print("printed")
            print("a slow download", file=sys.stderr)
            raise RuntimeError
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
    out, err = capsys.readouterr()
    assert (out, err) == (("", "") if streams else ("printed\n", "a slow download\n"))
    assert not warned and not caplog.records
    print("after")
    assert capsys.readouterr().out == "after\n"


def test_quiet_keeps_a_stricter_level() -> None:
    logging.disable(logging.CRITICAL)
    try:
        with quiet():
            assert logging.root.manager.disable == logging.CRITICAL
    finally:
        logging.disable(logging.NOTSET)
