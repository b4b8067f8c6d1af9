"""The demo's models, smaller, with random weights that give something to see."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from densevit.config.reading import load_config

SEGMENT, DETECT = 'upernet_patchconvnet-tiny_scenes', 'mask_rcnn_patchconvnet-tiny_scenes'


def config(name: str, **more: object) -> Config:
    """A shipped config with one block in the backbone."""
    own = {'model.decode_head.channels': 16} if name == SEGMENT else {}
    return load_config(name, {'model.backbone.arch.depth': 1, **own, **more})


def checkpoint(cfg: Config, path: Path, **meta: object) -> str:
    """Random weights whose classes and boxes differ from place to place."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    for parameter in model.backbone.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    if cfg.default_scope == 'mmseg':
        torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=3)
    else:
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=1)
        torch.nn.init.normal_(model.roi_head.mask_head.conv_logits.weight, std=3)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)
