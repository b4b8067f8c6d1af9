"""docs/timm.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import MODELS, DefaultScope

from densevit.config.reading import configs_dir, load_config
from densevit.engine.timm_table import NAMED, families, look_at, render, smallest, sweep

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'timm.md'
# supported, and refused by a rule and by what was found
SAMPLE = {('resnet', 'resnetrs'): 'resnetrs50', ('pit', 'pit'): 'pit_ti_224', ('levit', 'levit'): 'levit_128s'}


def row_of(page: str, module: str, model: str) -> str:
    """A row of the page, without how many models the family has."""
    found = re.search(rf'^\| `{module}` \| `{model}` \| (\d+) \| (.*)$', page, flags=re.MULTILINE)
    assert found, f'{module} {model} has no row'
    return found[2]


def test_families():
    found = families(['resnet18', 'resnet50', 'resnetrs50', 'tf_efficientnetv2_b0', 'efficientnet_b0', 'test_vit'])
    assert found == {
        ('efficientnet', 'efficientnet'): ['efficientnet_b0'],
        ('efficientnet', 'efficientnetv'): ['tf_efficientnetv2_b0'],
        ('resnet', 'resnet'): ['resnet18', 'resnet50'],
        ('resnet', 'resnetrs'): ['resnetrs50'],
    }


def test_smallest():
    assert smallest(['resnet34', 'resnet18']) == ('resnet18', 11_176_512)


def test_the_page_is_of_this_timm_and_has_all_families():
    text = PAGE.read_text()
    version = re.search(r'^timm (\S+) has (\d+) models in (\d+) families', text, flags=re.MULTILINE)
    assert version
    if version[1] != timm.__version__:
        pytest.skip(f'docs/timm.md is of timm {version[1]}')
    groups = families()
    assert (int(version[2]), int(version[3])) == (sum(map(len, groups.values())), len(groups))
    rows = re.findall(r'^\| `(\w+)` \| `(\w+)` \| (\d+) \|', text, flags=re.MULTILINE)
    assert len(rows) == len(groups)
    names = {name: (module, len(group)) for (module, _), group in groups.items() for name in group}
    for module, model, of in rows:
        assert names[model] == (module, int(of))


@pytest.mark.parametrize(('family', 'model'), SAMPLE.items(), ids=SAMPLE.values())
def test_a_row_is_what_the_code_says(family, model):
    if f'timm {timm.__version__} ' not in PAGE.read_text():
        pytest.skip('docs/timm.md is of another timm')
    row = look_at([model])
    assert row_of(render([row]), family[0], model) == row_of(PAGE.read_text(), family[0], model)


def test_processes_find_the_same():
    (row,) = sweep(1, {('resnet', 'resnet'): ['resnet18']})
    assert row == look_at(['resnet18'])
    assert '| `resnet` | `resnet18` | 1 | 11.2 M | 64, 128, 256, 512 | 4, 8, 16, 32 | 1 |' in render([row])


def test_every_config_is_of_a_named_family():
    """And is listed with one family, and every named family has models."""
    found = re.findall(r'\]\(\.\./configs/([\w-]+)\.py\)', render([]))
    assert sorted(found) == sorted(path.stem for path in configs_dir().glob('*_timm-*.py'))
    for patterns in NAMED.values():
        assert all(timm.list_models(pattern) for pattern in patterns)


def test_the_examples_work(tmp_path):
    pytest.importorskip('mmseg')
    configs = re.findall(r'```python\n(_base_ = .*?)```', PAGE.read_text(), flags=re.DOTALL)
    assert len(configs) == 2
    for text in configs:
        file = tmp_path / 'mine.py'
        file.write_text(text.replace("'./", f"'{configs_dir()}/"))
        cfg = load_config(file)
        with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
            model = MODELS.build(cfg.model).eval()
            maps = model.extract_feat(torch.zeros(1, 3, 64, 96))
            assert model.decode_head(maps).shape == (1, 150, 16, 24)
