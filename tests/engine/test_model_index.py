"""Metafiles, docstrings and README say the same of every config, and who lets them drift apart is told."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from densevit.engine import model_index
from densevit.engine.model_index import Family, mistakes, outdated, read_families, tables, write
from densevit.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MODELS = {model['Name']: model for family in read_families(ROOT) for model in family.models}
# what papers call timm's models
TIMM = {
    'vit_base_patch16_224': 'ViT-B',
    'deit_small_patch16_224': 'DeiT-S',
    'xcit_small_12_p16_224': 'S12',
    'twins_pcpvt_small': 'PCPVT-S',
    'twins_svt_small': 'SVT-S',
    'mvitv2_tiny': 'MViTv2-T',
    'resnet50': 'ResNet-50',
    'resnet101': 'ResNet-101',
}
# read where they were published, and not on the sheets of facts
READ = [
    'Twins-SVT-S UperNet 46.2: Meituan-AutoML/Twins, commit 1930e44, README',
    'Twins-PCPVT-S Semantic FPN 43.26: mmsegmentation 1.4.2, configs/twins/metafile.yaml',
    'Twins-SVT-S Semantic FPN 44.47: mmsegmentation 1.4.2, configs/twins/metafile.yaml',
    'ResNet-50 UperNet 42.05: mmsegmentation 1.4.2, configs/upernet/metafile.yaml',
    'ResNet-101 UperNet 43.82: mmsegmentation 1.4.2, configs/upernet/metafile.yaml',
    'ResNet-50 Semantic FPN 37.49: mmsegmentation 1.4.2, configs/sem_fpn/metafile.yaml',
    'ResNet-50 Mask R-CNN 40.9 37.1: mmdetection 3.5.1, configs/mask_rcnn/metafile.yml, 3x with SGD',
    'MViTv2-T Mask R-CNN 48.3 43.8: facebookresearch/detectron2, commit 4febd2d, projects/MViTv2/README',
]
SWIN, TINY = 'configs/swin/metafile.yml', 'configs/upernet_patchconvnet-tiny_camvid.py'


def smallest() -> list[str]:
    """The smallest config of each method, family and data set: to count all takes a minute."""

    def kind(name: str) -> tuple[str, str, str]:
        method, backbone, data = name.rsplit('_', 2)
        return method, backbone.partition('-')[0], data

    def size(name: str) -> int:
        return MODELS[name].get('Metadata', {}).get('Parameters', 0)

    return [min(names, key=size) for _, names in groupby(sorted(MODELS, key=kind), kind)]


# ---------------------------------------------------------------------------------------------- this clone
@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_all_is_up_to_date(package):
    """The parameters of those that are not counted here stand in their docstrings, which are checked elsewhere."""
    pytest.importorskip(package)
    names = [name for name in smallest() if ('mask_rcnn' in name) == (package == 'mmdet')]
    assert len(names) == {'mmseg': 12, 'mmdet': 10}[package]
    assert outdated(ROOT, names) == []


def test_nothing_is_missing_or_contradicts_itself():
    assert mistakes(ROOT) == []
    assert len(MODELS) == len(list((ROOT / 'configs').glob('*.py'))) >= 97


def test_results_are_those_of_the_facts(shared_facts):
    """A line of the sheet has the variant and all numbers that were reported for it together."""
    lines = [
        line for name in ('dense_results', 'timm') for line in (shared_facts / f'{name}.md').read_text().splitlines()
    ]
    lines += READ
    reports: dict[tuple, list[str]] = {}
    for model in MODELS.values():
        arch = model['Metadata']['Architecture'][0].partition(' ')[2]
        arch = TIMM.get(arch, arch)
        arch = f'PVT-{arch[0]}' if arch in ('tiny', 'small', 'medium', 'large') else arch
        for result in model['Results']:
            if result['Source'] != 'measured by us':
                weights = result.get('Backbone Weights', {}).get('Name')
                key = (model['Name'], arch, result['Source'], weights)
                reports.setdefault(key, []).extend(map(str, result['Metrics'].values()))
    assert len(reports) >= 45
    for key, numbers in reports.items():
        words = [rf'\b{key[1]}\b', *(rf'(?<![\d.]){re.escape(number)}(?![\d.])' for number in numbers)]
        assert any(all(re.search(word, line, re.IGNORECASE) for word in words) for line in lines), (key, numbers)


def test_links_are_those_of_the_facts(shared_facts):
    """A line of a sheet has the release and, where several names are written as one with braces, one of them."""
    text = ''.join((shared_facts / f'{name}.md').read_text() for name in ('patchconvnet', 'pvt', 'swin', 'cvt'))
    while braces := re.search(r'([^\s{}]*)\{([^\s{}]*)\}((?:[^\s,;{}]|\{[^\s{}]*\})*)', text):
        before, options, after = braces.groups()
        names = ' '.join(before + option + after for option in options.split(','))
        text = text[: braces.start()] + names + text[braces.end() :]
    urls = {
        weights['URL']
        for model in MODELS.values()
        for weights in model['Backbone Weights']
        if weights['Origin'] != 'timm'  # which says itself where its weights are
    }
    urls |= {model['Weights'] for model in MODELS.values() if 'Weights' in model}
    assert len(urls) >= 45
    for url in urls:
        *_, release, file = url.split('/')
        assert any(release in line and file in line for line in text.splitlines()), url


# ---------------------------------------------------------------------------------- a clone to make mistakes in
@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A copy of what is held together; its models are those of this clone, and are not counted again."""
    monkeypatch.setattr(model_index, 'count', lambda root, name: MODELS[name]['Metadata'])
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('README.md', 'model-index.yml'):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    """Replace ``old``, a pattern, where it occurs first."""
    text, found = re.subn(old, new, file.read_text(), count=1, flags=re.MULTILINE)
    assert found
    file.write_text(text)


@pytest.mark.parametrize(('file', 'old', 'new', 'sentence'), [
    (
        SWIN, 'Parameters: 59941862', 'Parameters: 59941863',
        'upernet_swin_ade20k has Parameters 59941863, the config 59941862: run `make models`.',
    ),
    (SWIN, r'MACs: 1353\d+', 'MACs: 240000000000', r'has MACs 240000000000, the config 1353'),
    (SWIN, 'Iterations: 160000', 'Iterations: 80000', 'has Iterations 80000, the config 160000'),
    (SWIN, '    Metadata:\n(?:      .*\n)+', '', 'upernet_swin_ade20k has Parameters None, the config 59941862'),
    ('README.md', r'\*\*44\.51\*\*', '**45.51**', r'README.md: the tables .*metafile.yml: run `make models`.'),
    ('configs/upernet_swin_ade20k.py', '59.94 M', '60.00 M', 'another number of parameters .*: run `make models`.'),
    (TINY, r'0\.83 M', '0.84 M', 'another number of parameters'),
])  # fmt: skip
def test_what_is_out_of_date_is_said_and_mended(clone, file, old, new, sentence):
    before = (clone / file).read_text()
    edit(clone / file, old, new)
    said = outdated(clone, ['upernet_swin_ade20k'])
    assert [each for each in said if each.startswith(f'{file}: ') and re.search(sentence, each)]
    assert not [each for each in said if not each.startswith(file)]
    assert write(clone, ['upernet_swin_ade20k']) == [file]
    assert outdated(clone, ['upernet_swin_ade20k']) == []
    if 'MACs' not in old:
        assert (clone / file).read_text() == before


def test_a_hair_more_multiply_adds_are_another_torch(clone):
    edit(clone / SWIN, r'(MACs: 135)3', r'\g<1>4')
    assert outdated(clone, ['upernet_swin_ade20k']) == []


def test_readme_follows_the_metafiles(clone):
    edit(clone / SWIN, r'mIoU: 44\.51', 'mIoU: 44.52')
    assert [sentence.partition(':')[0] for sentence in outdated(clone, [])] == ['README.md']
    assert write(clone, []) == ['README.md']
    assert '**44.52**' in (clone / 'README.md').read_text()


def test_readme_without_the_marks(clone):
    edit(clone / 'README.md', '^<!-- end of .*\n', '')
    with pytest.raises(UserError, match='README.md: the lines .* around the tables'):
        outdated(clone, [])


@pytest.mark.parametrize(('file', 'old', 'new', 'sentence'), [
    (SWIN, r'mIoU: 44\.51', 'mIoU: 44.52', r"upernet_swin_ade20k.py: `Expected:` has .*44\.51.* are .*44\.52"),
    (TINY, r'Expected: 62\.1', 'Expected: 62.2', r'62\.2.*62\.1.* in configs/patchconvnet/metafile.yml'),
    (TINY, 'Cost: 63 minutes', 'Cost: 62 minutes', "does not say '63 minutes on two shared CPU cores'"),
    (SWIN, 'Source: reported by mmsegmentation', 'Source: reported by timm', "does not say 'reported by timm'"),
    ('configs/upernet_swin_ade20k.py', 'not measured by us', 'not ours', 'contradicts .Measured by us: false'),
    ('configs/mask_rcnn_swin-b_coco.py', 'none published', 'good', 'does not say that there is none'),
    ('configs/upernet_swin_ade20k.py', 'swin_tiny_patch4', 'swin_small_patch4', '`Weights:` are not .*swin_tiny'),
    ('configs/upernet_swin_ade20k.py', r'\(ImageNet-1k\)', '(ImageNet-22k)', '`Weights:` are not'),
    (SWIN, r'Weights: \[\*base, \*base_22k\]', 'Weights: [*base]', 'is on .*_22k.pth, which is not among'),
    (SWIN, 'Measured by us: false', 'Measured by us: true', "'Measured by us' is True, and the sources say False"),
    (SWIN, '    Measured by us: false\n', '', "upernet_swin_ade20k: lacks 'Measured by us'"),
    (SWIN, '        Source: .*\n', '', "a result lacks 'Source'"),
    (SWIN, '        Origin: .*\n', '', "backbone weights swin_tiny_patch4_window7_224.pth lack 'Origin'"),
    (SWIN, 'In Collection: .*', 'In Collection: PVT', "In Collection is to be 'Swin Transformer'"),
    (SWIN, 'Name: upernet_swin_ade20k', 'Name: upernet_swin-x_ade20k', 'swin-x_ade20k: there is no config'),
    (SWIN, 'Name: upernet_swin_ade20k', 'Name: upernet_swin-x_ade20k', 'swin_ade20k.py: has no entry in configs/swin/'),
    (SWIN, 'Name: upernet_swin-s_ade20k', 'Name: upernet_swin_ade20k', 'has more than one entry'),
    ('model-index.yml', '.*/swin/.*\n', '', 'does not import configs/swin/metafile.yml'),
])  # fmt: skip
def test_what_somebody_has_to_mend(clone, file, old, new, sentence):
    edit(clone / file, old, new)
    assert [said for said in mistakes(clone) if re.search(sentence, said)], mistakes(clone)


def test_a_data_set_that_is_not_known(clone):
    shutil.copy(clone / 'configs' / 'upernet_swin_ade20k.py', clone / 'configs' / 'upernet_swin_cityscapes.py')
    text = (clone / SWIN).read_text()
    entry = re.search(r'  - Name: upernet_swin_ade20k\n(?:    .*\n)+', text)[0]
    (clone / SWIN).write_text(text + entry.replace('swin_ade20k', 'swin_cityscapes'))
    assert mistakes(clone) == [
        f"{SWIN}: upernet_swin_cityscapes: add 'cityscapes' to the DATA of densevit/engine/model_index.py."
    ]


# ---------------------------------------------------------------------------------------------- the tables
PLAIN = """
Collections:
  - Name: Net
    Paper: {URL: https://paper}
    Code: {URL: https://code}
    Note: A note.
    Backbone Weights:
      - &one {Name: one.pth, Training Data: small}
      - &two {Name: two.pth, Training Data: large}
Models:
  - Name: upernet_net_ade20k
    Metadata: {Architecture: [Net T, A], Parameters: 1234567, MACs: 12300000000, Iterations: 160000, Batch Size: 16}
    Backbone Weights: [*one, *two]
    Results:
      - {Task: Semantic Segmentation, Metrics: {mIoU: 40.0, mIoU(ms+flip): 41.0}, Source: reported by the official code}
      - {Task: Semantic Segmentation, Metrics: {mIoU: 39.0}, Source: reported by others}
      - {Task: Semantic Segmentation, Metrics: {mIoU: 45.0}, Source: reported by others, Backbone Weights: *two}
  - Name: upernet_net-b_ade20k
    Metadata: {Architecture: [Net B, A], Parameters: 2000000, MACs: 234000000000, Iterations: 80000, Batch Size: 16}
    Results: []
  - Name: upernet_net-b-long_ade20k
    Metadata: {Architecture: [Net B, A], Parameters: 2000000, MACs: 234000000000, Iterations: 160000, Batch Size: 16}
    Results: []
  - Name: mask_rcnn_net_coco
    Metadata: {Architecture: [Net T, A], Parameters: 3000000, MACs: 5000000000, Epochs: 12, Batch Size: 8}
    Results:
      - {Task: Object Detection, Metrics: {box AP: 30.0}, Source: reported by the official code}
      - {Task: Instance Segmentation, Metrics: {mask AP: 29.5}, Source: reported by the official code}
  - Name: mask_rcnn_net-1x_coco
    Metadata: {Architecture: [Net T, A], Parameters: 3000000, MACs: 5000000000, Epochs: 12, Batch Size: 8}
    Results:
      - {Task: Object Detection, Metrics: {box AP: 20.0}, Source: reported by others, Conditions: half the data}
  - Name: upernet_net-b_own
    Metadata:
      {Architecture: [Net, A], Parameters: 20000, MACs: 1000000000, Input Size: [64, 96], Training Data: own}
    Results:
      - {Task: Semantic Segmentation, Metrics: {mIoU: 62.0}, Source: measured by us, Conditions: a minute}
"""
SECTION = """\
### Net ([paper](https://paper), [code](https://code))

A note.

| variant | `upernet_net*_ade20k`<br>160k iterations, batch 16 | `mask_rcnn_net*_coco`<br>12 epochs, batch 8 |
| --- | --- | --- |
| (T) | 1.23 M, 12.3 G, **40.0**, **45.0**<sup>1</sup> | 3.00 M, 5.0 G, **30.0 / 29.5** |
| `-b` | 2.00 M, 234 G (80k iterations, batch 16) |  |
| `-b-long` | 2.00 M, 234 G |  |
| `-1x` (T) |  | 3.00 M, 5.0 G, **20.0 / –**<sup>2</sup> |

| config | data | size | result |
|---|---|---|---|
| `upernet_net-b_own` | own | 0.02 M, 1.0 G at 64 x 96 | **62.0 mIoU**, measured by us, a minute |

<sup>1</sup> reported by others, on large weights.<br>
<sup>2</sup> reported by others, half the data.
"""


def test_tables():
    assert tables([Family('configs/net/metafile.yml', PLAIN)]) == SECTION


# ------------------------------------------------------------------------------------------------ the tool
@pytest.fixture
def tool(clone, monkeypatch) -> Callable[..., int]:
    """tools/model_index.py as if it lay in ``clone``."""
    spec = importlib.util.spec_from_file_location('tool_model_index', ROOT / 'tools' / 'model_index.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr('densevit.config.reading.configs_dir', lambda: clone / 'configs')
    return lambda *argv: module.run_tool(module.parser(), module.main, argv)


def test_the_tool_says_and_writes(tool, clone, capsys):
    assert tool() == 0
    assert 'agree' in capsys.readouterr().out
    edit(clone / SWIN, 'Parameters: 59941862', 'Parameters: 1')
    assert tool() == 1
    assert 'has Parameters 1, the config 59941862: run `make models`.\n' in capsys.readouterr().out
    assert tool('--write') == 0
    assert f'wrote {clone / SWIN}\n' in capsys.readouterr().out
    assert (clone / SWIN).read_text() == (ROOT / SWIN).read_text()


def test_the_tool_writes_nothing_where_somebody_has_to_think(tool, clone, capsys):
    edit(clone / SWIN, r'mIoU: 44\.51', 'mIoU: 44.52')
    assert tool('--write') == 1
    assert '`Expected:`' in capsys.readouterr().out
    assert (clone / 'README.md').read_text() == (ROOT / 'README.md').read_text()


def test_the_tool_needs_a_clone(tool, clone, capsys):
    (clone / 'README.md').unlink()
    assert tool('--write') == 2
    assert 'has no README.md: run this in a clone.' in capsys.readouterr().err
