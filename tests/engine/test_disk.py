"""What a run says when its disk is full, or closed to it."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from densevit.engine.disk import is_full, naming_the_disk, quiet_when_full
from densevit.errors import UserError


def failing(code, *names):
    return OSError(code, os.strerror(code), *map(str, names))


def test_a_full_disk_is_named(tmp_path):
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert is_full(failing(code))
        with pytest.raises(UserError, match=rf'{tmp_path}.*MB are free, cannot be written \({os.strerror(code)}'):
            with naming_the_disk(tmp_path):
                raise failing(code)
    with pytest.raises(UserError, match=r"^'/tmp/elsewhere' cannot be written .*--resume"):
        with naming_the_disk(tmp_path):
            raise failing(errno.ENOSPC, '/tmp/elsewhere')
    assert not is_full(failing(errno.EACCES)) and not is_full(ValueError()) and not is_full(None)


def test_a_work_dir_that_cannot_be(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r"file/run' cannot be written \(Not a directory\); name another.*--work-dir"):
        with naming_the_disk(tmp_path / 'file' / 'run'):
            (tmp_path / 'file' / 'run').mkdir()
    for code in (errno.EROFS, errno.EACCES):
        with pytest.raises(UserError, match=os.strerror(code)), naming_the_disk(tmp_path):
            raise failing(code, tmp_path / 'log' / 'a.log')


def test_other_errors_are_left_alone(tmp_path):
    for error in (failing(errno.EACCES, '/data/x.png'), failing(errno.ENOENT, tmp_path / 'x'), KeyError('x')):
        with pytest.raises(type(error)) as caught, naming_the_disk(tmp_path):
            raise error
        assert caught.value is error


def test_the_log_is_quiet_about_a_full_disk(capsys):
    class Handler(logging.StreamHandler):
        error = failing(errno.ENOSPC)

        def emit(self, record):
            try:
                raise self.error
            except OSError:
                self.handleError(record)

    logger = logging.Logger('test')
    handler = Handler()
    logger.addHandler(handler)
    quiet_when_full(logger)
    logger.warning('a line')
    assert capsys.readouterr().err == ''
    handler.error = failing(errno.EIO)
    logger.warning('a line')
    assert 'Input/output error' in capsys.readouterr().err
