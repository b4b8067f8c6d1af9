"""What a model is fed: samples of a config's dataset after pipeline and data preprocessor, with their labels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate

from ..check.data import require_sound_data
from ..errors import UserError
from .loading import NamingPipeline, why_unreadable
from .tracing import Placement, Trace, by_sides, watch

__all__ = ['VOID', 'FedSamples', 'Instance', 'Sample', 'View', 'resized']

VOID = 255  # what mmseg's loader, crops and pads write, whatever the dataset's ignore_index


@dataclass(frozen=True)
class Instance:
    """An object of a detection data set; in pixels of its picture."""

    label: int
    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    mask: np.ndarray | None  # (H, W) bool
    ignored: bool = False  # a crowd: neither learnt nor scored


@dataclass(frozen=True)
class View:
    """A picture with its labels. Of labels a data set has one kind: ``labels`` or ``instances``."""

    image: np.ndarray  # (H, W, 3) RGB uint8
    size: tuple[int, int]  # height and width without the padding to the right and below
    labels: np.ndarray | None = None  # (H, W) class of each pixel
    instances: tuple[Instance, ...] | None = None
    placement: Placement | None = None  # None: turned or bent, or put together from several images
    steps: tuple[str, ...] = ()  # what each transform did
    warnings: tuple[str, ...] = ()
    error: str = ''  # why there is no picture


@dataclass(frozen=True)
class Sample:
    """An image, as it is on the disk and in the versions that the model is fed."""

    index: int  # in the dataset, after filtering
    path: str
    original: View
    fed: tuple[View, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of all its pictures, each once, and which pictures it is about."""
        places: dict[str, list[str]] = {}
        names = ['as fed'] if len(self.fed) == 1 else [f'version {number}' for number in range(1, len(self.fed) + 1)]
        for name, view in zip(['on the disk', *names], (self.original, *self.fed), strict=True):
            for text in (view.error, *view.warnings):
                if text:
                    places.setdefault(text.rstrip('.'), []).append(name)
        return tuple(f'{text} ({", ".join(found)})' for text, found in places.items())


class FedSamples:
    """The dataset and the data preprocessor of a config; the model itself is not built.

    Args:
        cfg: a config that :func:`densevit.config.reading.load_config` accepted.
        split: ``'train'``, ``'val'`` or ``'test'``: which dataloader's dataset, and how the preprocessor pads.

    Attributes:
        classes: names of the classes.
        palette: what the dataset gives as their colours, or None.
        ignore_index: the label that counts for nothing, besides 255.
        mean, std: what the preprocessor normalizes with, per channel in the order in which it feeds them.
        channels: that order, ``'RGB'`` or ``'BGR'``.

    Raises:
        UserError: the config has no such dataset, or it cannot be built.
    """

    def __init__(self, cfg: Config, split: str) -> None:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict) or not isinstance(loader.get('dataset'), dict):
            raise UserError(f'the config has no {split}_dataloader with a dataset; --split names another.')
        self.training = split == 'train'
        scope = cfg.get('default_scope') or 'mmengine'
        try:
            with registries.DATASETS.switch_scope_and_registry(scope) as registry:
                self.dataset = registry.build(loader.dataset.to_dict())
        except UserError:
            raise
        except Exception as error:
            require_sound_data(cfg, (split,))  # most likely it knows why, and what to do
            raise UserError(f'{split}_dataloader.dataset: it cannot be built: {_sentence(error)}') from error
        given = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor')
        if not isinstance(given, dict):
            raise UserError('the config has no data_preprocessor, so nobody knows how the images are padded.')
        with registries.MODELS.switch_scope_and_registry(scope) as registry:
            self.preprocessor = registry.build(dict(given))
        self._trace = Trace()
        _watch_dataset(self.dataset, self._trace)
        meta = self.dataset.metainfo
        self.classes = tuple(map(str, meta.get('classes') or ()))
        self.palette = meta.get('palette')
        self.ignore_index = getattr(self.dataset, 'ignore_index', VOID)
        normalizes = getattr(self.preprocessor, '_enable_normalize', False)
        self.mean = self.preprocessor.mean.flatten().tolist() if normalizes else None
        self.std = self.preprocessor.std.flatten().tolist() if normalizes else None
        self.channels = 'RGB' if getattr(self.preprocessor, '_channel_conversion', False) else 'BGR'

    def __len__(self) -> int:
        return len(self.dataset)

    def chosen(self, num: int, seed: int) -> list[int]:
        """Indices of at most ``num`` images, by chance, in the dataset's order."""
        count = len(self)
        return sorted(np.random.default_rng(seed).permutation(count)[: min(num, count)].tolist())

    def samples(self, indices: list[int], versions: int, seed: int) -> Iterator[Sample]:
        """One after the other, since a few hundred decoded images with masks would not fit into memory.

        Args:
            indices: in the dataset.
            versions: how often each image goes through the pipeline.
            seed: a version depends on it, the index and its own number, not on what was looked at before.
        """
        for index in indices:
            dataset, inner = _leaf(self.dataset, index)
            info = dataset.get_data_info(inner)
            path = str(info.get('img_path', f'image {index}'))
            original = self._original(dataset, inner)
            fed = []
            for version in range(versions):
                _seed(seed, index, version)
                fed.append(self._fed(dataset, inner))
            yield Sample(index, path, original, tuple(fed))

    # --------------------------------------------------------------------------------------- a single picture
    def _original(self, dataset: Any, index: int) -> View:
        """The image and its labels with nothing but the pipeline's loading steps done."""
        steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
        loaders = [step for step in steps if getattr(step, 'name', '').startswith('Load')]
        error = ''
        try:
            data = NamingPipeline(Compose(loaders))(dataset.get_data_info(index))
        except Exception as first:
            error = _sentence(first)
            try:  # the image without its label
                data = Compose(loaders[:1])(dataset.get_data_info(index))
            except Exception:
                return _broken(first)
        if data.get('img') is None:
            return View(_NO_IMAGE, (0, 0), error='the pipeline does not begin with loading an image')
        image = np.ascontiguousarray(_three_channels(data['img'])[..., ::-1])
        size = image.shape[:2]
        instances = None
        if 'gt_bboxes' in data:
            boxes = getattr(data['gt_bboxes'], 'tensor', data['gt_bboxes'])
            labels = data['gt_bboxes_labels']
            ignored = data.get('gt_ignore_flags', np.zeros(len(labels), bool))
            instances = tuple(_instances(boxes, labels, data.get('gt_masks'), ignored, (1, 1), size))
        labels = data.get('gt_seg_map') if instances is None else None
        labels = None if labels is None else labels.astype(int)
        view = View(image, size, labels, instances, Placement())
        view = replace(view, warnings=(error,)) if error else self._warned(view)
        # a JPEG that is cut short is decoded, and grey where its rest would be
        damage = why_unreadable(str(data.get('img_path', '')))
        return replace(view, warnings=(f'the file is damaged: {damage}', *view.warnings)) if damage else view

    def _fed(self, dataset: Any, index: int) -> View:
        """What the model gets, its colours made visible again."""
        self._trace.reset()
        try:
            prepare = getattr(dataset, 'prepare_data', dataset.__getitem__)
            data = prepare(index)
            if data is None:
                return View(
                    _NO_IMAGE, (0, 0), steps=tuple(self._trace.steps),
                    error='the pipeline leaves no object and drops the image; training takes another in its place',
                )  # fmt: skip
            size = tuple(data['inputs'].shape[-2:])
            batch = self.preprocessor(pseudo_collate([data]), self.training)
        except Exception as error:
            return replace(_broken(error), steps=tuple(self._trace.steps))
        image, sample = self._visible(batch['inputs'][0]), batch['data_samples'][0]
        whole = image.shape[:2]
        labels = sample.gt_sem_seg.data.squeeze(0).cpu().numpy() if 'gt_sem_seg' in sample else None
        steps = list(self._trace.steps)
        if (bottom := whole[0] - size[0], right := whole[1] - size[1]) != (0, 0):
            steps.append(f'data preprocessor: padded by {bottom} below and {right} to the right to {by_sides(whole)}')
        instances = None
        scale = (1.0, 1.0)
        loaded = self._trace.labels_at
        if loaded is not None and loaded != tuple(sample.metainfo.get('ori_shape', loaded))[:2]:
            # loaded after the resize, as they are scored at the size of the annotation
            kept = tuple(sample.ori_shape[:2])
            scale = size[0] / kept[0], size[1] / kept[1]
            steps.append(f'labels stay at {by_sides(kept)}, where they are scored')
            if labels is not None and labels.shape == kept:
                labels = _padded(resized(labels, size), whole, VOID)
        if 'gt_instances' in sample and 'bboxes' in sample.gt_instances:
            found: list[Instance] = []
            for group, ignored in ((sample.gt_instances, False), (sample.get('ignored_instances'), True)):
                if group is not None and 'bboxes' in group:
                    boxes = getattr(group.bboxes, 'tensor', group.bboxes)
                    flags = np.full(len(group), ignored)
                    found += _instances(boxes, group.labels, group.get('masks'), flags, scale, whole)
            instances, labels = tuple(found), None
        view = View(image, size, labels, instances, self._trace.placement, tuple(steps))
        return self._warned(view)

    def _visible(self, inputs: torch.Tensor) -> np.ndarray:
        """A normalized image (3, H, W) as RGB (H, W, 3) uint8."""
        image = inputs.detach().float().cpu()
        if self.mean is not None:
            image = image * torch.tensor(self.std)[:, None, None] + torch.tensor(self.mean)[:, None, None]
        image = image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        image = _three_channels(image)
        return np.ascontiguousarray(image if self.channels == 'RGB' else image[..., ::-1])

    def _warned(self, view: View) -> View:
        """With what is odd about its labels."""
        found = []
        count = len(self.classes)
        if view.labels is not None and view.labels.shape != view.image.shape[:2]:
            shape = ' x '.join(map(str, view.labels.shape))
            found.append(f'the label map is {shape}, but its picture {by_sides(view.image.shape)}')
            view = replace(view, labels=None)
        elif view.labels is not None:
            labels = view.labels[: view.size[0], : view.size[1]]
            void = (labels == VOID) | (labels == self.ignore_index)
            if void.all():
                found.append('every pixel is ignored')
            outside = np.unique(labels[~void & ((labels < 0) | (labels >= count))]).tolist()
            if outside and count:
                values = ', '.join(map(str, outside[:5])) + (', ...' if len(outside) > 5 else '')
                found.append(f'label {values}, counted from 0, but there are {count} classes')
        elif view.instances is not None:
            if not any(not each.ignored for each in view.instances):
                found.append('no object')
            flat = sum(each.box[2] <= each.box[0] or each.box[3] <= each.box[1] for each in view.instances)
            if flat:
                found.append(f'boxes without extent: {flat}')
            empty = sum(each.mask is not None and not each.mask.any() for each in view.instances)
            if empty:
                found.append(f'masks without a pixel: {empty}')
            outside = sorted({each.label for each in view.instances if not 0 <= each.label < count})
            if outside:
                found.append(f'class {outside[0]}, counted from 0, but there are {count} classes')
        else:
            found.append('no label')
        return replace(view, warnings=tuple(found))


_NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def _watch_dataset(dataset: Any, trace: Trace) -> None:
    """Put the transforms of a dataset, and of those that it wraps, under watch."""
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            _watch_dataset(inner, trace)
    pipeline = getattr(dataset, 'pipeline', None)
    if isinstance(pipeline, Compose):
        watch(pipeline, trace)
        # without the number of classes it names files and looks at no label: a label outside is to be seen
        dataset.pipeline = NamingPipeline(pipeline)


def _leaf(dataset: Any, index: int) -> tuple[Any, int]:
    """The dataset that reads an image, and its index there: ``RepeatDataset``, ``ConcatDataset`` and the like wrap."""
    while hasattr(dataset, '_get_ori_dataset_idx'):
        found = dataset._get_ori_dataset_idx(index)
        which, index = found if isinstance(found, tuple) else (None, found)
        dataset = dataset.dataset if which is None else dataset.datasets[which]
    return dataset, index


def _instances(
    boxes: Any, labels: Any, masks: Any, ignored: np.ndarray, scale: tuple[float, float], size: tuple[int, int]
) -> Iterator[Instance]:
    """Instances in pixels of a picture of ``size``; ``scale`` is pixels of the picture for one of theirs, (y, x)."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4) * [scale[1], scale[0], scale[1], scale[0]]
    arrays = None if masks is None else masks.to_ndarray()
    for index, (box, label, ignore) in enumerate(
        zip(boxes.tolist(), np.asarray(labels).tolist(), ignored, strict=True)
    ):
        mask = None
        if arrays is not None:
            mask = arrays[index]
            if scale != (1, 1):
                mask = resized(mask, (round(mask.shape[0] * scale[0]), round(mask.shape[1] * scale[1])))
            mask = _padded(mask, size, 0).astype(bool)
        yield Instance(int(label), tuple(box), mask, bool(ignore))


def resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By nearest pixels."""
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, array.shape, strict=True))
    return array[rows.astype(int)[:, None], columns.astype(int)]


def _padded(array: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """To ``size``, below and to the right."""
    below, right = (max(0, new - old) for new, old in zip(size, array.shape, strict=True))
    return np.pad(array, ((0, below), (0, right)), constant_values=value)[: size[0], : size[1]]


def _three_channels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of what a loader gives: grey, with alpha, in 16 bits."""
    image = image if image.ndim == 3 else image[..., None]
    image = np.repeat(image, 3, axis=2) if image.shape[2] < 3 else image[..., :3]
    if image.dtype != np.uint8:
        image = (image / max(1, image.max() / 255)).clip(0, 255).astype(np.uint8)
    return image


def _seed(seed: int, index: int, version: int) -> None:
    state = int(np.random.SeedSequence([seed, index, version]).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def _broken(error: Exception) -> View:
    return View(_NO_IMAGE, (0, 0), error=_sentence(error))


def _sentence(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return text if isinstance(error, UserError) else f'{type(error).__name__}: {text}'
