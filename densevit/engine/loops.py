"""Validation that also reports the loss, beside the metrics."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from ..random_numbers import random_numbers_restored
from ..registry import LOOPS
from .distributed import unwrapped

__all__ = ['ValLoop', 'fixed_randomness', 'truth_on_input']

_MmengineValLoop = MMENGINE_LOOPS.get('ValLoop')


@LOOPS.register_module()
class ValLoop(_MmengineValLoop):
    """mmengine's validation loop, and the loss on the validation set.

    The metrics gain ``val/loss`` and its parts as the model names them (``val/decode.loss_ce``,
    ``val/loss_mask``, ...), so that ``save_best='val/loss'`` and early stopping work, and the log, the JSON
    file and TensorBoard show them beside, and not among, those of training. (The part before the slash is
    needed: mmengine gives training and validation the same tags. It also shows the mean of the last ten
    values of everything that is called loss; here it is the last value.)

    The loss is the mean over the images of each one's loss, with the model in eval mode and the same features as
    the prediction (sliding windows excepted: there the loss takes one more pass, over the whole image): it does
    not depend on the batch size, but for padding, nor on the number of processes. Test pipelines load the ground
    truth after resizing, so it is brought to the size of the images here (:func:`truth_on_input`). Where boxes or
    pixels are sampled, it is with fixed random numbers of the image's own: the loss of the same weights is the
    same again, and training goes on as if it had not been measured.

    Batches without ground truth are left out; if that is all of them, or if the model has no loss, the log
    says so.

    Args:
        runner: the runner that this loop belongs to.
        dataloader: what to validate on.
        evaluator: the metrics.
        fp16: predict and measure under autocast.
        loss: measure the loss.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        *,
        loss: bool = True,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.loss = loss
        self._sums: dict[str, float] = defaultdict(float)
        self._num_images = self._num_seen = 0

    def run(self) -> dict:
        """Validate; returns the metrics and the loss. The model is left in the mode in which it was."""
        model, scalars = self.runner.model, self.runner.message_hub.log_scalars
        was_training = model.training
        self._sums.clear()
        self._num_images = self._num_seen = 0
        # mmengine logs the mean over the last validations of what is called loss: keep none but the next.
        for name in [name for name in scalars if name.startswith('val/val/')]:
            del scalars[name]

        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        model.eval()
        for index, batch in enumerate(self.dataloader):
            self.run_iter(index, batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.loss:
            metrics.update(self._mean_losses())
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        model.train(was_training)
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predict and score one batch, and add its loss."""
        model = self.runner.model
        inner = unwrapped(model)
        if not self.loss or not callable(getattr(inner, 'loss', None)):
            super().run_iter(idx, data_batch)
            return
        with _shared_features(inner) as features, _model_input(inner) as seen:
            super().run_iter(idx, data_batch)
            inputs, samples = seen.get('inputs'), seen.get('data_samples')
            if not torch.is_tensor(inputs) or not samples:
                return
            first, self._num_seen = self._num_seen, self._num_seen + len(samples)
            samples = [truth_on_input(sample, inputs.shape[-2:], _ignored(inner)) for sample in samples]
            if any(sample is None for sample in samples) or not _has_masks(inner, samples):
                return
            if getattr(inner.data_preprocessor, 'pad_mask', False):
                inner.data_preprocessor.pad_gt_masks(samples)
            # DDP would broadcast buffers in its forward, and wait for processes that have fewer batches.
            call = inner if isinstance(model, DistributedDataParallel) else model
            rank, world_size = get_dist_info()
            for index, sample in enumerate(samples):
                place = (first + index) * world_size + rank
                if place >= len(self.dataloader.dataset):
                    return  # a distributed sampler repeats images until all processes have equally many
                with fixed_randomness(place, inputs.device), autocast(enabled=self.fp16):
                    losses = call(features.of_image(inputs, index), [sample], mode='loss')
                _, parts = inner.parse_losses(losses)
                for name, value in parts.items():
                    self._sums[name] += float(value)
                self._num_images += 1

    def _mean_losses(self) -> dict[str, float]:
        """The mean over the images of all processes."""
        sums, num_images = defaultdict(float), 0
        for part_sums, part_images in all_gather_object((dict(self._sums), self._num_images)):
            num_images += part_images
            for name, value in part_sums.items():
                sums[name] += value
        if num_images == 0:
            print_log(
                'no validation loss: the model has none, or the validation pipeline does not load the ground '
                'truth that it needs',
                logger='current',
            )
        return {f'val/{name}': value / num_images for name, value in sums.items()}


def truth_on_input(sample: BaseDataElement, size: Sequence[int], ignore_index: int = 255) -> BaseDataElement | None:
    """A copy of a data sample's ground truth, at the scale and size of the image that the model is given.

    Label maps and masks are resized (nearest pixel) if they still have ``ori_shape``, and label maps padded
    at the right and bottom with ``ignore_index``. Boxes are taken to be at the same scale as the masks and,
    where there are none, at that of the original image, as mmdetection's test pipelines leave them. Flipped
    images are not supported.

    Args:
        sample: mmsegmentation's with ``gt_sem_seg``, or mmdetection's with ``gt_instances``, and the metadata
            ``ori_shape``, and ``scale_factor`` (width, height) or ``img_shape``.
        size: height and width of the batch, in pixels, padding included.
        ignore_index: label of the padding.

    Returns:
        A sample with metadata and ground truth only, or None where there is no ground truth.
    """
    copy = type(sample)(metainfo=sample.metainfo)
    original = tuple(sample.get('ori_shape', size))[:2]
    scale = sample.get('scale_factor')
    if scale is None:
        height, width = sample.get('img_shape', size)[:2]
        scale = (width / original[1], height / original[0])
    resized = (round(original[0] * scale[1]), round(original[1] * scale[0]))

    if 'data' in sample.get('gt_sem_seg', ()):
        label = sample.gt_sem_seg.data
        if tuple(label.shape[-2:]) == original:
            label = F.interpolate(label[None].float(), size=resized, mode='nearest')[0].to(label.dtype)
        padding = (0, size[1] - label.shape[-1], 0, size[0] - label.shape[-2])
        copy.gt_sem_seg = PixelData(data=F.pad(label, padding, value=ignore_index))
        return copy
    if 'bboxes' not in sample.get('gt_instances', ()):
        return None
    copy.gt_instances = _resize_instances(sample.gt_instances, original, resized, scale)
    if 'bboxes' in sample.get('ignored_instances', ()):
        copy.ignored_instances = _resize_instances(sample.ignored_instances, original, resized, scale)
    return copy


def _resize_instances(
    instances: InstanceData, original: tuple[int, int], resized: tuple[int, int], scale: Sequence[float]
) -> InstanceData:
    copy = instances.clone()
    if 'masks' in copy:
        if (copy.masks.height, copy.masks.width) != original:
            return copy
        copy.masks = copy.masks.resize(resized)
    boxes: Tensor = getattr(copy.bboxes, 'tensor', copy.bboxes)
    copy.bboxes = boxes * boxes.new_tensor([*scale, *scale])
    return copy


@contextmanager
def fixed_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, numpy and Python, and give them back as they were."""
    with random_numbers_restored([device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield


class _Features:
    """The newest result of a model's ``extract_feat``; one only: a sliding window asks for each crop once."""

    def __init__(self) -> None:
        self.inputs: Tensor | None = None
        self.maps: Any = None
        self._batch: tuple[Tensor | None, Any] = (None, None)

    def of_image(self, inputs: Tensor, index: int) -> Tensor:
        """An image of a batch, whose features need not be computed again if the batch's are the newest."""
        if len(inputs) == 1:
            return inputs
        if self.inputs is inputs:
            self._batch = (inputs, self.maps)
        image = inputs[index : index + 1]
        of, maps = self._batch
        if of is inputs:
            self.inputs, self.maps = image, tree_map(lambda each: each[index : index + 1], maps)
        return image


@contextmanager
def _shared_features(model: nn.Module) -> Iterator[_Features]:
    """Within this context ``model.extract_feat``, asked for the same tensor again, returns the same."""
    extract: Callable[[Tensor], Any] | None = getattr(model, 'extract_feat', None)
    newest = _Features()
    if extract is None:
        yield newest
        return

    def extract_feat(inputs: Tensor) -> Any:
        if newest.inputs is not inputs:
            newest.inputs, newest.maps = inputs, extract(inputs)
        return newest.maps

    model.extract_feat = extract_feat
    try:
        yield newest
    finally:
        del model.extract_feat  # the class's own comes back


@contextmanager
def _model_input(model: nn.Module) -> Iterator[dict]:
    """A dictionary that receives what the model's data preprocessor hands to the model."""
    seen: dict[str, Any] = {}

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, dict):
            seen.update(output)

    handle = model.data_preprocessor.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _ignored(model: nn.Module) -> int:
    """The label that a segmentation head does not count."""
    return getattr(getattr(model, 'decode_head', None), 'ignore_index', 255)


def _has_masks(model: nn.Module, samples: Sequence[BaseDataElement]) -> bool:
    """Whether the samples hold masks, or the model needs none."""
    return not getattr(model, 'with_mask', False) or all('masks' in sample.gt_instances for sample in samples)
