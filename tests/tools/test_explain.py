"""tools/explain.py on tiny models with random weights: files, numbers, and mistakes in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from densevit import ImageClassifier
from densevit.benchmark.models import make, parse_spec
from densevit.checkpoints.patchconvnet import to_official
from tests.backbones.contract import fill

from .conftest import load_tool

COLUMN = dict(type='densevit.PatchConvNet', arch=dict(embed_dims=16, depth=1))
WINDOWS = dict(type='densevit.SwinTransformer', arch=dict(embed_dims=8, depths=(2, 1), num_heads=(2, 2)), window_size=3)
NAMES = ['tabby, tabby cat', 'tiger cat', 'dog', 'remote control, remote', 'sofa']


@pytest.fixture
def photos(tmp_path) -> list:
    """A wide one in colour, and a tall grey one."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'wide.png')
    Image.fromarray(pixels[..., 0].T.copy()).save(tmp_path / 'tall.png')
    return [tmp_path / 'wide.png', tmp_path / 'tall.png']


@pytest.fixture
def classifier(tmp_path):
    """Write config and weights of a classifier with five classes; return both."""

    def write(backbone: dict, pool: str | None = None) -> tuple:
        config = dict(type='densevit.ImageClassifier', backbone=dict(backbone, out_indices=(-1,)), pool=pool)
        config['num_classes'] = len(NAMES)
        (tmp_path / 'classifier.py').write_text(f'model = {config}\n')
        model = fill(ImageClassifier(config['backbone'], pool, len(NAMES)))
        meta = dict(dataset_meta=dict(classes=NAMES))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'classifier.pth')
        return tmp_path / 'classifier.py', tmp_path / 'classifier.pth'

    return write


def read(path) -> dict:
    return json.loads(path.read_text())


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        load_tool('explain').parser().parse_args(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = (
        'CONFIG_OR_BACKBONE checkpoint IMAGE --out --top-k --classes --class-names --size --whole --layers --query '
        '--device --trust-checkpoint --debug'
    )
    assert [name for name in expected.split() if name not in text] == []


def test_a_map_for_each_class(tool, tmp_path, photos, classifier):
    out = tmp_path / 'out'
    done = tool('explain', *classifier(COLUMN, 'learned_multi'), *photos, '--out', out, '--size', '64')
    assert done.status == 0, done.err
    ends = ('_attention.png', '_classes.png', '_top.png', '.json')
    names = {f'{stem}{end}' for stem in ('wide', 'tall') for end in ends}
    assert {path.name for path in out.iterdir()} == names
    found = read(out / 'wide.json')
    assert (found['map'], found['map_size'], found['input_size']) == ('one for each class', [4, 4], [64, 64])
    assert len(found['top']) == 3
    for each in found['top']:
        assert each['name'] == NAMES[each['class']]
        assert each['on_patches'] == pytest.approx(1, abs=1e-5)
        assert each['on_class_token'] == 0
    assert found['top'][0]['probability'] >= found['top'][1]['probability']
    with Image.open(out / 'wide_top.png') as picture:
        assert picture.width == 4 * 448 + 3 * 6  # the input and three maps


def test_one_map_for_all_classes(tool, tmp_path, photos, classifier):
    out = tmp_path / 'out'
    done = tool(
        'explain', *classifier(COLUMN, 'learned'), photos[0], '--out', out, '--whole', '--size', '48',
        '--classes', 'Remote,2',
    )  # fmt: skip
    assert done.status == 0, done.err
    assert {path.name for path in out.iterdir()} == {'wide_attention.png', 'wide_top.png', 'wide.json'}
    found = read(out / 'wide.json')
    assert (found['map'], found['map_size'], found['input_size']) == ('the same for all classes', [3, 5], [48, 72])
    assert [each['class'] for each in found['classes']] == [3, 2]
    for each in found['top']:
        assert each['on_patches'] + each['on_class_token'] == pytest.approx(1, abs=1e-5)
        assert each['on_class_token'] > 0


@pytest.mark.parametrize('pool', ['learned', 'learned_multi'])
def test_official_weights_tell_the_kind_of_classifier(tool, tmp_path, photos, pool):
    model = fill(ImageClassifier(COLUMN, pool, 7))
    torch.save(to_official(model.state_dict()), tmp_path / 'official.pth')
    (tmp_path / 'names.txt').write_text('\n'.join('abcdefg'))
    done = tool(
        'explain', "densevit.PatchConvNet:{'embed_dims': 16, 'depth': 1}", tmp_path / 'official.pth', photos[0],
        '--out', tmp_path / 'out', '--class-names', tmp_path / 'names.txt', '--top-k', '9', '--size', '32',
    )  # fmt: skip
    assert done.status == 0, done.err
    assert 'PatchConvNet, official: loaded' in done.out
    found = read(tmp_path / 'out' / 'wide.json')
    assert found['map'] == ('one for each class' if pool == 'learned_multi' else 'the same for all classes')
    assert sorted(each['name'] for each in found['top']) == list('abcdefg')


def test_layers_of_a_classifier(tool, tmp_path, photos, classifier):
    out = tmp_path / 'out'
    model = classifier(WINDOWS)
    done = tool('explain', *model, photos[0], '--out', out, '--layers', 'all', '--size', '64', '--query', '45,30')
    assert done.status == 0, done.err
    assert {path.name for path in out.iterdir()} == {
        'wide_stages0_query.png', 'wide_stages1_query.png', 'wide_layers.json'
    }  # fmt: skip
    found = read(out / 'wide_layers.json')['layers']
    first = found['stages.0.blocks.0']
    assert (first['queries'], first['heads'], len(first['per_head'])) == ([16, 16], 2, 2)
    assert first['query'] == [8, 8]  # the middle
    for head in first['per_head']:
        assert head['on_patches'] + head['rest'] == pytest.approx(1, abs=1e-5)
    assert found['stages.0']['rollout']['on_patches'] > 0.5

    done = tool('explain', *model, photos[0], '--out', out, '--layers', 'stages.0.blocks.1', '--size', '64')
    assert done.status == 0, done.err
    assert (out / 'wide_stages0_received.png').is_file()
    found = read(out / 'wide_layers.json')['layers']
    assert 'needs all of its blocks, and stages.0.blocks.0 is not recorded' in found['stages.0']['rollout']


def test_layers_of_a_segmentor(tool, tmp_path, photos):
    arch = dict(embed_dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(2, 2, 2, 2))
    base = parse_spec('semfpn_pvtv2-b0_ade20k.py')  # to know that it is there
    assert base.scope == 'mmseg'
    from densevit.config.reading import find_config

    config = tmp_path / 'small.py'
    config.write_text(
        f"_base_ = '{find_config('semfpn_pvtv2-b0_ade20k.py')}'\n"
        f'model = dict(backbone=dict(arch=dict(_delete_=True, **{arch})), neck=dict(in_channels={[8, 16, 16, 16]}))\n'
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(150, 100), keep_ratio=True),\n"
        "    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n'
    )
    torch.save(fill(make(parse_spec(str(config)))).state_dict(), tmp_path / 'small.pth')
    done = tool(
        'explain', config, tmp_path / 'small.pth', photos[0], '--out', tmp_path, '--layers', 'stages.3.*,stages.0.*'
    )
    assert done.status == 0, done.err
    found = read(tmp_path / 'wide_layers.json')
    assert found['input_size'] == [100, 150]
    assert found['layers']['stages.0.blocks.0']['queries'] == [25, 38]
    assert 'stages.1.blocks.0' not in found['layers']
    assert 'no rollout is defined for stages.0' in found['layers']['stages.0']['rollout']
    assert (tmp_path / 'wide_stages3_received.png').is_file()
    done = tool('explain', config, tmp_path / 'small.pth', photos[0])
    assert done.status == 2
    assert 'this EncoderDecoder has no class attention head; give it one' in done.err
    assert '--layers all shows what its attention layers attend to' in done.err


@pytest.mark.parametrize('method', ['upernet', 'mask_rcnn'])
def test_a_class_attention_head(tool, tmp_path, photos, method):
    config = f'{method}_patchconvnet-tiny-classattn_scenes'
    torch.save(fill(make(parse_spec(config))).state_dict(), tmp_path / 'model.pth')
    done = tool('explain', config, tmp_path / 'model.pth', photos[0], '--out', tmp_path, '--classes', '1,7')
    assert done.status == 0, done.err
    found = read(tmp_path / 'wide.json')
    assert [each['class'] for each in found['classes']] == [1, 7]
    for each in found['top']:
        assert 0 <= each['probability'] <= 1
        assert each['on_patches'] == pytest.approx(1, abs=1e-5)
    assert (tmp_path / 'wide_classes.png').is_file()


def test_no_class_attention_head_and_no_attention_layers(tool, tmp_path, photos):
    config = 'upernet_patchconvnet-tiny_camvid'
    torch.save(fill(make(parse_spec(config))).state_dict(), tmp_path / 'model.pth')
    for options in ([], ['--layers', 'all']):
        done = tool('explain', config, tmp_path / 'model.pth', photos[0], '--out', tmp_path / 'out', *options)
        assert done.status == 2 and 'docs/class_attention.md' in done.err
        assert 'wide' not in done.err and '--layers all' not in done.err
    assert 'PatchConvNet, has no attention layers' in done.err
    assert not (tmp_path / 'out').exists()


def test_a_class_attention_head_without_weights(tool, tmp_path, photos):
    config = 'upernet_patchconvnet-tiny-classattn_scenes'
    state = fill(make(parse_spec(config))).state_dict()
    trained = {name: value for name, value in state.items() if not name.startswith('class_attention.')}
    torch.save(trained, tmp_path / 'model.pth')
    done = tool('explain', config, tmp_path / 'model.pth', photos[0], '--out', tmp_path / 'out')
    assert done.status == 2 and 'no weights of the class attention head; train' in done.err
    assert not (tmp_path / 'out').exists()
    torch.save(state, tmp_path / 'model.pth')
    done = tool('explain', config, tmp_path / 'model.pth', photos[0], '--layers', 'all')
    assert done.status == 2 and 'leave it out to see the maps of the class attention head' in done.err


@pytest.mark.parametrize('outputs', ['', ',out_indices=(-1,)'])
def test_layers_of_a_backbone_alone(tool, tmp_path, photos, outputs):
    name = f'densevit.SwinTransformer:{dict(embed_dims=8, depths=(1,) * 4, num_heads=(2,) * 4)}'
    torch.save(fill(make(parse_spec(name + outputs))).state_dict(), tmp_path / 'trunk.pth')
    done = tool(
        'explain', name, tmp_path / 'trunk.pth', photos[0], '--out', tmp_path / 'out', '--layers', 'all',
        '--size', '64',
    )  # fmt: skip
    assert done.status == 0, done.err
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'wide_layers.json', *(f'wide_stages{stage}_received.png' for stage in range(4))
    }  # fmt: skip


def test_pictures_of_equal_names_do_not_replace_each_other(tool, tmp_path, photos, classifier):
    (tmp_path / 'other').mkdir()
    twin = tmp_path / 'other' / 'wide.png'
    twin.write_bytes(photos[0].read_bytes())
    done = tool('explain', *classifier(COLUMN, 'learned'), photos[0], twin, '--out', tmp_path / 'out', '--size', '32')
    assert done.status == 0, done.err
    assert {path.name for path in (tmp_path / 'out').glob('*.json')} == {'wide.json', 'wide_2.json'}


@pytest.mark.parametrize(
    ('backbone', 'options', 'said'),
    [
        (WINDOWS, [], 'ImageClassifier with AveragePool has no attention that decides on a class'),
        (WINDOWS, ['--layers', 'stages.7.*'], "error: --layers: ImageClassifier has no attention layer 'stages.7.*'"),
        (WINDOWS, ['--layers', 'all', '--query', '3'], '--query 3: give a pixel of the image as X,Y'),
        (WINDOWS, ['--layers', 'all', '--query', '2,30'], 'outside of what the network sees of the image: x from 19'),
        (COLUMN, ['--query', '3,4'], '--query is the pixel whose attention is drawn with --layers'),
        (COLUMN, ['--classes', 'tabyb'], "--classes 'tabyb': the model has no such class; did you mean 'tabby'?"),
        (COLUMN, ['--classes', '5'], '--classes 5: the model has classes 0 to 4'),
        (COLUMN, ['--classes', 'cat'], "'cat' can be 2 classes; give the index of one: 0 (tabby), 1 (tiger cat)"),
        (COLUMN, ['--size', '3'], '--size 3: give the side of the input in pixels'),
        (COLUMN, ['--top-k', '0'], '--top-k 0'),
        (COLUMN, ['--class-names', '{classifier}'], 'names, the model 5 classes'),
        (COLUMN, ['--class-names', 'nowhere.txt'], "--class-names 'nowhere.txt' cannot be read"),
        (COLUMN, ['nowhere.jpg'], "'nowhere.jpg'"),
    ],
)  # fmt: skip
def test_mistakes(tool, tmp_path, photos, classifier, backbone, options, said):
    config, weights = classifier(backbone)
    options = [option.format(classifier=config) for option in options]
    done = tool('explain', config, weights, photos[0], '--out', tmp_path / 'out', *options)
    assert done.status == 2
    assert said in done.err
    assert 'Traceback' not in done.err


def test_a_backbone_alone_is_no_classifier(tool, tmp_path, photos):
    torch.save(fill(make(parse_spec('densevit.PatchConvNet:S60'))).state_dict(), tmp_path / 'trunk.pth')
    done = tool('explain', 'densevit.PatchConvNet:S60', tmp_path / 'trunk.pth', photos[0])
    assert done.status == 2
    assert "the checkpoint has no head, so it is not a classifier's" in done.err
