"""Whether the parts of a model fit together: built and run on the meta device, which computes nothing."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..errors import UserError
from .finding import Finding, raise_errors

__all__ = [
    'Pass', 'build_on_meta', 'channel_mistakes', 'check_channels', 'telling_what_is_wrong', 'training_pass',
    'why_not_built',
]  # fmt: skip


def build_on_meta(cfg: Config) -> tuple[nn.Module | None, list[Finding]]:
    """The model of a config without values, and why it cannot be built.

    A constructor that asks for a number of a tensor, as mm's Swin does for its drop rates, cannot run there; such a
    model is built with values, and these are thrown away.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    reason: BaseException | None = None
    for device in ('meta', 'cpu'):
        try:
            # random numbers of the run that comes are not touched
            with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope(scope), torch.device(device):
                model = MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into it
            return revert_sync_batchnorm(model).to('meta'), []
        except Exception as error:  # a constructor can raise anything
            reason = error
    if isinstance(reason, UserError):
        return None, [Finding('error', 'model-not-built', 'model', str(reason))]
    kind = 'operator-missing' if 'compiled mmcv' in str(reason) else 'model-not-built'
    return None, [Finding('error', kind, 'model', why_not_built(reason))]


def why_not_built(error: BaseException) -> str:
    """The reason of a part, without the frames that mmengine's builder adds."""
    inner = error
    while inner.__context__ is not None and str(inner.__context__) in str(inner):
        inner = inner.__context__
    reason = ' '.join(str(inner).split()) or f'{type(inner).__name__} in its constructor'
    return f'it cannot be built as the config says: {reason}'


@contextmanager
def telling_what_is_wrong() -> Iterator[None]:
    """What a part has against its arguments, while a model is built within, is raised as the config's mistake."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f'model: {why_not_built(error)}') from error


# ------------------------------------------------------------------------------------------------ channels
def check_channels(model: nn.Module) -> None:
    """Hold the channels that neck or heads are built for against those that the backbone's maps have.

    Raises:
        UserError: they differ; torch would say so in the first convolution that notices, without a name.
    """
    raise_errors(channel_mistakes(model))


def channel_mistakes(model: nn.Module) -> Iterator[Finding]:
    """All that :func:`check_channels` raises, one by one."""
    maps = getattr(getattr(model, 'backbone', None), 'out_channels', None)
    if not isinstance(maps, Sequence):
        return
    source, neck = type(model.backbone).__name__, getattr(model, 'neck', None)
    several = isinstance(neck, nn.Sequential)
    for number, each in enumerate(neck if several else [neck] if neck is not None else []):
        expected = getattr(each, 'in_channels', None)
        if isinstance(expected, Sequence) and list(expected) != list(maps):
            message = f'in_channels={list(expected)}, but the maps of {source} have {list(maps)} channels; write these.'
            yield Finding('error', 'channel-mismatch', f'model.neck[{number}]' if several else 'model.neck', message)
        maps, count = getattr(each, 'out_channels', None), getattr(each, 'num_outs', None)
        if isinstance(maps, int) and isinstance(count, int):
            maps = [maps] * count
        if not isinstance(maps, Sequence):
            return
        source = type(each).__name__
    yield from _head_mistakes(model, maps, source)


def _head_mistakes(model: nn.Module, maps: Sequence[int], source: str) -> Iterator[Finding]:
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        several_heads = isinstance(heads, nn.ModuleList)
        for number, head in enumerate(heads if several_heads else [heads]):
            place = f'model.{name}[{number}]' if several_heads else f'model.{name}'
            expected, index = getattr(head, 'in_channels', None), getattr(head, 'in_index', None)
            several = isinstance(index, Sequence)
            # a head that concatenates its inputs counts their channels together
            if expected is None or index is None or (several and not isinstance(expected, Sequence)):
                continue
            indices, given = (list(index), list(expected)) if several else ([index], [expected])
            if max(indices) >= len(maps):
                part = 'neck' if getattr(model, 'neck', None) is not None else 'backbone'
                message = (
                    f'in_index={index}, but the {part} returns {len(maps)} maps; name those from 0 to {len(maps) - 1}.'
                )
                yield Finding('error', 'channel-mismatch', place, message)
                continue
            found = [maps[each] for each in indices]
            if given != found:
                message = (
                    f'in_channels={expected}, but the maps {indices} of {source} have {found} channels; write these.'
                )
                yield Finding('error', 'channel-mismatch', place, message)
    for name in ('rpn_head', 'bbox_head'):
        head = getattr(model, name, None)
        expected, levels = getattr(head, 'in_channels', None), getattr(head, 'prior_generator', None)
        if isinstance(expected, int) and expected != maps[0]:
            message = f'in_channels={expected}, but the maps of {source} have {maps[0]} channels; write {maps[0]}.'
            yield Finding('error', 'channel-mismatch', f'model.{name}', message)
        count = getattr(levels, 'num_levels', len(maps))
        if count != len(maps):
            message = (
                f'the anchors are for {count} levels (strides), but {source} gives {len(maps)} maps; give as many '
                'strides as neck.num_outs.'
            )
            yield Finding('error', 'level-mismatch', f'model.{name}', message)
    for place, extractor, head in _roi_parts(model):
        for part, expected in (('roi_extractor', extractor.out_channels), ('head', getattr(head, 'in_channels', None))):
            if isinstance(expected, int) and expected != maps[0]:
                key = 'out_channels' if part == 'roi_extractor' else 'in_channels'
                message = f'{key}={expected}, but the maps of {source} have {maps[0]} channels; write {maps[0]}.'
                yield Finding('error', 'channel-mismatch', place.format(part), message)


def _roi_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Extractor and head of each branch and stage; the place has a gap for ``roi_extractor`` or ``head``."""
    roi_head = getattr(model, 'roi_head', None)
    for kind in ('bbox', 'mask'):
        extractors = getattr(roi_head, f'{kind}_roi_extractor', None)
        heads = getattr(roi_head, f'{kind}_head', None)
        if extractors is None or heads is None:
            continue
        is_cascade = isinstance(heads, nn.ModuleList)
        heads = list(heads) if is_cascade else [heads]
        extractors = list(extractors) if isinstance(extractors, nn.ModuleList) else [extractors] * len(heads)
        for number, (extractor, head) in enumerate(zip(extractors, heads)):
            if hasattr(extractor, 'out_channels'):
                yield f'model.roi_head.{kind}_{{}}' + (f'[{number}]' if is_cascade else ''), extractor, head


# ------------------------------------------------------------------------------------------- a forward pass
class Pass(NamedTuple):
    """What a pass through the model in training mode tells.

    Attributes:
        findings: parts that cannot take what they are given; maps of another stride than a part states.
        saved: bytes of the tensors that the backward pass needs, for the batch, float32; None where it did not come
            to the end.
    """

    findings: list[Finding]
    saved: int | None


def training_pass(cfg: Config, model: nn.Module, batch: int, size: tuple[int, int]) -> Pass:
    """Run a model on the meta device as one training iteration does, and count what autograd keeps.

    Args:
        cfg: the config of the model.
        model: of :func:`build_on_meta`.
        batch: images of an iteration, of one process.
        size: height and width that the images have in training, in pixels.
    """
    if not hasattr(model, 'extract_feat'):
        return Pass([], None)
    saved = _Saved(model)
    try:
        with saved.counting():
            maps, kept = _forward(model, torch.zeros(batch, 3, *size, device='meta'))
    except Exception as error:  # the model's own mistake, or something that the meta device cannot do
        return Pass(_told_by_values(cfg, error, batch), None)
    del kept
    return Pass(list(_stride_mistakes(model, maps, size)), saved.bytes)


class _Saved:
    """Bytes that autograd keeps for the backward pass, each storage once, parameters left out."""

    def __init__(self, model: nn.Module) -> None:
        own = (*model.parameters(), *model.buffers())
        self._seen = {tensor.untyped_storage()._cdata for tensor in own}
        self.bytes = 0

    def counting(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor


def _forward(model: nn.Module, image: Tensor) -> tuple[Sequence[Tensor], list[Any]]:
    """Backbone, neck and heads on a batch; returns the maps, and all outputs, whose graphs hold what they saved."""
    model.train()
    maps = model.extract_feat(image)
    kept: list[Any] = [maps]
    for name in ('decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            if head is None or not _takes_maps(head):
                continue
            kept.append(head(maps))
            logits = kept[-1]
            if name in ('decode_head', 'auxiliary_head') and isinstance(logits, Tensor) and logits.ndim == 4:
                logits = F.interpolate(logits, image.shape[-2:], mode='bilinear', align_corners=False)
                truth = torch.zeros(logits.shape[0], *logits.shape[2:], dtype=torch.long, device=image.device)
                kept.append(F.cross_entropy(logits, truth, ignore_index=255))
    settings = getattr(model, 'train_cfg', None) or {}
    for place, extractor, head in _roi_parts(model):
        stages = settings.get('rcnn') or {}
        sampler = (stages[0] if isinstance(stages, list) else stages).get('sampler') or {}
        count = image.shape[0] * sampler.get('num', 512)
        if '.mask_' in place:
            count = round(count * sampler.get('pos_fraction', 0.25))
        side = extractor.roi_layers[0].output_size
        regions = torch.zeros(count, extractor.out_channels, *side, device=image.device, requires_grad=True)
        kept.append(head(regions))
    return maps, kept


def _takes_maps(head: nn.Module) -> bool:
    """Whether ``forward`` asks for the maps alone; that of a DETR or a MaskFormer asks for more."""
    needed = [
        each
        for each in inspect.signature(head.forward).parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 1


def _stride_mistakes(model: nn.Module, maps: Any, size: tuple[int, int]) -> Iterator[Finding]:
    """Anchors and regions that are laid out for maps of other strides: the detector would train, and find nothing."""
    if not isinstance(maps, Sequence) or not all(isinstance(each, Tensor) and each.ndim == 4 for each in maps):
        return
    # odd sizes are rounded up by some and down by others: to a power of two it is the same
    strides = [2 ** round(torch.tensor(size[1] / each.shape[-1]).log2().item()) for each in maps]
    claims: list[tuple[str, str, list[int]]] = []
    for name in ('rpn_head', 'bbox_head'):
        generator = getattr(getattr(model, name, None), 'prior_generator', None)
        given = getattr(generator, 'strides', None)
        if given is not None and len(given) == len(strides):
            sides = [each[0] if isinstance(each, tuple) else each for each in given]
            claims.append((f'model.{name}', 'strides', sides))
    for place, extractor, _ in _roi_parts(model):
        given = getattr(extractor, 'featmap_strides', None)
        if given is not None:
            claims.append((place.format('roi_extractor'), 'featmap_strides', list(given)))
    for place, key, given in claims:
        if given != strides[: len(given)]:
            message = (
                f'{key}={given}, but the maps have the strides {strides[: len(given)]}; write these, else boxes are '
                'looked for in the wrong places.'
            )
            yield Finding('error', 'stride-mismatch', place, message)


def _told_by_values(cfg: Config, meta_error: Exception, batch: int) -> list[Finding]:
    """The finding of a pass that failed on the meta device: whether it fails with values too, on small images."""
    scope = cfg.get('default_scope') or 'mmengine'
    at: list[str] = []
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            with DefaultScope.overwrite_default_scope(scope):
                model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
            with _innermost(model, at):
                _forward(model, torch.rand(min(batch, 2), 3, 96, 160))
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        where = '.'.join(['model', *([at[0]] if at and at[0] else [])])
        if isinstance(error, NotImplementedError) and 'mmcv' in reason:
            return [Finding('error', 'operator-missing', where, reason)]
        if 'more than 1 value per channel' in reason:
            message = (
                f'train_dataloader.batch_size={batch}: BatchNorm normalizes over a single value here ({reason}); use '
                "batch_size=2 or more, or norm_cfg=dict(type='GN', num_groups=32)."
            )
            return [Finding('error', 'batch-norm-of-one-image', where, message)]
        message = f'it cannot take what it is given: {reason}; compare the channels and sizes of the parts before it.'
        return [Finding('error', 'forward-fails', where, message)]
    return []


@contextmanager
def _innermost(model: nn.Module, at: list[str]) -> Iterator[None]:
    """Within it, ``at`` gets the name of the innermost module in which an exception was raised."""
    names = {module: name for name, module in model.named_modules()}
    running: list[nn.Module] = []

    def enter(module: nn.Module, args: tuple) -> None:
        running.append(module)

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        running.pop()

    handles = [module.register_forward_pre_hook(enter) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    try:
        yield
    except Exception:
        at.append(names[running[-1]] if running else '')
        raise
    finally:
        for handle in handles:
            handle.remove()
