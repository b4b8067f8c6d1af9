"""Tiny Swins of other packages, random and in double precision, and ours beside them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from densevit import ImageClassifier, SwinTransformer, SwinTransformerV2
from densevit.checkpoints import LoadReport
from tests.backbones.contract import fill

# One block in the last stage: of shifts on a map as high as a window, every package has its own opinion.
ARCH = dict(embed_dims=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4))
WINDOW, CLASSES = 2, 5
SIZE = (64, 128)  # windows fill every map, as most packages have it
CLS = {1: SwinTransformer, 2: SwinTransformerV2}
LABELS = {1: 'Swin', 2: 'Swin V2'}

# Tensors of the tiny backbone: stem 4; per block norms 4, feed-forward 4 and attention; three mergings of 3.
BLOCKS = sum(ARCH['depths'])
TRUNK = {1: 4 + BLOCKS * (8 + 5) + 9, 2: 4 + BLOCKS * (8 + 9) + 9}
OUTSIDE = 4  # norm and head of a classifier
NORMS = 8  # of a dense backbone's maps


def ours(version: int, kind: str, window_size: int = WINDOW) -> nn.Module:
    if kind == 'classifier':
        config = dict(type=f'densevit.{CLS[version].__name__}', arch=ARCH, window_size=window_size)
        return ImageClassifier(config, num_classes=CLASSES).double().eval()
    backbone = CLS[version](ARCH, window_size=window_size)
    return (backbone if kind == 'backbone' else Segmentor(backbone)).double().eval()


class Segmentor(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Conv2d(64, CLASSES, 1)


def timm_classifier(version: int) -> nn.Module:
    name = {1: 'swin_transformer', 2: 'swin_transformer_v2'}[version]
    timm = pytest.importorskip(f'timm.models.{name}')
    return getattr(timm, CLS[version].__name__)(
        img_size=SIZE, window_size=WINDOW, num_classes=CLASSES, embed_dim=8, depths=ARCH['depths'],
        num_heads=ARCH['num_heads'],
    )  # fmt: skip


def torchvision_classifier(version: int) -> nn.Module:
    torchvision = pytest.importorskip('torchvision.models.swin_transformer')
    parts = {} if version == 1 else dict(
        block=torchvision.SwinTransformerBlockV2, downsample_layer=torchvision.PatchMergingV2
    )  # fmt: skip
    return torchvision.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=list(ARCH['depths']), num_heads=list(ARCH['num_heads']),
        window_size=[WINDOW, WINDOW], num_classes=CLASSES, **parts,
    )  # fmt: skip


def transformers_model(version: int, kind: str, size: tuple[int, int] = SIZE) -> nn.Module:
    transformers = pytest.importorskip('transformers')
    name = {1: 'Swin', 2: 'Swinv2'}[version]
    config = getattr(transformers, f'{name}Config')(
        image_size=size, embed_dim=8, depths=list(ARCH['depths']), num_heads=list(ARCH['num_heads']),
        window_size=WINDOW, num_labels=CLASSES, out_indices=[1, 2, 3, 4],
    )  # fmt: skip
    return getattr(transformers, name + kind)(config)


def mm_backbone(package: str) -> nn.Module:
    swin = pytest.importorskip(f'{package}.models.backbones.swin')
    return swin.SwinTransformer(
        embed_dims=8, depths=ARCH['depths'], num_heads=ARCH['num_heads'], window_size=WINDOW
    )  # fmt: skip


def prepared(peer: nn.Module) -> nn.Module:
    peer = fill(peer).double()
    peer.eval()  # returns nothing in mmdetection
    return peer


def saved(peer: nn.Module, folder: Path) -> Path:
    """A file as the package's users have it."""
    if hasattr(peer, 'save_pretrained'):
        peer.save_pretrained(folder)
        return folder / 'model.safetensors'
    torch.save(peer.state_dict(), folder / 'weights.pth')
    return folder / 'weights.pth'


def logits(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return getattr(out, 'logits', out)


def counts(report: LoadReport) -> dict[str, object]:
    """The report in numbers, the skipped tensors by kind."""
    kinds = Counter(
        'derived' if re.search(r'relative_position_index|relative_coords_table|attn_mask', name) else 'classifier'
        for name in report.skipped
    )
    return dict(
        origin=report.origin, loaded=len(report.loaded), kept=len(report.kept), resized=len(report.resized), **kinds
    )
