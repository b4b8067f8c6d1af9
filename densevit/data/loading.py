"""Naming the file that a data pipeline could not read, or that does not fit the data set."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import Compose as MMCVCompose
from mmengine.dataset import Compose
from PIL import Image

from ..errors import UserError
from .broken import IN_A_ROW, BrokenSamples, Ledger, add_to_list, read_list
from .image_files import formats, opencv_reads

__all__ = ['NamingPipeline', 'name_unreadable_files', 'pipelines', 'why_unreadable']

_VOID = 255  # what mmseg's loader, crops and pads write, whatever the dataset's ignore_index
_MEND = 'copy it again or take it out of the dataset'
# The machine is at fault, not the sample: another one would fail alike.
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)


class _BrokenError(Exception):
    """A sample that is of no use.

    Args:
        file: that is to be mended.
        what: is wrong with it, naming it.
        remedy: what to do.
    """

    def __init__(self, file: str, what: str, remedy: str = _MEND) -> None:
        super().__init__(what)
        self.file, self.what, self.remedy = file, what, remedy


class NamingPipeline(Compose):
    """A dataset's pipeline whose error for a sample that is of no use has the file's path.

    mmcv decodes bytes that it has read before, so its errors know none, and in a data worker nobody else does. A
    label without a class would end in a device-side assert of the loss; a label map of another size, in crops of
    other places.

    In a training run that skips broken samples (:attr:`broken`) the pipeline returns None for one, as mmdet's do
    for an image that a crop has left no object in, and mmengine's datasets then take another at random. Both are
    counted in the ledger.

    Args:
        pipeline: what the dataset had.
        num_classes: of a dataset for semantic segmentation; None: label maps are not looked at.
        ignore_index: the dataset's void label, allowed like 255.
        instance_classes: of a dataset of objects; None: their labels are not looked at.
        ledger: of the data loader; without it errors of other kinds than a file's stay as they are.

    Attributes:
        broken: what a training run does about broken samples; None in validation and test, which stop: a score over
            fewer images is another score.
        list_file: where the skipped ones are noted.

    Raises:
        UserError: on a sample whose files are missing, cut short, no image or of different sizes, or whose labels are
            outside the classes, and, with a ledger, on one that a step of the pipeline fails on.
    """

    def __init__(
        self,
        pipeline: Compose | MMCVCompose,
        num_classes: int | None = None,
        ignore_index: int = _VOID,
        *,
        instance_classes: int | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.transforms = pipeline.transforms
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.instance_classes = instance_classes
        self.ledger = ledger
        self.broken: BrokenSamples | None = None
        self.list_file: Path | None = None
        self._listed: set[str] | None = None
        self._in_a_row = 0
        if ledger is not None:
            ledger.add_steps([_name(step) for step in self.transforms])

    def __call__(self, data: dict) -> dict | None:
        if self.ledger is not None:
            self.ledger.begin(next(iter(_paths(data)), ''))
        try:
            result, dropped_by = self._run(data)
        except _BrokenError as error:
            if self.ledger is not None:
                self.ledger.end(broken=True)
            if self.broken is not None and self.broken.policy == 'skip':
                self._skip(error)
                return None
            skip = '' if self.broken is None else ', or go on without such samples: --skip-broken'
            raise UserError(f'{error.what}; {error.remedy}{skip}.') from error.__cause__
        self._in_a_row = 0
        if self.ledger is not None:
            self.ledger.end(dropped_by=dropped_by)
        return result

    def _run(self, data: dict) -> tuple[dict | None, str | None]:
        """The result, or the step that has dropped the sample."""
        paths, told = _paths(data), (data.get('height'), data.get('width'))
        result: Any = data
        had_image = had_labels = False
        for step in self.transforms:
            if self.ledger is not None:
                self.ledger.at_step(_name(step))
            try:
                result = step(result)
            except UserError:
                raise
            except Exception as error:
                self._explain(error, step, paths)
                raise
            if result is None:
                return None, _name(step)
            if self.ledger is not None and isinstance(result, dict):
                if not had_image and 'img' in result and paths:
                    had_image = True
                    _check_image(result, paths[0], told)
                if not had_labels and 'gt_seg_map' in result and len(paths) > 1:
                    had_labels = True
                    _check_sizes(result, *paths[:2])
        self._check_labels(result, data, paths)
        return result, None

    def _explain(self, error: Exception, step: Any, paths: list[str]) -> None:
        """Raise what is known of a step's error; return where it is to stay as it is."""
        # mmcv asserts that cv2 has returned an image
        if isinstance(error, OSError | AssertionError) and getattr(error, 'errno', None) not in _OF_THE_MACHINE:
            for path in paths:
                if reason := why_unreadable(path):
                    raise _BrokenError(path, f'cannot read {path!r} ({reason})') from error
        if self.ledger is None or not paths:
            return
        if isinstance(error, MemoryError) or getattr(error, 'errno', None) in _OF_THE_MACHINE:
            raise UserError(
                f'{_name(step)} failed on {paths[0]!r} ({_short(error)}): the machine has run out of something, use '
                'fewer num_workers.'
            ) from error
        raise _BrokenError(
            paths[0],
            f'{_name(step)} failed on {paths[0]!r}: {_short(error)}',
            'mend or take out the sample, or the step (--debug shows where)',
        ) from error

    def _check_labels(self, result: Any, data: dict, paths: list[str]) -> None:
        labels = _labels(result) if self.num_classes else None
        if labels is not None:
            # 0.4 ms for 512 x 512
            outside = (labels >= self.num_classes) & (labels != _VOID) & (labels != self.ignore_index)
            if outside.any():
                file = data.get('seg_map_path')
                raise _BrokenError(
                    str(file),
                    f'the label {file!r} has class {labels[outside].max()}, counted from 0 '
                    f'(reduce_zero_label={data.get("reduce_zero_label", False)}, ignore_index={self.ignore_index}), '
                    f'but there are {self.num_classes} classes',
                    f'give dataset and num_classes more, or write {_VOID} into such pixels',
                )
        labels = _instance_labels(result) if self.instance_classes else None
        if (
            labels is not None
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.instance_classes
        ):
            file = paths[0] if paths else ''
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise _BrokenError(
                file,
                f'an object of {file!r} has class {int(wrong)}, counted from 0, but there are '
                f'{self.instance_classes} classes',
                'give dataset and num_classes more, or mend the annotation',
            )

    def _skip(self, error: _BrokenError) -> None:
        """Note a sample that is left out.

        Raises:
            UserError: nothing but broken samples comes.
        """
        self._in_a_row += 1
        if self._in_a_row >= IN_A_ROW:
            raise UserError(
                f'{self._in_a_row} samples in a row are broken, the last one because {error.what}; {error.remedy}.'
            ) from error.__cause__
        if self.list_file is not None:
            if self._listed is None:
                self._listed = set(read_list(self.list_file))
            if error.file not in self._listed:
                self._listed.add(error.file)
                add_to_list(self.list_file, error.file, error.what)


def _name(step: Any) -> str:
    return getattr(step, '__name__', type(step).__name__)


def _short(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _paths(data: dict) -> list[str]:
    """Image and label map of a sample."""
    return [data[key] for key in ('img_path', 'seg_map_path') if isinstance(data.get(key), str)]


def _check_image(result: dict, path: str, told: tuple[int | None, int | None]) -> None:
    """Look for an image that is cut short but was decoded, or has another size than its annotations."""
    if _is_cut_jpeg(path) and (reason := why_unreadable(path)):
        raise _BrokenError(path, f'cannot read {path!r} ({reason})')
    height, width = result.get('ori_shape', result['img'].shape)[:2]
    # as detectron2's check_image_size (detection_utils.py): boxes would lie elsewhere
    if None not in told and told != (height, width):
        raise _BrokenError(
            path,
            f'{path!r} has {width} x {height} pixels, but the annotation file says {told[1]} x {told[0]}',
            'annotate the image that is there, or put back the one that was annotated',
        )


def _check_sizes(result: dict, image: str, label: str) -> None:
    """Look for a label map of another size than its image; test pipelines resize the image before they load it."""
    expected, found = tuple(result.get('ori_shape', ()))[:2], result['gt_seg_map'].shape[:2]
    if expected and found != expected:
        raise _BrokenError(
            label,
            f'the label {label!r} has {found[1]} x {found[0]} pixels, but its image {image!r} '
            f'{expected[1]} x {expected[0]}',
            'make the label anew from the image that is there',
        )


def _is_cut_jpeg(path: str) -> bool:
    """Whether a JPEG does not end as one; some sound ones do not either, but very few."""
    try:
        with open(path, 'rb') as file:  # 20 µs: its content has just been read
            if file.read(2) != b'\xff\xd8':
                return False
            file.seek(-2, os.SEEK_END)
            return file.read(2) != b'\xff\xd9'
    except OSError:  # not on a disk
        return False


def _labels(result: Any) -> np.ndarray | None:
    """The label map that a pipeline has made, packed or not; None where it has made none."""
    if not isinstance(result, dict):
        return None
    packed = getattr(result.get('data_samples'), 'gt_sem_seg', None)
    return result.get('gt_seg_map') if packed is None else packed.data.numpy()


def _instance_labels(result: Any) -> Any:
    """The classes of the objects in a packed sample."""
    if not isinstance(result, dict):
        return None
    return getattr(getattr(result.get('data_samples'), 'gt_instances', None), 'labels', None)


def name_unreadable_files(dataset: Any, ledger: Ledger | None = None) -> None:
    """Let a dataset, and those that it wraps, name the files that they cannot read or use."""
    for inner in _within(dataset):
        pipeline = getattr(inner, 'pipeline', None)
        if type(pipeline) in (Compose, MMCVCompose):
            # mmdet's datasets may load maps too, of stuff that is not among their classes
            semantic = hasattr(inner, 'seg_map_suffix') and hasattr(inner, 'reduce_zero_label')
            classes = (getattr(inner, 'metainfo', None) or {}).get('classes') or ()
            inner.pipeline = NamingPipeline(
                pipeline,
                len(classes) or None if semantic else None,
                getattr(inner, 'ignore_index', _VOID),
                instance_classes=None if semantic else len(classes) or None,
                ledger=ledger,
            )


def pipelines(dataset: Any) -> list[NamingPipeline]:
    """Those of a dataset and of all that it wraps."""
    found = [getattr(inner, 'pipeline', None) for inner in _within(dataset)]
    return [pipeline for pipeline in found if isinstance(pipeline, NamingPipeline)]


def _within(dataset: Any) -> list[Any]:
    """A dataset and all that it wraps."""
    inner = (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ()))
    return [dataset, *(each for one in inner if one is not None for each in _within(one))]


def why_unreadable(path: str, decode: bool = True) -> str:
    """An empty string for a readable image; a cut JPEG shows only when its pixels are decoded."""
    if not os.path.isfile(path):
        return 'there is no such file'
    opened = False
    try:
        with warnings.catch_warnings(), Image.open(path, formats=formats()) as image:
            opened = True
            warnings.simplefilter('ignore')  # huge images, odd EXIF
            if decode:
                image.draft('L', (64, 64))  # JPEG: all the bytes are read but few pixels computed
                image.load()
    except Image.DecompressionBombError:
        return ''
    except Exception as error:  # pillow raises many kinds
        reason = ' '.join(str(error).split()) or type(error).__name__
        if 'truncated' in reason or not opencv_reads(path, sized=opened):
            return reason
    return ''
