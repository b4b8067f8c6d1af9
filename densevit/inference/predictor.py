"""From a config and a checkpoint to predictions of any image, without a data set."""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, overload

import cv2
import numpy as np
import torch
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from ..analysis.pictures import class_colors
from ..check.data.steps import leaf_dataset
from ..check.model import check_channels, telling_what_is_wrong
from ..checkpoints import load_weights, read_checkpoint
from ..config.reading import load_config
from ..errors import UserError
from ..layers.label_map import LogitMap, StoredMap, window_starts
from .folding import fold as fold_model
from .images import MAX_PIXELS, as_rgb
from .joining import Found, join
from .prediction import Detection, Prediction, Segmentation, encode_masks
from .windows import labels_by_windows

__all__ = ['Predictor']

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

_READS = re.compile(r'(\w+\.)?LoadImageFrom(File|NDArray)')
_NEEDS_TRUTH = re.compile(r'(\w+\.)?Load\w*(Annotations|Proposals)')


class Predictor:
    """Predicts images of any size, alone or several at once: ``Predictor(config, checkpoint)(image)``.

    An image is what :func:`densevit.inference.images.as_rgb` takes: a path, a Pillow image, or an array of **RGB**,
    (H, W, 3) uint8. It goes through the config's test pipeline without annotations, and through the model's data
    preprocessor, as in ``tools/test.py``; the result is in the pixels of the image itself, upright where EXIF says so.
    Neither images nor annotations of the data set need to be there.

    ``predictor(image)`` returns a :class:`~densevit.inference.prediction.Segmentation` or
    :class:`~densevit.inference.prediction.Detection`, ``predictor([image, ...])`` a list of them in the order given.
    Images that have one size when they reach the network go through it together. A batch gives what its images give
    one by one, but for the rounding of float32 in kernels that depend on the batch.

    With ``window`` an image that is larger is cut into overlapping windows of that size. Each is an image of its own to
    the config's pipeline, so a config that resizes to a short side of 512 pixels sees windows of 512 x 512 pixel by
    pixel. Logits of a segmentor are averaged where windows overlap, and labels are final row by row: the memory does
    not grow with the image's height (:func:`densevit.inference.windows.labels_by_windows`). Detections of a class that
    are found in several windows are joined (:func:`densevit.inference.joining.join`).

    Args:
        config: a file, the name of a shipped config, or a ``Config``.
        checkpoint: weights, a file or a URL; None or ``'none'``: random ones, with a warning.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default the GPU where there is one.
        score: 0 to 1; detections below it are left out. The config's ``score_thr``, often 0.05, leaves out others
            before.
        window: height and width of the windows that larger images are cut into, in pixels, or the side of square
            ones; None: no windows.
        stride: from one window to the next, down and across; by default three quarters of the window.
        batch_size: images, or windows, at a time; by default 1 on a CPU, which gains nothing from more, else 4.
        fold: whether to keep what depends on the weights alone (:func:`densevit.fold`), which is faster.
        max_pixels: larger image files are refused, see :func:`densevit.inference.images.read_image`.

    Attributes:
        task: ``'segmentation'`` or ``'detection'``.
        classes: names of the classes, of the checkpoint or else of the config's data set.
        palette: their colours, RGB.
        reduce_zero_label: whether the data set's own label of class 0 is 1.
        model: what predicts, in eval mode.

    Raises:
        UserError: a mistake in the config, the checkpoint, an argument or an image.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Config,
        checkpoint: str | os.PathLike[str] | None,
        *,
        device: str | torch.device | None = None,
        score: float = 0.3,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        batch_size: int | None = None,
        fold: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        cfg = config if isinstance(config, Config) else load_config(config)
        self.device = _device(device)
        if not 0 <= score <= 1:
            raise UserError(f'score={score}: give a confidence from 0 to 1.')
        self.score = score
        self.window, self.stride = _checked_windows(window, stride)
        if batch_size is not None and batch_size < 1:
            raise UserError(f'batch_size={batch_size}: give a number of images, at least 1.')
        self.batch_size = batch_size or (1 if self.device.type == 'cpu' else 4)
        self.max_pixels = max_pixels
        leaf = _leaf(cfg)
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
            self._pipeline = _pipeline(leaf.get('pipeline') or cfg.get('test_pipeline'))
            dataset = _dataset(leaf)
            self.model = _built(cfg.model)
        self.task = 'segmentation' if hasattr(self.model, 'decode_head') else 'detection'
        self.reduce_zero_label = bool(getattr(dataset, 'reduce_zero_label', False))
        content: Any = {}
        if checkpoint is None or checkpoint == 'none':
            warnings.warn('no checkpoint was given: the predictions are those of random weights.', stacklevel=2)
        else:
            content = read_checkpoint(checkpoint)
            report = load_weights(self.model, content)
            if report.kept:
                warnings.warn(
                    f'{len(report.kept)} tensors are random, the checkpoint lacks them: {report}', stacklevel=2
                )
        self.classes, palette = _classes(self.model, content, dataset)
        self.palette = tuple(class_colors(palette, len(self.classes)))
        self.model.to(self.device).eval()
        if fold:
            fold_model(self.model)

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...

    @overload
    def __call__(self, images: Sequence[ImageLike]) -> list[Prediction]: ...

    @torch.no_grad()
    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Prediction | list[Prediction]:
        """Predict an image, or a list of images.

        Raises:
            UserError: an image cannot be read, or the config's pipeline cannot take it.
        """
        several = isinstance(images, (list, tuple))
        predictions: dict[int, Prediction] = {}
        groups: dict[tuple[int, ...], list[tuple[int, np.ndarray, str | None, dict]]] = {}
        for index, given in enumerate(images if several else [images]):
            image, path = as_rgb(given, max_pixels=self.max_pixels), _path(given)
            if self.window is not None and any(side > most for side, most in zip(image.shape, self.window)):
                predictions[index] = self._in_windows(image, path)
                continue
            packed = self._packed(image, path)
            group = groups.setdefault(tuple(packed['inputs'].shape), [])
            group.append((index, image, path, packed))
            if len(group) == self.batch_size:
                predictions.update(self._together(group))
                group.clear()
        for group in groups.values():
            predictions.update(self._together(group))
        return [predictions[index] for index in sorted(predictions)] if several else predictions[0]

    # ------------------------------------------------------------------------------------------- whole images
    def _packed(self, image: np.ndarray, path: str | None) -> dict[str, Any]:
        """An image as the config's pipeline gives it to the model."""
        size = image.shape[:2]
        bgr = np.ascontiguousarray(image[..., ::-1])  # what mmcv reads and mm's data preprocessors expect
        try:
            packed = self._pipeline(dict(img=bgr, img_shape=size, ori_shape=size, img_path=path or '', img_id=0))
        except (cv2.error, ZeroDivisionError) as error:
            raise UserError(
                f'the pipeline of the config cannot take {repr(path) if path else "an image"} of {size[1]} x {size[0]} '
                f'pixels: {getattr(error, "err", error)}'
            ) from error
        return packed

    def _samples(self, packed: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The model's data samples for some images of one size."""
        data = {key: [each[key] for each in packed] for key in ('inputs', 'data_samples')}
        return self.model.test_step(data)

    def _together(self, group: list[tuple[int, np.ndarray, str | None, dict]]) -> dict[int, Prediction]:
        samples = self._samples([packed for *_, packed in group]) if group else []
        return {index: self._prediction(sample, image, path) for sample, (index, image, path, _) in zip(samples, group)}

    def _prediction(self, sample: Any, image: np.ndarray, path: str | None) -> Prediction:
        if self.task == 'segmentation':
            labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(self._dtype)
            return Segmentation(image, path, self.classes, self.palette, labels, sample.seg_logits)
        return self._detection(self._found(sample), image, path)

    def _detection(self, found: Found, image: np.ndarray, path: str | None) -> Detection:
        objects = (found.boxes, found.scores, found.labels, found.rles)
        return Detection(image, path, self.classes, self.palette, *objects)

    def _found(self, sample: Any) -> Found:
        instances = sample.pred_instances
        rles = encode_masks(instances.masks) if 'masks' in instances else None
        boxes, scores, labels = (
            getattr(instances, name).detach().cpu().numpy() for name in ('bboxes', 'scores', 'labels')
        )
        order = np.argsort(-scores, kind='stable')
        order = order[scores[order] >= self.score]
        rles = None if rles is None else [rles[index] for index in order]
        return Found(boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order], rles)

    @property
    def _dtype(self) -> type[np.integer]:
        return np.uint8 if len(self.classes) <= 256 else np.uint16

    # ---------------------------------------------------------------------------------------------- in windows
    def _in_windows(self, image: np.ndarray, path: str | None) -> Prediction:
        if self.task == 'segmentation':
            labels = labels_by_windows(
                image,
                self.window,
                self.stride,
                self._logits,
                at_once=self.batch_size,
                threshold=getattr(_last(self.model.decode_head), 'threshold', None) or 0.5,
                dtype=self._dtype,
            )
            return Segmentation(image, path, self.classes, self.palette, labels)
        size = image.shape[:2]
        height, width = (min(side, most) for side, most in zip(size, self.window))
        corners = [
            (top, left)
            for top in window_starts(size[0], height, self.stride[0])
            for left in window_starts(size[1], width, self.stride[1])
        ]
        windows = []
        for first in range(0, len(corners), self.batch_size):
            some = corners[first : first + self.batch_size]
            packed = [self._packed(image[top : top + height, left : left + width], path) for top, left in some]
            found = [self._found(sample) for sample in self._samples(packed)]
            windows += [(each, *corner) for each, corner in zip(found, some)]
        return self._detection(join(windows, (height, width), size), image, path)

    def _logits(self, windows: list[np.ndarray]) -> list[LogitMap]:
        logits = [sample.seg_logits for sample in self._samples([self._packed(each, None) for each in windows])]
        return [getattr(each, 'logit_map', None) or StoredMap(each.data) for each in logits]


# ------------------------------------------------------------------------------------------ what a config has
def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f"device={str(device)!r} cannot be used here ({reason}); 'cpu' can.") from error
    return chosen


def _checked_windows(
    window: int | tuple[int, int] | None, stride: int | tuple[int, int] | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    if window is None:
        if stride is not None:
            raise UserError(f'stride={stride} is of windows: give window=(height, width) too.')
        return None, None
    window = _pair('window', window)
    stride = tuple(max(1, side * 3 // 4) for side in window) if stride is None else _pair('stride', stride)
    if any(step > side for step, side in zip(stride, window)):
        raise UserError(f'stride={stride} would leave gaps between windows of {window}; give at most these.')
    return window, stride


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    sides = (value, value) if isinstance(value, Integral) else value
    fits = isinstance(sides, Sequence) and len(sides) == 2
    if not fits or any(not isinstance(side, Integral) or side < 1 for side in sides):
        raise UserError(
            f'{name}={value!r}: give height and width in pixels, whole numbers of at least 1, or one for both.'
        )
    return int(sides[0]), int(sides[1])


def _leaf(cfg: Config) -> Mapping[str, Any]:
    """The dataset that is tested, and of several that are joined the first."""
    for split in ('test', 'val'):
        dataset = leaf_dataset((cfg.get(f'{split}_dataloader') or {}).get('dataset'))
        if dataset is not None:
            return dataset
    raise UserError(
        'the config has no test_dataloader with a dataset, whose pipeline says how an image becomes an input.'
    )


def _pipeline(steps: Sequence[Mapping[str, Any]] | None) -> Compose:
    """The steps of a test pipeline after the image is read, without those that read the truth."""
    first = dict(steps[0]) if steps else {}
    plain = _READS.fullmatch(str(first.get('type'))) and first.get('color_type', 'color') == 'color'
    if not plain:
        raise UserError(
            f'the test pipeline begins with {first or "nothing"}; images for prediction are read as LoadImageFromFile '
            "with color_type='color' reads them."
        )
    rest = [copy.deepcopy(step) for step in steps[1:] if not _NEEDS_TRUTH.fullmatch(str(step.get('type')))]
    return Compose([_to_float32, *rest] if first.get('to_float32') else rest)


def _to_float32(results: dict[str, Any]) -> dict[str, Any]:
    return {**results, 'img': results['img'].astype(np.float32)}


def _dataset(leaf: Mapping[str, Any]) -> Any:
    """The dataset with its classes, without reading its files."""
    try:
        return registries.DATASETS.build({**copy.deepcopy(dict(leaf)), 'pipeline': [], 'lazy_init': True})
    except Exception as error:  # it can be anybody's class
        raise UserError(f'test_dataloader.dataset: {leaf.get("type")} cannot be built: {error}') from error


def _built(model: Mapping[str, Any]) -> nn.Module:
    with telling_what_is_wrong():
        built = registries.MODELS.build(copy.deepcopy(model))
        check_channels(built)
    return built


def _classes(model: nn.Module, content: Any, dataset: Any) -> tuple[tuple[str, ...], Any]:
    """Names and palette, from the checkpoint, or else from the config's data set."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    saved = meta.get('dataset_meta') or {'classes': meta.get('CLASSES'), 'palette': meta.get('PALETTE')}
    count = _num_classes(model)
    wrong = []
    for place, given in (('the checkpoint', saved), ("the config's data set", dataset.metainfo)):
        names = given.get('classes')
        names = (names,) if isinstance(names, str) else tuple(map(str, names or ()))
        if names and count in (None, len(names)):
            return names, given.get('palette')
        if names:
            few = ', '.join(map(repr, names[:3])) + (', ...' if len(names) > 3 else '')
            wrong.append(f'{place} names {len(names)} ({few})')
    if wrong:
        raise UserError(
            f'the model has {count} classes, but {" and ".join(wrong)}; set num_classes of the model, or '
            'metainfo=dict(classes=...) of test_dataloader.dataset.'
        )
    if count is None:
        raise UserError('neither model, checkpoint nor data set say what classes there are; give the data set classes.')
    return tuple(map(str, range(count))), None


def _num_classes(model: nn.Module) -> int | None:
    roi_head = getattr(model, 'roi_head', None)
    head = getattr(model, 'decode_head', None) or getattr(roi_head, 'bbox_head', None)
    head = head or getattr(model, 'bbox_head', None)
    return getattr(_last(head), 'num_classes', None)


def _last(head: nn.Module | None) -> nn.Module | None:
    """A cascade's last head."""
    return head[-1] if isinstance(head, nn.ModuleList) else head


def _path(image: ImageLike) -> str | None:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return getattr(image, 'filename', None) or None
