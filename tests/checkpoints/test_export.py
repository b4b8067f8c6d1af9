"""The way back: from every official file to our names and back, bit by bit, and on to the other packages."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from densevit import CvT, ImageClassifier, PatchConvNet, PyramidVisionTransformer, PyramidVisionTransformerV2
from densevit.checkpoints import CheckpointError, export_weights, load_weights
from densevit.checkpoints.atomic import digest_file
from densevit.checkpoints.export import TARGETS, convert_checkpoint, save_state_dict
from densevit.checkpoints.origins import ORIGINS, to_ours
from tests.backbones.contract import fill

FAMILIES = ('PatchConvNet', 'PVT', 'PVT v2', 'CvT')
PVT = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
BACKBONES = {
    'PatchConvNet': lambda **options: PatchConvNet(dict(embed_dims=16, depth=2), **options),
    'PVT': lambda **options: PyramidVisionTransformer(PVT, img_size=64, **options),
    'PVT v2': lambda **options: PyramidVisionTransformerV2(PVT, **options),
    'CvT': lambda **options: CvT(dict(embed_dims=(8, 16, 24), depths=(1, 1, 2), num_heads=(1, 2, 3)), **options),
}
NUMBERS = (torch.arange(7_100_000) % 2039).half()  # 2039 is prime, and half precision holds all whole numbers below


class Segmentor(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Conv2d(backbone.out_channels[-1], 4, 1)


def manifests(folder: Path) -> Iterator[tuple[str, dict[str, list[int]]]]:
    for file in sorted((folder / 'manifests').glob('[!_]*.json')):
        if file.name.startswith(('patchconvnet', 'pvt', 'cvt')):
            yield file.stem, json.loads(file.read_text())


def official(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of the real names and shapes: windows into the same numbers, each with its own beginning."""
    tensors = {}
    for name, shape in shapes.items():
        begin = zlib.crc32(name.encode()) % 2039
        if name.endswith('num_batches_tracked'):
            tensors[name] = torch.tensor(begin)
        else:
            tensors[name] = NUMBERS[begin:][: math.prod(shape)].view(shape)
    return tensors


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        t.dtype == found[name].dtype and torch.equal(t, found[name]) for name, t in expected.items()
    )


def test_every_official_file_returns(shared_facts):
    families = []
    for variant, shapes in manifests(shared_facts):
        tensors = official(shapes)
        ours = to_ours(tensors)
        assert ours.completed == (), variant
        back = export_weights(ours.tensors, 'official')
        assert equal(back, tensors), variant
        assert equal(export_weights(tensors, 'official'), tensors), variant
        # not a coincidence: nothing stays as it was on the way
        assert not {'blocks.0.norm1.weight', 'block1.0.norm1.weight', 'stage0.blocks.0.norm1.weight'} & {*ours.tensors}
        families.append(ours.origin)
    assert {family: families.count(family) for family in families} == {
        'PatchConvNet, official': 7, 'PVT, official': 4, 'PVT v2, official': 7, 'CvT, official': 3,
    }  # fmt: skip


def test_pvt_to_mm_and_back(shared_facts):
    """What mm has no place for is left out; of the last position table, the class token's entry is 0 afterwards."""
    count = 0
    for variant, shapes in manifests(shared_facts):
        if not variant.startswith('pvt') or variant == 'pvtv2_b2_li':
            continue
        ours = to_ours(official(shapes)).tensors
        mm = export_weights(ours, 'mm')
        assert all(name.startswith('layers.') for name in mm)
        assert sum(t.numel() for t in mm.values()) == sum(
            t.numel() for name, t in ours.items() if name.startswith('backbone.')
        ) - (512 if variant.startswith('pvt_') else 0)
        back = to_ours(mm)
        expected = {name: t for name, t in ours.items() if name.startswith('backbone.')}
        if variant.startswith('pvt_'):
            table = expected['backbone.pos_embed4'] = expected['backbone.pos_embed4'].clone()
            table[:, 0] = 0
        assert equal(back.tensors, expected), variant
        count += 1
    assert count == 10


@pytest.mark.parametrize('key', ['timm', 'transformers'])
def test_to_other_packages_and_back(shared_facts, key):
    count = 0
    for variant, shapes in manifests(shared_facts):
        families = {'timm': ('pvtv2',), 'transformers': ('pvt', 'cvt_13', 'cvt_21')}[key]
        if variant.startswith(families):
            ours = to_ours(official(shapes)).tensors
            theirs = export_weights(ours, key)
            assert not ours.keys() & theirs.keys() - {'head.weight', 'head.bias'}
            assert equal(to_ours(theirs).tensors, ours), variant
            count += 1
    assert count == {'timm': 7, 'transformers': 13}[key]


# ------------------------------------------------------------------------------------------------ models of every kind
EXPORTS = [(family, key) for family in FAMILIES for key in dict.fromkeys(
    origin.key for origin in ORIGINS if origin.family == family and origin.export
)]  # fmt: skip


def test_the_exports_that_there_are():
    assert EXPORTS == [
        ('PatchConvNet', 'official'),
        ('PVT', 'official'), ('PVT', 'mm'), ('PVT', 'transformers'),
        ('PVT v2', 'official'), ('PVT v2', 'mm'), ('PVT v2', 'timm'), ('PVT v2', 'transformers'),
        ('CvT', 'official'), ('CvT', 'transformers'),
    ]  # fmt: skip
    assert {'densevit', 'official', 'mm', 'timm', 'transformers'} <= set(TARGETS)


@pytest.mark.parametrize('kind', ['backbone', 'classifier', 'segmentor'])
@pytest.mark.parametrize(('family', 'key'), EXPORTS)
def test_a_models_weights_return(family, key, kind):
    def build() -> nn.Module:
        backbone = BACKBONES[family]()
        wrap = {'classifier': lambda b: ImageClassifier(b, num_classes=5), 'segmentor': Segmentor}
        return wrap[kind](backbone) if kind in wrap else backbone

    source, model = fill(build()), build()
    names = export_weights(source, key)
    of_segmentor = {'decode_head.weight', 'decode_head.bias'} if kind == 'segmentor' else set()
    assert all(name.startswith('backbone.') for name in names.keys() - of_segmentor) == (kind == 'segmentor')
    assert of_segmentor <= names.keys()
    if key == 'mm' and kind == 'classifier':
        with pytest.raises(CheckpointError, match='missing'):
            load_weights(model, names)
        model, source = model.backbone, source.backbone
    report = load_weights(model, names)
    assert set(report.loaded) == set(model.state_dict())
    assert report.skipped == ()
    for name, tensor in source.state_dict().items():
        found = model.state_dict()[name]
        if report.completed and name.endswith('pos_embed4'):
            tensor, found = tensor[:, 1:], found[:, 1:]
        assert torch.equal(found, tensor), name


def test_a_state_dict_of_any_origin_is_taken():
    model = fill(ImageClassifier(BACKBONES['PVT v2'](), num_classes=5))
    mm = export_weights(model, 'mm')
    assert equal(export_weights(export_weights(model, 'timm'), 'mm'), mm)
    assert equal(export_weights({'state_dict': mm, 'meta': {}}, 'mm'), mm)
    assert equal(export_weights(export_weights(model, 'timm'), 'densevit'), model.state_dict())


def test_several_queries_have_several_heads():
    model = fill(ImageClassifier(BACKBONES['PatchConvNet'](), 'learned_multi', num_classes=12))
    names = export_weights(model, 'official')
    assert names['head.10.weight'].shape == (1, 16) and names['head.10.bias'].shape == (1,)
    assert torch.equal(names['head.10.weight'][0], model.head.weight[10])
    assert 'head.weight' not in names and 'head.12.bias' not in names
    single = export_weights(fill(ImageClassifier(BACKBONES['PatchConvNet'](), num_classes=12)), 'official')
    assert single['head.weight'].shape == (12, 16)


def test_nothing_is_copied_that_need_not_be():
    model = ImageClassifier(BACKBONES['PatchConvNet'](), num_classes=5)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert {tensor.untyped_storage().data_ptr() for tensor in export_weights(model, 'official').values()} == own


@pytest.mark.parametrize(
    ('family', 'to', 'message'),
    [
        ('CvT', 'mm', 'no mm names of CvT.*neither mmsegmentation nor mmdetection.*densevit, official, transformers'),
        ('PatchConvNet', 'mm', 'no mm names of PatchConvNet.*valid are densevit, official'),
        ('PVT', 'timm', 'no timm names of PVT, as timm does not have it'),
        ('PVT', 'oficial', "'oficial' is unknown; did you mean 'official'"),
        ('PVT', 'mmdet', "'mmdet' is unknown"),
    ],
)
def test_names_that_there_are_not(family, to, message):
    with pytest.raises(CheckpointError, match=message) as error:
        export_weights(BACKBONES[family](), to)
    assert '\n' not in str(error.value)


def test_mm_has_no_linear_variant():
    model = PyramidVisionTransformerV2(dict(PVT, linear=True))
    with pytest.raises(CheckpointError, match='no linear variant of PVT v2'):
        export_weights(model, 'mm')


def test_nobody_knows_these_names():
    with pytest.raises(CheckpointError, match=r'these 2 tensors \(weight, bias, ...\) have no names of a model'):
        export_weights(nn.Linear(2, 3), 'official')


# ----------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize('suffix', ['pth', 'pt', 'safetensors'])
def test_files_hold_what_they_should_and_no_more(tmp_path, suffix):
    large = torch.arange(10_000.0)
    tensors = {
        'part': large[5:9], 'turned': torch.arange(6.0).view(2, 3).T, 'whole': large, 'same': large,
        'count': torch.tensor(3), 'half': torch.ones(2, 2, dtype=torch.bfloat16), 'own': nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    path = tmp_path / 'new' / f'w.{suffix}'
    save_state_dict({'part': tensors['part']}, path)
    assert path.stat().st_size < 3000
    digest_file(path).write_text(f'{"0" * 64}  {path.name}\n')  # of what is overwritten
    save_state_dict(tensors, path, force=True)
    if suffix == 'safetensors':
        from safetensors.torch import load_file

        found = load_file(path)
    else:
        found = torch.load(path, weights_only=True)
    assert equal(found, {name: tensor.detach() for name, tensor in tensors.items()})
    assert not any(isinstance(tensor, nn.Parameter) for tensor in found.values())
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    (tmp_path / 'any').touch()
    assert path.stat().st_mode == (tmp_path / 'any').stat().st_mode


def test_files_that_are_not_written(tmp_path, monkeypatch):
    tensors = {'a': torch.ones(2)}
    for name in ('w.bin', 'w', 'w.pth.tar'):
        with pytest.raises(CheckpointError, match=r'must end with \.safetensors, \.pth, \.pt'):
            save_state_dict(tensors, tmp_path / name)
    path = tmp_path / 'w.pth'
    path.write_text('mine')
    with pytest.raises(CheckpointError, match='exists; give another name, or --force'):
        save_state_dict(tensors, path)
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(CheckpointError, match='folder.pth. exists'):
        save_state_dict(tensors, tmp_path / 'folder.pth', force=True)
    with pytest.raises(CheckpointError, match='w.pth.x.safetensors. cannot be written'):
        save_state_dict(tensors, path / 'x.safetensors')

    def broken(content, file):
        Path(file).write_text('half')
        raise OSError('no space left')

    monkeypatch.setattr(torch, 'save', broken)
    with pytest.raises(CheckpointError, match='cannot be written: no space left'):
        save_state_dict(tensors, path, force=True)
    assert path.read_text() == 'mine'
    assert sorted(file.name for file in tmp_path.iterdir()) == ['folder.pth', 'w.pth']


def test_a_file_that_exists_is_noticed_before_the_work(tmp_path):
    (tmp_path / 'out.pth').touch()
    with pytest.raises(CheckpointError, match='out.pth. exists'):
        convert_checkpoint(tmp_path / 'absent.pth', tmp_path / 'out.pth', 'official')


def test_a_conversion_says_what_it_did(tmp_path):
    model = ImageClassifier(BACKBONES['PVT'](), num_classes=5)
    torch.save({'model': export_weights(model, 'official')}, tmp_path / 'in.pth')
    done = convert_checkpoint(tmp_path / 'in.pth', tmp_path / 'out.safetensors', 'mm')
    assert str(done).splitlines() == [
        'from PVT, official: 93 tensors',
        'to PVT, mm: 80 tensors',
        'left out, as there is no place for it: '
        'pool.cls_token, pool.norm.weight, pool.norm.bias, head.weight, head.bias',
        'shortened, as there is no place for it: backbone.pos_embed4',
    ]
    done = convert_checkpoint(tmp_path / 'out.safetensors', tmp_path / 'in.pth', 'densevit', force=True)
    assert str(done).splitlines() == ['from PVT, mm: 80 tensors', 'to densevit: 88 tensors']
