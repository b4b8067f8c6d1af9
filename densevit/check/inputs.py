"""What a config feeds its model: annotations, normalization, sizes, and what the evaluators ask of it."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config

from .classes import metrics
from .data.steps import kind_of, leaves, steps
from .finding import Finding

__all__ = ['input_findings']

_COCO = ('bbox', 'segm', 'proposal', 'proposal_fast')
# Steps that move pixels: a label map, or boxes, loaded after them lie elsewhere.
_MOVES = ('Resize', 'Crop', 'Flip', 'Rotate', 'Affine', 'Shear', 'Translate', 'Expand', 'Mosaic', 'CutOut')


def input_findings(cfg: Config) -> Iterator[Finding]:
    """What the model is not fed, or fed in another way than it expects; no file is opened."""
    yield from _evaluators(cfg)
    yield from _images(cfg)


def _evaluators(cfg: Config) -> Iterator[Finding]:
    roi_head = (cfg.get('model') or {}).get('roi_head') or {}
    has_masks = bool(roi_head.get('mask_head')) or 'mask' in str((cfg.get('model') or {}).get('type', '')).lower()
    is_plain = kind_of(cfg.get('model') or {}) in ('MaskRCNN', 'CascadeRCNN', 'FasterRCNN', 'RetinaNet')
    for split in ('val', 'test'):
        for place, metric in metrics(cfg, split):
            wanted = metric.get('metric', 'bbox')
            named = wanted if isinstance(wanted, (list, tuple)) else [wanted]
            if kind_of(metric) == 'CocoMetric' and (unknown := [each for each in named if each not in _COCO]):
                message = f'metric={wanted!r}: there is no {unknown[0]!r}; choose among {", ".join(_COCO)}.'
                yield Finding('error', 'unknown-metric', place, message)
            if kind_of(metric) == 'CocoMetric' and 'segm' in wanted and is_plain and not has_masks:
                message = "metric='segm', but the model has no mask_head and predicts no masks; write metric='bbox'."
                yield Finding('error', 'evaluator-needs-masks', place, message)
    for place, leaf in leaves((cfg.get('train_dataloader') or {}).get('dataset'), 'train_dataloader.dataset'):
        loaders = [(where, step) for where, step in steps(leaf, place) if kind_of(step) == 'LoadAnnotations']
        for where, step in loaders:
            if roi_head.get('mask_head') and not step.get('with_mask'):
                message = 'with_mask is not set, but the model has a mask_head to train; write with_mask=True.'
                yield Finding('error', 'masks-not-loaded', where, message)
            if roi_head and step.get('with_bbox') is False:
                message = 'with_bbox=False, but the model learns boxes; write with_bbox=True.'
                yield Finding('error', 'boxes-not-loaded', where, message)
        top = leaf.get('pipeline') or ()
        kinds = [kind_of(each) if isinstance(each, dict) else '' for each in top]
        moved = [kind for kind in kinds if any(each in kind for each in _MOVES)]
        if moved and 'LoadAnnotations' in kinds and kinds.index('LoadAnnotations') > kinds.index(moved[0]):
            message = (
                f'LoadAnnotations stands behind {moved[0]}, so the image is changed and its annotations are not; '
                'put it directly behind the loading of the image.'
            )
            yield Finding('error', 'pipeline-misaligned', f'{place}.pipeline', message)
        normalizes = next((index for index, kind in enumerate(kinds) if kind == 'Normalize'), None)
        if normalizes is not None and ((cfg.get('model') or {}).get('data_preprocessor') or {}).get('mean'):
            message = 'it normalizes, and so does model.data_preprocessor (mean and std): take this step out.'
            yield Finding('error', 'normalized-twice', f'{place}.pipeline[{normalizes}]', message)
        decoded = any('decode_head' in key for key in cfg.get('model') or {})
        if leaf.get('pipeline') and not loaders and (decoded or roi_head) and not _loads_otherwise(leaf, place):
            message = "no step loads the annotations; add dict(type='LoadAnnotations') behind the loading of the image."
            yield Finding('error', 'annotations-not-loaded', f'{place}.pipeline', message)


def _loads_otherwise(leaf: dict, place: str) -> bool:
    """Whether a step of another name may load the truth."""
    return any('Load' in kind_of(step) and 'Image' not in kind_of(step) for _, step in steps(leaf, place))


def _images(cfg: Config) -> Iterator[Finding]:
    """Normalization, order of channels, and the size that a batch is brought to."""
    model = cfg.get('model') or {}
    given = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    place = 'model.data_preprocessor' if model.get('data_preprocessor') else 'data_preprocessor'
    mean, std = given.get('mean'), given.get('std')
    if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) and mean and std:
        if len(mean) != len(std):
            message = f'mean has {len(mean)} numbers and std {len(std)}; give one of each for every channel.'
            yield Finding('error', 'normalization', place, message)
        elif 0 < max(mean) <= 1 and max(std) <= 1:
            message = (
                f'mean={list(mean)} and std={list(std)} are for images from 0 to 1, but these are from 0 to 255; '
                'multiply both by 255.'
            )
            yield Finding('warning', 'normalization', place, message)
        elif len(mean) == 3 and mean[0] > mean[2] + 15 and not given.get('bgr_to_rgb') and not given.get('rgb_to_bgr'):
            message = (
                f'mean={list(mean)} is in the order red, green, blue, but images are read in the order blue, green, '
                'red, and bgr_to_rgb is not set; write bgr_to_rgb=True.'
            )
            yield Finding('warning', 'channel-order', place, message)
        if any(value == 0 for value in std):
            yield Finding('error', 'normalization', place, f'std={list(std)} divides by 0; give what the weights had.')
    if kind_of(given) == 'SegDataPreProcessor':
        size, divisor = given.get('size'), given.get('size_divisor')
        if (size is None) == (divisor is None):
            what = 'neither size nor size_divisor' if size is None else 'both size and size_divisor'
            message = f'{what} is given; give size=(height, width) of the training crops.'
            yield Finding('error', 'preprocessor-size', place, message)
    test = model.get('test_cfg') or {}
    if test.get('mode') == 'slide':
        crop, stride = test.get('crop_size'), test.get('stride')
        if crop is None or stride is None:
            message = "mode='slide' needs crop_size and stride, e.g. crop_size=(512, 512), stride=(341, 341)."
            yield Finding('error', 'slide-window', 'model.test_cfg', message)
        elif any(step > side for step, side in zip(stride, crop)):
            message = f'stride={tuple(stride)} is larger than crop_size={tuple(crop)}: pixels between stay unseen.'
            yield Finding('error', 'slide-window', 'model.test_cfg', f'{message} Give a stride below the size.')
