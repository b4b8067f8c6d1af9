"""What ``tools/explain.py`` looks at: a classifier or a config's model with its weights, its classes and its input."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo
from torch import Tensor, nn
from torchvision.transforms import functional as transforms
from torchvision.transforms.functional import InterpolationMode

from ..backbones.base import Backbone
from ..benchmark.models import Spec, make, parse_spec
from ..check.data.steps import leaf_dataset
from ..checkpoints import load_weights, read_checkpoint
from ..checkpoints.names import CLASS_ATTENTION
from ..checkpoints.origins import to_ours
from ..checkpoints.read import unwrap
from ..classifiers.image_classifier import ImageClassifier
from ..config.reading import load_config
from ..errors import UserError, did_you_mean

__all__ = ['Subject', 'View', 'load_subject']

CROP = 0.875  # of the short side, in the official evaluation of classifiers
SMALLEST = 448  # pixels of a picture's short side: smaller inputs are drawn larger
# ImageNet's usual subsets by their number of classes, as timm names them
SUBSETS = {1000: 'imagenet-1k', 11221: 'imagenet-21k-miil', 21841: 'imagenet-22k', 21843: 'imagenet-21k'}


@dataclass(frozen=True)
class View:
    """An image as the network gets it, and as it is drawn.

    Attributes:
        image: (3, H, W), normalised, with the padding that the model adds.
        picture: RGB uint8, without padding: what the network sees, ``zoom`` times as large.
        zoom: pixels of the picture per pixel of the input.
        scale: pixels of the input per pixel of the photo, down and right.
        offset: what is cut off above and to the left, in pixels of the input.
        batch: what a segmentor's or detector's ``test_step`` takes.
    """

    image: Tensor
    picture: np.ndarray
    zoom: float = 1
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    batch: Mapping[str, Any] | None = None

    def pixel(self, point: tuple[float, float]) -> tuple[float, float]:
        """From y and x in the photo to those in the input.

        Raises:
            UserError: the network does not see that pixel.
        """
        y, x = (
            (each + 0.5) * scale - offset for each, scale, offset in zip(point, self.scale, self.offset, strict=True)
        )
        height, width = (side / self.zoom for side in self.picture.shape[:2])
        if not (0 <= y < height and 0 <= x < width):
            left, right = (each / self.scale[1] for each in (self.offset[1], self.offset[1] + width))
            top, bottom = (each / self.scale[0] for each in (self.offset[0], self.offset[0] + height))
            raise UserError(
                f'--query {point[1]:g},{point[0]:g} lies outside of what the network sees of the image: x from '
                f'{left:.0f} to {right - 1:.0f}, y from {top:.0f} to {bottom - 1:.0f}.'
            )
        return y, x

    def drawn(self, extent: tuple[float, float]) -> tuple[float, float]:
        """A height and a width in pixels of the input as pixels of the picture."""
        return extent[0] * self.zoom, extent[1] * self.zoom


@dataclass(frozen=True)
class Subject:
    """A model in eval mode, the names of its classes, and how it gets an image, RGB (H, W, 3) uint8."""

    model: nn.Module
    names: tuple[str, ...]
    view: Callable[[np.ndarray], View]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def indices(self, text: str) -> list[int]:
        """The classes in ``'cat, 283, tiger'``: by name, by one of several names, or by index.

        Raises:
            UserError: there is no such class, or several.
        """
        return [self._index(word.strip()) for word in text.split(',') if word.strip()]

    def _index(self, word: str) -> int:
        if word.isdecimal():
            if int(word) >= len(self.names):
                raise UserError(f'--classes {word}: the model has classes 0 to {len(self.names) - 1}.')
            return int(word)
        synonyms = [[each.strip().lower() for each in name.split(',')] for name in self.names]
        exact = [index for index, words in enumerate(synonyms) if word.lower() in words]
        found = exact or [index for index, words in enumerate(synonyms) if word.lower() in ' '.join(words).split()]
        if len(found) == 1:
            return found[0]
        if found:
            some = ', '.join(f'{index} ({self.names[index].partition(",")[0]})' for index in found[:6])
            raise UserError(f'--classes {word!r} can be {len(found)} classes; give the index of one: {some}.')
        every = [each for words in synonyms for each in words]
        raise UserError(f'--classes {word!r}: the model has no such class{did_you_mean(word, every) or "."}')


def load_subject(args: argparse.Namespace) -> Subject:
    """The model of a config, or a classifier on a backbone that is named, with its weights.

    For ``--layers`` the weights of a backbone alone will do.

    Raises:
        UserError: the config, the checkpoint or the list of classes cannot be read, or they do not fit together.
    """
    spec = parse_spec(args.model)
    content = read_checkpoint(args.checkpoint, trust=args.trust_checkpoint)
    tensors = unwrap(content, args.checkpoint)
    if spec.scope is None:
        if spec.config['type'] == 'densevit.TimmBackbone' and (args.layers or 'pool.attn.q.weight' not in tensors):
            raise UserError(
                f"{spec.name}: the attention in timm's models is not recorded; what can be drawn is a learned "
                "aggregation, from the checkpoint of a densevit.ImageClassifier with pool='learned', or the class "
                'attention of a config.'
            )
        if args.layers and 'head.weight' not in to_ours(tensors).tensors:
            # not every checkpoint has norms of other outputs than the last, and no attention depends on them
            spec = Spec(spec.name, {'out_indices': (-1,), **spec.config}, None)
        else:
            spec = _as_classifier(spec, tensors)
    with torch.random.fork_rng(devices=[]):
        model = make(spec)
    report = load_weights(model, tensors)
    print(report, flush=True)
    if not args.layers and any(name.startswith(CLASS_ATTENTION) for name in report.kept):
        raise UserError(
            f'checkpoint {str(args.checkpoint)!r} has no weights of the class attention head; train the model with '
            'class_attention (docs/class_attention.md).'
        )
    model.to(_device(args.device)).eval()
    if isinstance(model, (ImageClassifier, Backbone)):
        count = len(model.head.weight) if isinstance(model, ImageClassifier) else None
        view = _classifier_view(args.size or 224, whole=args.whole)
    elif hasattr(model, 'backbone') and hasattr(model, 'data_preprocessor'):
        if args.size or args.whole:
            raise UserError("--size and --whole are for classifiers; a config's test_pipeline says how images are fed.")
        head = getattr(model, 'class_attention', None)
        count = None if head is None else head.num_classes
        view = _dense_view(args.model, model)
    else:
        raise UserError(f'{args.model}: {type(model).__name__} is no classifier, segmentor or detector.')
    return Subject(model, _names(args, content, count), view)


def _device(name: str | None) -> str:
    if name is None:
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if name.startswith('cuda') and not torch.cuda.is_available():
        raise UserError(f'--device {name}: torch finds no GPU here; leave the option out.')
    return name


def _as_classifier(spec: Spec, tensors: Mapping[str, Tensor]) -> Spec:
    """The classifier on this backbone that a checkpoint is of: its tensors tell the pool and the number of classes."""
    ours = to_ours(tensors).tensors
    queries, head = ours.get('pool.cls_token'), ours.get('head.weight')
    if head is None:
        raise UserError(
            f"{spec.name}: the checkpoint has no head, so it is not a classifier's; give the config of the model."
        )
    config: dict[str, Any] = dict(type='densevit.ImageClassifier', backbone=spec.config, num_classes=len(head))
    if queries is not None and 'pool.attn.q.weight' in ours:
        config['pool'] = 'learned_multi' if queries.shape[1] == len(head) > 1 else 'learned'
    return Spec(spec.name, config, 'densevit')


def _names(args: argparse.Namespace, content: Any, count: int | None) -> tuple[str, ...]:
    """Of the classes: from a file, from the checkpoint, ImageNet's, or none but numbers."""
    if args.class_names:
        try:
            names = [line.strip() for line in Path(args.class_names).read_text(encoding='utf-8').splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'--class-names {args.class_names!r} cannot be read: {error}.') from error
        names = [name for name in names if name]
        if count not in (None, len(names)):
            raise UserError(f'--class-names {args.class_names!r} has {len(names)} names, the model {count} classes.')
        return tuple(names)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    known = ((meta or {}).get('dataset_meta') or {}).get('classes') if isinstance(meta, Mapping) else None
    if known and count in (None, len(known)):
        return tuple(str(name) for name in known)
    if count in SUBSETS:
        listed = ImageNetInfo(SUBSETS[count])
        return tuple(listed.index_to_description(index) for index in range(count))
    return tuple(f'class {index}' for index in range(count or 0))


# ------------------------------------------------------------------------------------------------------------ inputs
def _classifier_view(size: int, *, whole: bool) -> Callable[[np.ndarray], View]:
    """As classifiers are evaluated on ImageNet: short side resized bicubically to size / 0.875, middle cropped.

    Args:
        size: side of the crop in pixels.
        whole: crop nothing; the short side becomes ``size``.
    """
    if size < 16:
        raise UserError(f'--size {size}: give the side of the input in pixels, at least 16.')

    def resized(photo: Image.Image, factor: int) -> Image.Image:
        side = size if whole else int(size / CROP)
        image = transforms.resize(photo, [side * factor], InterpolationMode.BICUBIC)
        return image if whole else transforms.center_crop(image, [size * factor])

    def view(photo: np.ndarray) -> View:
        original = Image.fromarray(photo)
        small = resized(original, 1)
        zoom = max(1, -(-SMALLEST // min(small.size)))
        drawn = resized(original, zoom).resize((small.width * zoom, small.height * zoom))
        image = transforms.normalize(transforms.to_tensor(small), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        height, width = photo.shape[:2]
        scale = (size if whole else int(size / CROP)) / min(height, width)
        offset = (0.0, 0.0) if whole else ((height * scale - size) / 2, (width * scale - size) / 2)
        return View(image, np.array(drawn), zoom, (scale, scale), offset)

    return view


def _dense_view(config: str, model: nn.Module) -> Callable[[np.ndarray], View]:
    """As the config's test pipeline feeds its model."""
    cfg = load_config(config)
    scope = cfg.get('default_scope', 'mmengine')
    dataset = leaf_dataset((cfg.get('test_dataloader') or {}).get('dataset'))
    if dataset is None or 'pipeline' not in dataset:
        raise UserError(f'config {config!r} has no test_dataloader whose pipeline says how images are fed.')
    steps: list[Any] = []
    for step in dataset.pipeline:
        name = str(step.get('type', '')).rpartition('.')[2]
        if name == 'LoadImageFromFile':
            steps.append(ConfigDict(type=f'{scope}.LoadImageFromNDArray'))
        elif not name.startswith('Load'):
            steps.append(step)
    with DefaultScope.overwrite_default_scope(scope):
        pipeline = Compose(steps)

    def view(photo: np.ndarray) -> View:
        fed = pipeline(dict(img=np.ascontiguousarray(photo[..., ::-1])))
        picture = np.ascontiguousarray(fed['inputs'].flip(0).permute(1, 2, 0).numpy())
        batch = dict(inputs=[fed['inputs']], data_samples=[fed['data_samples']])
        image = model.data_preprocessor(copy.deepcopy(batch), False)['inputs'][0]
        scale = (picture.shape[0] / photo.shape[0], picture.shape[1] / photo.shape[1])
        return View(image, picture, 1, scale, batch=batch)

    return view
