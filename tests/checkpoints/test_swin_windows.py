"""Swin's weights in other windows: the tables of version 1 are resized, the coordinates of version 2 are checked."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor

from densevit import ImageClassifier, SwinTransformer, SwinTransformerV2
from densevit.checkpoints import CheckpointError, load_weights
from densevit.checkpoints.origins import ORIGINS
from tests.backbones.contract import fill
from tests.checkpoints.swin_peers import (
    ARCH,
    BLOCKS,
    NORMS,
    OUTSIDE,
    TRUNK,
    counts,
    ours,
    prepared,
    torchvision_classifier,
)
from tests.checkpoints.test_swin import config_of

TABLE, COORDINATES = 'relative_position_bias_table', 'relative_coords_table'


# ------------------------------------------------------------------------------------------------ version 1
def exported(key: str, window_size: int) -> dict[str, Tensor]:
    """A classifier for this window by another origin's names."""
    (origin,) = (origin for origin in ORIGINS if origin.label == f'Swin, {key}')
    return origin.export(fill(ours(1, 'classifier', window_size)).state_dict())


def tables(model: SwinTransformer) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(TABLE)}
    assert len(found) == BLOCKS
    return found


@pytest.mark.parametrize(('before', 'after'), [(4, 7), (7, 12), (12, 7), (7, 4), (3, 2)])
@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_tables_are_resized_as_mm_does(tmp_path, package, before, after):
    """The loaders of both packages resize as the official code does, bit by bit."""
    swin = pytest.importorskip(f'{package}.models.backbones.swin')
    from mmengine.config import ConfigDict

    torch.save(exported('mm', before), tmp_path / 'weights.pth')
    model = ours(1, 'backbone', after)
    report = load_weights(model, tmp_path / 'weights.pth')
    assert counts(report) == dict(origin='Swin, mm', loaded=TRUNK[1], kept=NORMS, resized=BLOCKS)
    assert set(report.resized) == set(tables(model))
    peer = swin.SwinTransformer(
        embed_dims=8, depths=ARCH['depths'], num_heads=ARCH['num_heads'], window_size=after,
        init_cfg=ConfigDict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth')),
    ).double()  # fmt: skip
    peer.init_weights()
    theirs = peer.state_dict()
    for name, table in tables(model).items():
        assert torch.equal(table, theirs[re.sub(r'^layers(.+)attn\.', r'stages\1attn.w_msa.', name)]), name


@pytest.mark.filterwarnings('ignore::UserWarning')  # of timm's interpolation
def test_timm_resizes_in_several_ways_of_which_one_is_the_official():
    """Its loader takes another: points closer together in the middle, which moves values by half of their spread."""
    timm = pytest.importorskip('timm.layers.pos_embed_rel')
    given, model = exported('timm', 7), ours(1, 'backbone', 12)
    report = load_weights(model, given)
    assert counts(report) == dict(origin='Swin, timm', loaded=TRUNK[1], kept=NORMS, resized=BLOCKS, classifier=OUTSIDE)
    for name, table in tables(model).items():
        assert torch.equal(timm.resize_rel_pos_bias_table_simple(given[name], (12, 12), table.shape), table), name
        other = timm.resize_rel_pos_bias_table(given[name], (12, 12), table.shape)
        assert (other - table).abs().max() > 0.5 * table.std(), name


def test_a_classifier_and_a_segmentor_resize_too():
    for kind, expected in (
        ('classifier', dict(loaded=TRUNK[1] + OUTSIDE, kept=0)),
        ('segmentor', dict(loaded=TRUNK[1], kept=NORMS + 2, classifier=OUTSIDE)),
    ):
        model, alone = ours(1, kind, 5), ours(1, 'backbone', 5)
        report = load_weights(model, exported('official', 7))
        assert counts(report) == dict(origin='Swin, official', resized=BLOCKS, **expected)
        assert all(name.startswith('backbone.') for name in report.resized)
        load_weights(alone, exported('official', 7))
        assert all(torch.equal(model.backbone.get_parameter(name), table) for name, table in tables(alone).items())


def test_a_table_for_other_heads_is_refused():
    tensors = exported('official', 7)
    name = f'layers.1.blocks.0.attn.{TABLE}'
    for spoilt in (torch.zeros(13**2, 3), torch.zeros(13**2 + 1, 2)):
        with pytest.raises(CheckpointError, match=rf'1 of another shape .*{name} \({len(spoilt)}, '):
            load_weights(ours(1, 'backbone', 12), {**tensors, name: spoilt})


# ------------------------------------------------------------------------------------------------ version 2
def coordinates(shapes: dict[str, list[int]], pretrained: tuple[int, ...]) -> dict[str, Tensor]:
    """The tables of coordinates of a published file, made by timm."""
    timm = pytest.importorskip('timm.layers.pos_embed_rel')
    made = {}
    for name, shape in shapes.items():
        if name.endswith(COORDINATES):
            side, measured_in = (shape[1] + 1) // 2, pretrained[int(name.split('.')[1])]
            table = timm.gen_relative_log_coords((side, side), (measured_in, measured_in), mode='swin')[None]
            assert list(table.shape) == shape
            made[name] = table
    return made


# The windows of the published files, stage by stage, in which their position networks measure distances.
MEASURED_IN = {
    'window8_256': (8, 8, 8, 8),
    'window16_256': (16, 16, 16, 8),
    'window12_192_22k': (12, 12, 12, 6),
    'window12to16_192to256_22kto1k_ft': (12, 12, 12, 6),
    'window12to24_192to384_22kto1k_ft': (12, 12, 12, 6),
}


def test_every_published_file_tells_its_windows(shared_facts):
    paths = sorted(shared_facts.glob('manifests/swinv2_*.json'))
    assert len(paths) == 12
    for path in paths:
        shapes = json.loads(path.read_text())
        config = config_of(path.stem)
        arch, side, pretrained = config['arch'], config['window_size'], config['pretrained_window_sizes']
        expected = MEASURED_IN[path.stem.partition('_patch4_')[2]]
        with torch.device('meta'):
            tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
        tensors |= coordinates(shapes, pretrained)

        def load(pretrained: tuple[int, ...], side: int = side, classifier: bool = False, **options) -> None:
            options |= dict(arch=arch, window_size=side, pretrained_window_sizes=pretrained)  # noqa: B023
            with torch.device('meta'):
                if classifier:
                    head = shapes['head.weight'][0]  # noqa: B023
                    model = ImageClassifier(dict(type='densevit.SwinTransformerV2', **options), num_classes=head)
                else:
                    model = SwinTransformerV2(**options)
            load_weights(model, tensors)  # noqa: B023

        load(pretrained, classifier=True)  # as it was trained
        load(expected)
        load(expected, side=2 * side)
        load((*expected[:2], 0, 0), out_indices=(0, 1))  # what is not built does not count
        refusals = [dict(pretrained=(0, 0, 0, 0), side=2 * side), dict(pretrained=(7, 7, 7, 7))]
        refusals += [{**refusal, 'classifier': True} for refusal in refusals]
        if expected != (side,) * 4:
            refusals.append(dict(pretrained=(0, 0, 0, 0)))
        for refusal in refusals:
            with pytest.raises(CheckpointError, match=re.escape(f'pretrained_window_sizes={expected}.')) as caught:
                load(**refusal)
            assert f'of window_size={side}, measures distances in windows of {expected}' in str(caught.value)


def test_the_refusal_is_one_sentence_and_changes_nothing():
    tensors = prepared(torchvision_classifier(2)).state_dict()
    model = fill(SwinTransformerV2(ARCH, window_size=4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tensors)
    assert str(caught.value) == (
        'the checkpoint, of window_size=2, measures distances in windows of (2, 2, 2, 2) tokens, stage by stage, and '
        'this SwinTransformerV2 in windows of (4, 4, 4, 4); give it pretrained_window_sizes=(2, 2, 2, 2).'
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    told = SwinTransformerV2(ARCH, window_size=4, pretrained_window_sizes=(2, 2, 2, 2))
    assert counts(load_weights(told, tensors)) == dict(
        origin='Swin V2, torchvision', loaded=TRUNK[2], kept=NORMS, resized=0, classifier=OUTSIDE, derived=2 * BLOCKS
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_windows_are_read_from_tables_of_any_precision(dtype):
    timm = pytest.importorskip('timm.layers.pos_embed_rel')
    for side, measured_in in ((16, 12), (24, 12), (8, 6), (12, 6), (24, 16), (8, 8), (2, 2), (16, 8)):
        table = timm.gen_relative_log_coords((side, side), (measured_in, measured_in), mode='swin')[None].to(dtype)
        fits = SwinTransformerV2(ARCH, window_size=side, pretrained_window_sizes=(measured_in, 0, 0, 0))
        fits.check_derived({f'layers.0.blocks.0.attn.{COORDINATES}': table})
        other = SwinTransformerV2(ARCH, window_size=side, pretrained_window_sizes=(measured_in + 1, 0, 0, 0))
        with pytest.raises(CheckpointError, match=rf'in windows of \({measured_in},\)'):
            other.check_derived({f'layers.0.blocks.0.attn.{COORDINATES}': table})


def test_files_without_coordinates_are_not_asked():
    """Those of timm and transformers: nothing in them tells the windows."""
    (origin,) = (origin for origin in ORIGINS if origin.label == 'Swin V2, timm')
    tensors = origin.export(fill(ours(2, 'classifier', 2)).state_dict())
    for window_size in (2, 4):
        assert load_weights(ours(2, 'backbone', window_size), tensors).resized == ()
