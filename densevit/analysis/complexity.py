"""How large a model is and how much it computes, by part: parameters and multiply-adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ['Complexity', 'complexity']

# What a two-stage detector is counted with: its own limits at test time.
PROPOSALS, DETECTIONS = 1000, 100


class Complexity(NamedTuple):
    """Of a model or a part of it: parameters, and multiply-adds for one image."""

    params: int
    macs: int


def complexity(model: nn.Module, size: tuple[int, int], *, in_channels: int = 3) -> dict[str, Complexity]:
    """Parameters and multiply-adds of a model and of its parts.

    Counted by torch's ``FlopCounterMode``: every matrix product and convolution, those of attention included, and
    nothing that is done element by element. On the meta device nothing is computed, so a large model costs no more
    than a small one.

    A two-stage detector is counted with 1000 proposals and 100 detections with a mask each; cutting the regions out
    of the maps (RoIAlign) is not counted. An auxiliary head works in training only: it has parameters and 0
    multiply-adds.

    Args:
        model: a backbone, an :class:`densevit.ImageClassifier`, or a segmentor or detector of mmsegmentation or
            mmdetection; best built under ``torch.device('meta')``. It is left as it was.
        size: height and width of the image, in pixels.
        in_channels: channels of the image.

    Returns:
        By name: the parts of a segmentor or detector that have parameters, and ``'total'``.
    """
    first = next(model.parameters())
    image = torch.empty(1, in_channels, *size, device=first.device, dtype=first.dtype)
    modes = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    macs: Counter[str] = Counter()

    def run(name: str, module: nn.Module, inputs: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = module(inputs)
        macs[name] += counter.get_total_flops() // 2
        return result

    try:
        # the counter asks what requires gradients for its graph, which a class token repeated under no_grad lacks
        model.requires_grad_(False)
        with torch.no_grad():
            _test_pass(model.eval(), image, run)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)

    parts = {name: Complexity(_params(part), macs[name]) for name, part in model.named_children() if _params(part)}
    total = Complexity(_params(model), macs.total())
    return {**parts, 'total': total} if hasattr(model, 'extract_feat') else {'total': total}


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _test_pass(model: nn.Module, image: Tensor, run: Callable[[str, nn.Module, Any], Any]) -> None:
    """All that computes at test time, each part through ``run``."""
    if not hasattr(model, 'extract_feat'):
        run('model', model, image)
        return
    maps = run('backbone', model.backbone, image)
    if model.with_neck:
        maps = run('neck', model.neck, maps)
    for name in ('decode_head', 'rpn_head', 'bbox_head'):
        if getattr(model, name, None) is not None:
            run(name, getattr(model, name), maps)
    if getattr(model, 'roi_head', None) is None:
        return
    # a cascade has a list of each
    for kind, count in (('bbox', PROPOSALS), ('mask', DETECTIONS)):
        if not getattr(model.roi_head, f'with_{kind}'):
            continue
        extractors, heads = getattr(model.roi_head, f'{kind}_roi_extractor'), getattr(model.roi_head, f'{kind}_head')
        heads = heads if isinstance(heads, nn.ModuleList) else [heads]
        extractors = extractors if isinstance(extractors, nn.ModuleList) else [extractors] * len(heads)
        for extractor, head in zip(extractors, heads, strict=True):
            side = extractor.roi_layers[0].output_size
            run('roi_head', head, image.new_empty(count, extractor.out_channels, *side))
