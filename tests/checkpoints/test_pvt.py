"""PVT and PVT v2 from wherever they come are recognised, told apart, and reach the model whole, with equal outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit import ImageClassifier, PyramidVisionTransformer, PyramidVisionTransformerV2
from densevit.checkpoints import CheckpointError, export_weights, load_weights
from densevit.checkpoints.origins import ORIGINS
from densevit.checkpoints.pvt import from_official, is_official_v1, is_official_v2
from densevit.layers import to_nchw
from tests.backbones.contract import fill, images

ARCH = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
CLASSES = {'v1': PyramidVisionTransformer, 'v2': PyramidVisionTransformerV2}
OUTSIDE = {
    'v1': {'pool.cls_token', 'pool.norm.weight', 'pool.norm.bias', 'head.weight', 'head.bias'},
    'v2': {'head.weight', 'head.bias'},
}


class Segmentor(nn.Module):
    def __init__(self, version: str, **options) -> None:
        super().__init__()
        self.backbone = CLASSES[version](ARCH, **options)
        self.decode_head = nn.Conv2d(32, 4, 1)


def classifier(version: str) -> ImageClassifier:
    return fill(ImageClassifier(CLASSES[version](ARCH), num_classes=5))


def official(model: ImageClassifier) -> dict[str, Tensor]:
    """The model's tensors by their official names: all in one namespace."""
    return {name.removeprefix('backbone.').removeprefix('pool.'): t for name, t in model.state_dict().items()}


def holds(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return bool(tensors) and all(torch.equal(own[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize('version', CLASSES)
@pytest.mark.parametrize('container', [None, 'model', 'state_dict'])
def test_official_files(tmp_path, version, container):
    source, model = classifier(version), ImageClassifier(CLASSES[version](ARCH), num_classes=5)
    tensors = official(source)
    assert not any('backbone' in name or 'pool' in name for name in tensors)
    torch.save({container: tensors} if container else tensors, tmp_path / 'weights.pth')
    report = load_weights(model, tmp_path / 'weights.pth')
    assert report.origin == ('PVT, official' if version == 'v1' else 'PVT v2, official')
    assert set(report.loaded) == set(model.state_dict())
    assert report.skipped == report.kept == ()
    assert holds(model, source.state_dict())


@pytest.mark.parametrize('version', CLASSES)
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 2)])
def test_backbones_and_segmentors_take_their_part(version, out_indices):
    source = classifier(version)
    tensors = official(source)
    for model, prefix in (
        (CLASSES[version](ARCH, out_indices=out_indices), ''),
        (Segmentor(version, out_indices=out_indices), 'backbone.'),
    ):
        report = load_weights(model, tensors)
        trunk = {name for name in model.state_dict() if not name.startswith('decode_head.')}
        assert set(report.loaded) == trunk
        left = {name.removeprefix('backbone.') for name in report.skipped} - OUTSIDE[version]
        assert all(int(name.partition('.')[0][-1]) == 4 for name in left)
        assert bool(left) == (out_indices == (1, 2))
        assert holds(model, {name: source.backbone.state_dict()[name.removeprefix(prefix)] for name in trunk})


@pytest.mark.parametrize('version', CLASSES)
def test_own_files_of_a_backbone_count_as_ours(version):
    """The names are the official ones; without head and class token nothing tells them apart, and nothing needs to."""
    source = fill(CLASSES[version](ARCH))
    for model in (CLASSES[version](ARCH), Segmentor(version)):
        report = load_weights(model, source.state_dict())
        assert report.origin == 'densevit'
        assert not report.skipped
        assert holds(getattr(model, 'backbone', model), source.state_dict())
    model = classifier(version)
    assert not is_official_v1(model.state_dict())
    assert not is_official_v2(model.state_dict())


def test_a_few_names():
    renamed = {
        'cls_token': 'pool.cls_token',
        'norm.bias': 'pool.norm.bias',
        'norm4.bias': 'backbone.norm4.bias',
        'pos_embed4': 'backbone.pos_embed4',
        'patch_embed1.proj.weight': 'backbone.patch_embed1.proj.weight',
        'block3.17.attn.kv.weight': 'backbone.block3.17.attn.kv.weight',
        'block4.2.mlp.dwconv.dwconv.bias': 'backbone.block4.2.mlp.dwconv.dwconv.bias',
        'head.weight': 'head.weight',
        'patch_embed.proj.weight': 'patch_embed.proj.weight',
        'something.else': 'something.else',
    }
    found = from_official({name: torch.empty(0) for name in renamed})
    assert list(found) == list(renamed.values())


def test_no_other_family_is_taken_for_pvt(shared_facts):
    labels = {}
    for file in (shared_facts / 'manifests').glob('[!_]*.json'):
        names = {name: torch.empty(0) for name in json.loads(file.read_text())}
        labels[file.stem] = [origin.label for origin in ORIGINS if origin.recognises(names)]
    assert len(labels) > 40
    for name, found in labels.items():
        family = {'pvt': 'PVT, official', 'pvtv2': 'PVT v2, official'}.get(name.partition('_')[0])
        if family:
            assert found == [family], name
        else:
            assert not any('PVT' in label for label in found), name


@pytest.mark.parametrize(('version', 'other'), [('v1', 'v2'), ('v2', 'v1')])
def test_the_other_version_does_not_fit(version, other):
    model = CLASSES[version](ARCH)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='has weights of PVT'):
        load_weights(model, official(classifier(other)))
    assert holds(model, before)


# ------------------------------------------------------------------------------ mmdetection, timm, transformers
SIDE = 64  # of the images that the position tables of v1 are made for
LINEAR = dict(ARCH, linear=True)
TRANSFORMERS = dict(
    depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], mlp_ratios=[2] * 4, num_labels=5,
    layer_norm_eps=1e-6,
)  # fmt: skip


def with_official_eps(peer: nn.Module) -> nn.Module:
    """mmdetection and transformers have eps 1e-6 everywhere; the official code leaves 1e-5 in two kinds of norms."""
    for name, norm in peer.named_modules():
        if re.search(
            r'layers\.\d\.0\.norm$|attn\.norm$|embedding(s\.\d)?\.layer_norm$|attention(\.self)?\.layer_norm$', name
        ):
            norm.eps = 1e-5
    return peer


def mmdet(version: str) -> nn.Module:
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    cls = pvt.PyramidVisionTransformer if version == 'v1' else pvt.PyramidVisionTransformerV2
    arch = dict(embed_dims=8, num_layers=(1,) * 4, num_heads=(1, 2, 3, 4), mlp_ratios=(2,) * 4)
    return cls(**arch, **(dict(pretrain_img_size=SIDE) if version == 'v1' else {}))


def timm(linear: bool = False) -> nn.Module:
    pvt_v2 = pytest.importorskip('timm.models.pvt_v2')
    return pvt_v2.PyramidVisionTransformerV2(**ARCH, linear=linear, num_classes=5)


def timm_features() -> nn.Module:
    timm_package = pytest.importorskip('timm')
    return timm_package.create_model('pvt_v2_b0', features_only=True, **ARCH)


def transformers(version: str, linear: bool = False, kind: str = 'ForImageClassification') -> nn.Module:
    package = pytest.importorskip('transformers')
    if version == 'v1':
        return getattr(package, f'Pvt{kind}')(package.PvtConfig(image_size=SIDE, **TRANSFORMERS))
    return getattr(package, f'PvtV2{kind}')(package.PvtV2Config(linear_attention=linear, **TRANSFORMERS))


def timm_maps(peer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x, maps = peer.patch_embed(x), []
    for stage in peer.stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)


def ready(peer: nn.Module) -> nn.Module:
    return with_official_eps(fill(peer)).double().eval()


def ours(version: str, kind: str, arch: Mapping = ARCH, **options) -> nn.Module:
    if version == 'v1':
        options = dict(img_size=SIDE) | options
    backbone = CLASSES[version](arch, **options)
    model = {'backbone': lambda: backbone, 'classifier': lambda: ImageClassifier(backbone, num_classes=5)}
    return model[kind]().double().eval()


# version, linear, peer, its logits, its maps, and what the report says
LOGITS = {
    'timm': ('v2', False, timm, lambda peer, x: peer(x), 'PVT v2, timm: loaded 102 of 102 tensors'),
    'timm linear': ('v2', True, lambda: timm(True), lambda peer, x: peer(x), 'PVT v2, timm: loaded 106 of 106 tensors'),
    'transformers v1': (
        'v1', False, lambda: transformers('v1'), lambda peer, x: peer(x).logits,
        'PVT, transformers: loaded 93 of 93 tensors',
    ),
    'transformers v2': (
        'v2', False, lambda: transformers('v2'), lambda peer, x: peer(x).logits,
        'PVT v2, transformers: loaded 102 of 102 tensors',
    ),
    'transformers v2 linear': (
        'v2', True, lambda: transformers('v2', True), lambda peer, x: peer(x).logits,
        'PVT v2, transformers: loaded 106 of 106 tensors',
    ),
}  # fmt: skip


@pytest.mark.parametrize('origin', LOGITS)
def test_classifiers_of_peers(origin):
    version, linear, build, logits_of, expected = LOGITS[origin]
    peer = ready(build())
    model = ours(version, 'classifier', LINEAR if linear else ARCH)
    report = load_weights(model, peer.state_dict())
    assert str(report) == expected
    build().double().load_state_dict(export_weights(model, report.origin.partition(', ')[2]))  # all, and no more
    # transformers interpolates a table of v1 as if it were as large as the map
    for size in ((SIDE, SIDE),) if origin == 'transformers v1' else ((64, 96), (67, 53)):
        x = images(2, 3, *size).double()
        with torch.no_grad():
            torch.testing.assert_close(model(x), logits_of(peer, x), rtol=1e-9, atol=1e-11)


def transformers_maps_v1(peer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Those before the class token."""
    states = getattr(peer, 'pvt', peer)(x, output_hidden_states=True).hidden_states
    return tuple(to_nchw(s.unflatten(1, (SIDE // r, SIDE // r))) for s, r in zip(states, (4, 8, 16)))


def transformers_maps_v2(peer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return getattr(peer, 'pvt_v2', peer)(x, output_hidden_states=True).hidden_states


HEAD_V1 = ', skipped 5 (pool.* 3, head.* 2)'
HEAD_V2 = ', skipped 2 (head.weight, head.bias)'
MAPS = {
    'mmdet v1': ('v1', lambda: mmdet('v1'), lambda peer, x: tuple(peer(x)),
                 'PVT, mm: loaded 88 of 88 tensors, completed 1 with zeros (pos_embed4)'),
    'mmdet v2': ('v2', lambda: mmdet('v2'), lambda peer, x: tuple(peer(x)), 'PVT v2, mm: loaded 100 of 100 tensors'),
    'timm': ('v2', timm, timm_maps, f'PVT v2, timm: loaded 100 of 100 tensors{HEAD_V2}'),
    'timm alone': ('v2', timm_features, lambda peer, x: tuple(peer(x)), 'PVT v2, timm: loaded 100 of 100 tensors'),
    'transformers v1': ('v1', lambda: transformers('v1'), transformers_maps_v1,
                        f'PVT, transformers: loaded 88 of 88 tensors{HEAD_V1}'),
    'transformers v1 alone': ('v1', lambda: transformers('v1', kind='Model'), transformers_maps_v1,
                              'PVT, transformers: loaded 88 of 88 tensors, skipped 3 (pool.cls_token, '
                              'pool.norm.weight, pool.norm.bias)'),
    'transformers v2': ('v2', lambda: transformers('v2'), transformers_maps_v2,
                        f'PVT v2, transformers: loaded 100 of 100 tensors{HEAD_V2}'),
    'transformers v2 alone': ('v2', lambda: transformers('v2', kind='Model'), transformers_maps_v2,
                              'PVT v2, transformers: loaded 100 of 100 tensors'),
}  # fmt: skip


@pytest.mark.parametrize('whole', [False, True], ids=['flat', 'below backbone'])
@pytest.mark.parametrize('origin', MAPS)
def test_backbones_of_peers(origin, whole):
    version, build, maps_of, expected = MAPS[origin]
    peer = ready(build())
    tensors = peer.state_dict()
    if whole:  # as in a segmentor of theirs; a classifier's head below `backbone.` is none
        tensors = {f'backbone.{name}': t for name, t in tensors.items() if not re.match('head|classifier', name)}
        tensors |= {'decode_head.weight': torch.ones(4, 32, 1, 1), 'decode_head.bias': torch.ones(4)}
    model = ours(version, 'backbone')
    report = load_weights(model, {'state_dict': tensors, 'meta': {}})
    if not whole:
        assert str(report) == expected
    else:
        assert {'decode_head.weight', 'decode_head.bias'} <= set(report.skipped)
        assert bool(report.note) == origin.startswith('mmdet')
        model.set_embed_norm_eps(1e-5)  # that of the peer, which is mended
        assert set(report.loaded) == set(model.state_dict())
    for size in ((SIDE, SIDE),) if version == 'v1' and 'transformers' in origin else ((64, 96), (67, 53)):
        x = images(2, 3, *size).double()
        with torch.no_grad():
            expected_maps = maps_of(peer, x)
            torch.testing.assert_close(model(x)[: len(expected_maps)], expected_maps, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('version', CLASSES)
def test_a_whole_segmentor_of_mm(version):
    peer = ready(mmdet(version))
    tensors = {f'backbone.{name}': tensor for name, tensor in peer.state_dict().items()}
    tensors |= {'decode_head.weight': torch.ones(4, 32, 1, 1), 'decode_head.bias': torch.ones(4)}
    options = dict(img_size=SIDE) if version == 'v1' else {}
    model = Segmentor(version, **options)
    report = load_weights(model, tensors)
    assert set(report.loaded) == set(model.state_dict())
    assert report.skipped == report.kept == ()
    assert report.completed == (('backbone.pos_embed4',) if version == 'v1' else ())
    with pytest.raises(CheckpointError, match=r'1 missing \(decode_head.bias\)'):
        load_weights(model, {name: tensor for name, tensor in tensors.items() if name != 'decode_head.bias'})


@pytest.mark.parametrize('version', CLASSES)
def test_mmdetection_converts_official_files_to_the_same(version):
    pvt = pytest.importorskip('mmdet.models.backbones.pvt')
    names = official(classifier(version))
    expected, found = pvt.pvt_convert(names), export_weights(names, 'mm')
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_mm_has_no_position_of_the_class_token():
    """Zeros take its place, and no map depends on them; a classifier cannot be made of it."""
    peer = ready(mmdet('v1'))
    model = fill(ours('v1', 'backbone'))
    report = load_weights(model, peer.state_dict())
    assert report.completed == ('pos_embed4',)
    assert not model.pos_embed4[:, 0].any()
    assert torch.equal(model.pos_embed4[:, 1:], peer.state_dict()['layers.3.1.0.pos_embed'])
    with pytest.raises(CheckpointError, match=r'5 missing \(pool.cls_token, .*head.bias\)'):
        load_weights(ours('v1', 'classifier'), peer.state_dict())


def test_the_class_tokens_entry_of_official_files_stays_unused():
    source = classifier('v1')
    dense = CLASSES['v1'](ARCH)
    load_weights(dense, official(source))
    assert torch.equal(dense.pos_embed4, source.backbone.pos_embed4)
    assert dense.pos_embed4[:, 0].any()
    again = ImageClassifier(CLASSES['v1'](ARCH), num_classes=5)
    load_weights(again, official(source))
    assert torch.equal(again.backbone.class_position, source.backbone.class_position)


@pytest.mark.parametrize('version', CLASSES)
def test_transformers_has_another_eps(version):
    peer = fill(transformers(version)).double().eval()
    assert {norm.eps for norm in peer.modules() if isinstance(norm, nn.LayerNorm)} == {1e-6}
    model = ours(version, 'classifier')
    with torch.no_grad():
        first = next(p for name, p in peer.named_parameters() if re.search(r'(projection|proj)\.weight', name))
        first *= 1e-3  # tokens of little variance show it
        next(p for name, p in peer.named_parameters() if re.search(r'(projection|proj)\.bias', name)).zero_()
        load_weights(model, peer.state_dict())
        x = images(1, 3, SIDE, SIDE).double()
        logits = peer(x).logits
        assert (model(x) - logits).abs().max() > 1e-2 * logits.abs().max()
        torch.testing.assert_close(model(x), with_official_eps(peer)(x).logits, rtol=1e-9, atol=1e-11)


def test_segformers_encoder_is_a_pvt_v2():
    """mmsegmentation's MixVisionTransformer has the names of mmdetection's PVT v2, and computes the same."""
    mit = pytest.importorskip('mmseg.models.backbones.mit')
    peer = mit.MixVisionTransformer(embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 3, 4], mlp_ratio=2)
    peer = with_official_eps(fill(peer)).double().eval()
    model = ours('v2', 'backbone')
    assert load_weights(model, peer.state_dict()).origin == 'PVT v2, mm'
    x = images(2, 3, 67, 53).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), tuple(peer(x)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('origin', ['timm', 'mmdet v1', 'mmdet v2', 'transformers v1', 'transformers v2'])
def test_what_a_peer_has_not_is_refused(origin):
    """A tensor that lacks, and one that nobody knows."""
    version, build, _, _ = MAPS[origin]
    tensors = build().state_dict()
    model = ours(version, 'backbone')
    for name in list(tensors):
        if re.search(r'in_proj_bias|key\.bias|attn\.q\.bias|norm2\.weight', name):
            with pytest.raises(CheckpointError, match='missing'):
                load_weights(model, {n: t for n, t in tensors.items() if n != name})
    block = next(name for name in tensors if re.search(r'(norm|layer_norm_)2\.weight', name))
    with pytest.raises(CheckpointError, match='1 unexpected .*extra'):
        load_weights(model, tensors | {re.sub(r'(norm|layer_norm_)2\.weight', 'extra', block): torch.zeros(1)})


# ------------------------------------------------------------------------------------- position tables of another size
@pytest.mark.parametrize('naming', ['official', 'mm'])
@pytest.mark.parametrize('size', [(64, 96), (96, 64), (128, 128), (67, 53), (33, 128), (32, 32)], ids=str)
def test_tables_are_resized_as_at_run_time(size, naming):
    """A model for images of another size has the maps that mmdetection interpolates while it runs."""
    peer = ready(mmdet('v1'))
    at_run_time = ours('v1', 'backbone')
    load_weights(at_run_time, peer.state_dict())
    tensors = peer.state_dict() if naming == 'mm' else at_run_time.state_dict() | {'cls_token': torch.zeros(1, 1, 32)}
    model = ours('v1', 'backbone', img_size=size)
    report = load_weights(model, tensors)
    assert report.resized == ('pos_embed1', 'pos_embed2', 'pos_embed3', 'pos_embed4')
    assert set(report.resized) < set(report.loaded) == set(model.state_dict())
    assert 'resized 4 (pos_embed1, pos_embed2, pos_embed3, pos_embed4)' in str(report)
    x = images(2, 3, *size).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), tuple(peer(x)), rtol=1e-9, atol=1e-11)
    # by hand: stage 1 has 16 x 16 entries, stage 4 has 2 x 2 and the class token's, which stays
    for stage, side, slots in ((1, 16, 0), (4, 2, 1)):
        before, after = (getattr(m, f'pos_embed{stage}').detach() for m in (at_run_time, model))
        grid = to_nchw(before[:, slots:].unflatten(1, (side, side)))
        expected = F.interpolate(grid, size=model.grids[stage - 1], mode='bilinear', align_corners=False)
        torch.testing.assert_close(after[:, slots:], expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
        assert torch.equal(after[:, :slots], before[:, :slots])


@pytest.mark.parametrize('size', [(64, 96), (128, 96)], ids=str)
def test_a_classifier_for_another_size(size):
    source = fill(ours('v1', 'classifier')).double()
    model = ours('v1', 'classifier', img_size=size)
    report = load_weights(model, official(source))
    assert report.resized == tuple(f'backbone.pos_embed{stage}' for stage in (1, 2, 3, 4))
    x = images(2, 3, *size).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('size', [(64, 96), (33, 128)], ids=str)
def test_own_tables_of_the_same_size_are_taken_as_they_are(size):
    """Those of 33 x 128 pixels too, though 8 x 32 entries could be 16 x 16."""
    source, model = fill(ours('v1', 'backbone', img_size=size)), ours('v1', 'backbone', img_size=size)
    assert load_weights(model, source.state_dict()).resized == ()
    assert holds(model, source.state_dict())


def test_tables_that_cannot_be_resized():
    """No square, another width, no table: nothing is guessed."""
    model = ours('v1', 'backbone', img_size=(128, 96))
    with pytest.raises(
        CheckpointError, match=r'4 of another shape \(pos_embed1 \(1, 384, 8\) instead of \(1, 768, 8\)'
    ):
        load_weights(model, ours('v1', 'backbone', img_size=(64, 96)).state_dict())
    tensors = ours('v1', 'backbone').state_dict()
    for wrong in (torch.zeros(1, 256, 9), torch.zeros(2, 256, 8), torch.zeros(256, 8), torch.zeros(1, 0, 8)):
        with pytest.raises(CheckpointError, match='1 of another shape .pos_embed1'):
            load_weights(model, tensors | {'pos_embed1': wrong})
    with pytest.raises(CheckpointError, match='1 of another shape .pos_embed4'):
        load_weights(model, tensors | {'pos_embed4': tensors['pos_embed4'][:, 1:]})  # no class token: 4 entries
    assert model.resized('patch_embed1.proj.bias', torch.zeros(1, 4, 8)) is None


def test_half_a_precision_is_enough_to_resize():
    source = fill(ours('v1', 'backbone'))
    whole, half = (ours('v1', 'backbone', img_size=(64, 96)) for _ in range(2))
    load_weights(whole, {name: tensor.half().double() for name, tensor in source.state_dict().items()})
    load_weights(half, {name: tensor.half() for name, tensor in source.state_dict().items()})
    torch.testing.assert_close(half.pos_embed1, whole.pos_embed1, rtol=0, atol=1e-6)
