"""What is measured: a backbone or a config's model with random weights, its input, and its work for one batch."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..errors import UserError, did_you_mean
from ..registry import PARTS, import_part
from .machine import set_dtype

__all__ = [
    'DTYPES', 'Spec', 'Work', 'backbone_names', 'build', 'dicts', 'fold_peer', 'images', 'is_twin', 'make',
    'parse_spec', 'randomize', 'threads',
]  # fmt: skip

DTYPES = ('float32', 'bf16', 'tf32', 'float64')
# Where our parts are that take the place of mmsegmentation's and mmdetection's: same names, parameters and results.
_TWINS = ('densevit.segmentation.', 'densevit.detection.')
_SPEC = re.compile(r'(?:densevit\.)?(\w+)(?::(.*))?')
_NO_DROPPING = ('drop_path_rate', 'dropout_ratio', 'drop_rate', 'attn_drop_rate')


# ------------------------------------------------------------------------------------------------ building
@dataclass(frozen=True)
class Spec:
    """A model to be built.

    Attributes:
        name: as the user gave it.
        config: of a backbone, or of a whole model.
        scope: where the types of a whole model are looked up, ``'mmseg'`` or ``'mmdet'``; None of a backbone.
    """

    name: str
    config: dict[str, Any]
    scope: str | None = None

    @property
    def kind(self) -> str:
        if self.scope is None:
            return 'backbone'
        return 'segmentor' if 'decode_head' in self.config else 'detector'

    def with_fast_parts(self, *, winograd: bool = False) -> Spec:
        """Our own model and heads where the config names those of the mm packages; others stay."""
        return replace(self, config=_fast(self.config, winograd=winograd))

    def without_dropping(self) -> Spec:
        """Dropout and stochastic depth off, as two packages do not draw the same random numbers."""
        config = copy.deepcopy(self.config)
        backbone = config if self.scope is None else config['backbone']
        backbone.pop('drop_path_rate', None)
        for part in dicts(config):
            for key in _NO_DROPPING:
                if key in part:
                    part[key] = 0.0
        return replace(self, config=config)


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in a config, from the outside."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from dicts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from dicts(item)


def _fast(config: dict[str, Any], *, winograd: bool) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for part in dicts(config):
        name = str(part.get('type', '')).rpartition('.')[2]
        if is_twin(name):
            part['type'] = f'densevit.{name}'
    if winograd:
        head = config.get('decode_head')
        if not isinstance(head, dict) or head.get('type') != 'densevit.UPerHead':
            raise UserError('--winograd is an option of densevit.UPerHead, and this model has none.')
        head['winograd'] = True
    return config


def is_twin(name: str) -> bool:
    """Whether we have a part that takes the place of another package's, by its name without a scope."""
    return PARTS.get(name, '').startswith(_TWINS)


def backbone_names() -> list[str]:
    """Our backbones."""
    return [name for name, module in PARTS.items() if module.startswith('densevit.backbones.')]


def parse_spec(text: str) -> Spec:
    """``'densevit.SwinTransformer:T,window_size=12'``, the path of a config, or the name of a shipped one.

    Raises:
        UserError: nothing of that name; the message has the nearest.
    """
    match = _SPEC.fullmatch(text)
    if match and match[1] in backbone_names():
        return Spec(text, {'type': f'densevit.{match[1]}', **_options(match[1], match[2] or '')})
    from ..config.reading import load_config

    try:
        cfg = load_config(text)
    except UserError as error:
        if match and ':' in text or text.startswith('densevit.'):
            names = [f'densevit.{name}' for name in backbone_names()]
            name = text.partition(':')[0]
            raise UserError(
                f'{name!r} is no backbone{did_you_mean(name, names) or "."} Valid are {", ".join(names)}, with an arch '
                "as in 'densevit.SwinTransformer:T,window_size=12', and configs."
            ) from error
        raise
    if 'model' not in cfg:
        raise UserError(f'config {text!r} has no model.')
    return Spec(text, cfg.model.to_dict(), cfg.get('default_scope', 'mmengine'))


def _options(name: str, text: str) -> dict[str, Any]:
    """``'T,window_size=12,out_indices=(0,1)'`` -> arguments of the backbone."""
    cls, found = import_part(name), {}
    known = list(inspect.signature(cls).parameters)
    variant = known[0]  # arch, or of timm's models model_name
    for position, word in enumerate(_words(text)):
        key, equals, value = word.partition('=')
        if not equals and position == 0:
            key, value = variant, word
        if key not in known:
            raise UserError(f'{name} has no argument {key!r}{did_you_mean(key, known) or "."}')
        try:
            found[key] = ast.literal_eval(value) if key != variant or value.startswith('{') else value
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def _words(text: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    words, depth = [''], 0
    for letter in text:
        depth += (letter in '([{') - (letter in ')]}')
        if letter == ',' and depth == 0:
            words.append('')
        else:
            words[-1] += letter
    return words if text else []


def build(spec: Spec, *, seed: int = 0, gains: Mapping[str, float] | None = None) -> nn.Module:
    """The model with random weights and statistics, in eval mode, on the CPU in float32.

    Raises:
        UserError: see :func:`make`.
    """
    return randomize(make(spec), seed=seed, gains=gains)


def make(spec: Spec) -> nn.Module:
    """The model as its constructor leaves it, in eval mode.

    Raises:
        UserError: an argument that the model refuses.
    """
    config = ConfigDict(copy.deepcopy(spec.config))  # mmdetection's detectors write into it
    for part in dicts(config):
        part.pop('init_cfg', None)  # nothing is downloaded
    with DefaultScope.overwrite_default_scope(spec.scope or 'densevit'):
        try:
            model = MODELS.build(config)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'{spec.name}: {error}') from error
    model.eval()
    return model


def randomize(model: nn.Module, *, seed: int = 0, gains: Mapping[str, float] | None = None) -> nn.Module:
    """Weights that keep the size of activations, by name and seed, and BatchNorm statistics that fit them.

    Args:
        model: is changed, and returned.
        seed: of all weights.
        gains: by pattern of the name, factors on weights.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                return model
            numbers = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
            values = torch.randn(parameter.shape, generator=numbers)
            if name.endswith('logit_scale'):
                values = 0.1 * values + math.log(10)
            elif name.endswith(('bias_table', 'pos_embed', 'cls_token')) or '.gamma' in name:
                values *= 0.2
            elif parameter.ndim > 1:
                values *= math.prod(parameter.shape[1:]) ** -0.5
            else:
                values = 0.2 * values + name.endswith('weight')  # norms around 1, biases around 0
            for pattern, gain in (gains or {}).items():
                if re.fullmatch(pattern, name):
                    values *= gain
            parameter.copy_(values)
    _set_statistics(model)
    return model


def _set_statistics(model: nn.Module) -> None:
    """Running means and variances of one training batch."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        x = images(2, (96, 128))
        maps = model.backbone(x) if hasattr(model, 'backbone') else model(x)
        if getattr(model, 'with_neck', False):
            maps = model.neck(maps)
        for name in ('decode_head', 'auxiliary_head'):
            if getattr(model, name, None) is not None:
                getattr(model, name)(maps)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


def fold_peer(model: nn.Module) -> nn.Module:
    """Multiply BatchNorm into the convolutions before it, in place, as users of mmcv do."""
    from mmcv.cnn.utils import fuse_conv_bn

    return fuse_conv_bn(model)


# -------------------------------------------------------------------------------------------------- inputs
def images(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Random images (batch, 3, H, W), smooth with some noise, as photos are."""
    numbers = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, math.ceil(size[0] / 32) + 1, math.ceil(size[1] / 32) + 1, generator=numbers)
    smooth = F.interpolate(coarse, size=size, mode='bicubic', align_corners=False)
    return smooth + 0.2 * torch.randn(batch, 3, *size, generator=numbers)


def _segment_samples(batch: int, size: tuple[int, int], out_size: tuple[int, int] | None, classes: int) -> list[Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    numbers = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(batch):
        sample = SegDataSample()
        sample.set_metainfo(
            dict(ori_shape=out_size or size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0], flip=False)
        )
        coarse = torch.randint(classes, (1, 1, math.ceil(size[0] / 64), math.ceil(size[1] / 64)), generator=numbers)
        label = F.interpolate(coarse.float(), size=size, mode='nearest').long()[0]
        label[:, : size[0] // 32] = 255  # not to be learned
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return samples


def _detect_samples(batch: int, size: tuple[int, int], classes: int, objects: int = 12) -> list[Any]:
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    numbers = torch.Generator().manual_seed(1)
    height, width = size
    samples = []
    for index in range(batch):
        corner = torch.rand(objects, 2, generator=numbers) * torch.tensor([0.6 * width, 0.6 * height])
        extent = (0.08 + 0.3 * torch.rand(objects, 2, generator=numbers)) * torch.tensor([width, height])
        boxes = torch.cat([corner, corner + extent], 1)
        masks = np.zeros((objects, height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        labels = torch.randint(classes, (objects,), generator=numbers)
        sample = DetDataSample(
            metainfo=dict(
                img_id=index, img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                scale_factor=(1.0, 1.0), flip=False,
            ),
            gt_instances=InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, height, width)),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
        )  # fmt: skip
        samples.append(sample)
    return samples


# ---------------------------------------------------------------------------------------------------- work
@dataclass
class Work:
    """A model's work for one batch, forward or a training step.

    Attributes:
        spec: what the model was built from, for the kind and the classes.
        size: height and width of the images.
        batch: how many.
        train: a step with losses, backward pass and AdamW instead of a prediction.
        dtype: of ``DTYPES``; ``'bf16'`` means autocast.
        device: where.
        out_size: height and width of a label map; those of the image by default.
        channels_last: the memory format of images and weights.
        seed: set before every training step, for the samplers.
    """

    spec: Spec
    size: tuple[int, int]
    batch: int = 1
    train: bool = False
    dtype: str = 'float32'
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))
    out_size: tuple[int, int] | None = None
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype == 'tf32' and self.device.type != 'cuda':
            raise UserError('--dtype tf32 is a mode of CUDA devices; on the CPU use float32.')
        if min(*self.size, self.batch) < 1:
            raise UserError(f'size {self.size[0]}x{self.size[1]} and batch {self.batch} must be at least 1.')
        set_dtype(self.dtype)
        x = images(self.batch, self.size)
        x = x.double() if self.dtype == 'float64' else x
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        self.x = x.to(self.device).contiguous(memory_format=memory_format)
        if self.spec.kind == 'segmentor':
            heads = self.spec.config['decode_head']
            classes = (heads[-1] if isinstance(heads, (list, tuple)) else heads)['num_classes']
            self._samples = _segment_samples(self.batch, self.size, self.out_size, classes)
        elif self.spec.kind == 'detector':
            self._samples = _detect_samples(self.batch, self.size, _num_classes(self.spec.config))
        else:
            self._samples = []
        if self.dtype == 'float64' and self.spec.kind == 'detector':
            for sample in self._samples:
                sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
        self._samples = [sample.to(self.device) for sample in self._samples]

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the precision, format and mode that the work needs."""
        model = model.to(self.device, torch.float64 if self.dtype == 'float64' else torch.float32)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model.train(self.train)  # some of mmdetection's return nothing
        return model

    def context(self) -> AbstractContextManager:
        """Precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.dtype == 'bf16' else nullcontext()

    def samples(self) -> list[Any]:
        """Fresh data samples, as the model writes into them."""
        return [sample.new() for sample in self._samples]

    # ------------------------------------------------------------------------------------------- forward
    def forward(self, model: nn.Module) -> Any:
        """From image to maps, to a label map, or to boxes and masks in RLE."""
        with torch.inference_mode(), self.context():
            if self.spec.kind == 'backbone':
                return model(self.x)
            results = model.predict(self.x, self.samples())
            return results if self.spec.kind == 'segmentor' else [_in_rle(result) for result in results]

    def outputs(self, model: nn.Module) -> dict[str, Tensor]:
        """What :meth:`forward` gives, by name, and of a segmentor the logits too."""
        results = self.forward(model)
        if self.spec.kind == 'backbone':
            return {f'map{index}': x.float() if self.dtype == 'bf16' else x for index, x in enumerate(results)}
        if self.spec.kind == 'segmentor':
            labels = torch.stack([result.pred_sem_seg.data for result in results])
            with torch.inference_mode(), self.context():
                logits = model.encode_decode(self.x, [sample.metainfo for sample in self.samples()])
            return {'logits': logits, 'label_map': labels}
        return _merged([_detections(result) for result in results])

    # ------------------------------------------------------------------------------------------ training
    def loss(self, model: nn.Module) -> Tensor:
        """Of one batch; of a backbone, a sum over its maps with random weights."""
        with self.context():
            if self.spec.kind != 'backbone':
                total, _ = model.parse_losses(model.loss(self.x, self.samples()))
                return total
            return sum((x.float() * _weights_like(x)).mean() for x in model(self.x))

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        """One update, from the images to the weights."""
        torch.manual_seed(self.seed)
        loss = self.loss(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def gradients(self, model: nn.Module) -> dict[str, Tensor]:
        """The loss, and the gradients of all parameters by their names; the model is left as it was."""
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        torch.manual_seed(self.seed)
        loss = self.loss(model)
        loss.backward()
        found = {'loss': loss.detach()}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[name] = parameter.grad
                parameter.grad = None
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
        return found

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW; with a rate that moves the weights so little that every step is like the first."""
        return torch.optim.AdamW(model.parameters(), lr=1e-8, weight_decay=0.01, fused=self.device.type == 'cuda')

    def runner(self, model: nn.Module) -> Callable[[], Any]:
        """What is timed."""
        if not self.train:
            return lambda: self.forward(model)
        optimizer = self.optimizer(model)
        return lambda: self.step(model, optimizer)


def _weights_like(x: Tensor) -> Tensor:
    numbers = torch.Generator().manual_seed(x.shape[1])
    return torch.randn(x.shape[1:], generator=numbers).to(x.device)


def _num_classes(config: Mapping[str, Any]) -> int:
    head = config.get('roi_head', {}).get('bbox_head') or config.get('bbox_head')
    if head is None:
        raise UserError('this detector has no bbox_head; two-stage and single-stage detectors with one can be measured')
    return (head[0] if isinstance(head, (list, tuple)) else head)['num_classes']


def _in_rle(result: Any) -> Any:
    """The result with its masks in RLE, as the package's own evaluation wants them."""
    masks = result.pred_instances.get('masks')
    if masks is None:
        return result
    if hasattr(masks, 'encode'):  # ours
        encoded = masks.encode()
    else:
        from mmdet.structures.mask import encode_mask_results

        encoded = encode_mask_results(masks.detach().cpu().numpy())
    result.pred_instances.masks = list(encoded)
    return result


def _detections(result: Any) -> dict[str, Tensor]:
    """Boxes, scores, labels and masks."""
    import numpy as np
    from pycocotools import mask as coco

    instances = result.pred_instances
    found = {'boxes': instances.bboxes, 'scores': instances.scores, 'labels': instances.labels}
    if 'masks' in instances:
        decoded = [torch.from_numpy(coco.decode(dict(rle)).astype(np.bool_)) for rle in instances.masks]
        found['masks'] = torch.stack(decoded) if decoded else torch.zeros(0, *result.ori_shape, dtype=torch.bool)
    return found


def _merged(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(results) == 1:
        return results[0]
    return {f'{name} {index}': tensor for index, result in enumerate(results) for name, tensor in result.items()}


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
