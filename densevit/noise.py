"""What the mm packages say that helps nobody, and keeping it off the screen; ``--debug`` lets it through."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import warnings
from typing import Any, TextIO

from mmengine.logging import MMLogger

__all__ = ['drop_noise', 'ignore_warnings', 'quiet_prints']

_PACKAGES = r'(mmengine|mmcv|mmdet|mmseg)(\.|$)'
# Printed by imports, before there is a logger (a vendor's own data format, which nobody asked for), and by pycocotools.
_PRINTED = re.compile(
    r'Could not import OneDL'
    r'|(loading annotations into memory\.\.\.|Done \(t=.*s\)|creating index\.\.\.|index created!)$'
)
# Logged once per parameter, or about what a config cannot change.
_LOGGED = re.compile(
    r'paramwise_options -- '
    r'|Hooks will be executed in the following order'
    r'|Distributed training is not used, all SyncBatchNorm'
    r'|The prefix is not set in metric class'
    r'|"FileClient" will be deprecated|"HardDiskBackend" is the alias'
    r'|Exp name: '
    r'|Resumed iteration number is not divisible'  # not so: densevit.engine.resume_hook
    r'|Using env variable '
)


def ignore_warnings() -> None:
    """Hide what the mm packages warn their own developers of, in this process and the data workers it forks."""
    drop_noise(MMLogger.get_current_instance())  # of what is logged before a run has a log of its own
    for category in (UserWarning, DeprecationWarning, FutureWarning):
        warnings.filterwarnings('ignore', category=category, module=_PACKAGES)
    # raised in torch's name: for what mmdet does, for our recipes' number of workers on a small machine, and of copies
    # that DDP makes of the gradients of depthwise convolutions
    for message in (
        r'.*torch\.meshgrid: in an upcoming release',
        r'This DataLoader will create',
        r'Grad strides do not match bucket view strides',
    ):
        warnings.filterwarnings('ignore', message=message)


def quiet_prints() -> contextlib.AbstractContextManager:
    """Within this context ``print`` passes over :data:`_PRINTED`."""
    return contextlib.redirect_stdout(_Quiet(sys.stdout))


class _Quiet:
    """An output stream that leaves out what is known to be noise, and the end of that line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left_out = False

    def write(self, text: str) -> int:
        rest, self._left_out = self._left_out and text == '\n', bool(_PRINTED.match(text))
        return len(text) if rest or self._left_out else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop_noise(logger: logging.Logger) -> None:
    """Keep :data:`_LOGGED` out of the log; asking twice changes nothing."""
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not _LOGGED.match(record.getMessage())
