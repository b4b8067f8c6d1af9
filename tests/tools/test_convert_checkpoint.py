"""tools/convert_checkpoint.py: files of either kind, from name to name, and the mistakes one can make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from densevit import CvT, ImageClassifier, PyramidVisionTransformer, PyramidVisionTransformerV2
from densevit.checkpoints import export_weights, load_weights
from tests.backbones.contract import fill
from tests.checkpoints.hostile import hostile

from .conftest import load_tool

ARCH = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))


def classifier() -> ImageClassifier:
    return ImageClassifier(PyramidVisionTransformerV2(ARCH), num_classes=5)


def contents(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == '.safetensors' else torch.load(path, weights_only=True)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        load_tool('convert_checkpoint').parser().parse_args(['--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    expected = 'IN OUT --to --from --force --trust-checkpoint --debug densevit official mm timm transformers'
    assert [name for name in expected.split() if name not in text] == []
    numbers = re.findall(r'^(\d)\. ', text, re.MULTILINE)
    assert numbers == ['1', '2', '3']
    assert text.count('    python tools/convert_checkpoint.py ') == len(numbers)


@pytest.mark.parametrize('source', ['pth', 'safetensors'])
@pytest.mark.parametrize('out', ['pth', 'safetensors'])
def test_there_and_back(tool, tmp_path, source, out):
    model = fill(classifier()).half()
    names = export_weights(model, 'official')
    start, between, end = tmp_path / f'in.{source}', tmp_path / 'new' / f'between.{out}', tmp_path / f'end.{source}'
    if source == 'pth':
        torch.save({'model': names, 'epoch': 3}, start)
    else:
        save_file(names, start)

    done = tool('convert_checkpoint', start, between, '--to', 'timm')
    assert (done.status, done.err) == (0, '')
    assert done.out.splitlines() == [
        'from PVT v2, official: 102 tensors', 'to PVT v2, timm: 102 tensors', str(between.resolve()),
    ]  # fmt: skip
    assert 'stages.0.blocks.0.mlp.dwconv.weight' in contents(between)

    assert tool('convert_checkpoint', '--to', 'official', between, end).status == 0
    found = contents(end)
    assert found.keys() == names.keys()
    assert all(t.dtype == torch.float16 and torch.equal(t, found[name]) for name, t in names.items())


def test_a_training_runs_file(tool, tmp_path):
    """With optimizer and meta, of a whole model; what is written is weights, and they load."""
    model = fill(PyramidVisionTransformer(ARCH, img_size=64))
    weights = {f'backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    weights['decode_head.bias'] = torch.ones(3)
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    torch.save({'state_dict': weights, 'optimizer': optimizer, 'meta': {'iter': 4}}, tmp_path / 'iter_4.pth')
    done = tool('convert_checkpoint', tmp_path / 'iter_4.pth', tmp_path / 'mm.pth', '--to', 'mm')
    assert done.status == 0, done.err
    assert done.out.splitlines()[2] == 'shortened, as there is no place for it: backbone.pos_embed4'
    found = contents(tmp_path / 'mm.pth')
    assert found.keys() >= {'decode_head.bias', 'backbone.layers.3.1.0.pos_embed'}
    other = PyramidVisionTransformer(ARCH, img_size=64)
    assert load_weights(other, tmp_path / 'mm.pth').origin == 'PVT, mm'
    assert torch.equal(other.block1[0].attn.kv.weight, model.block1[0].attn.kv.weight)


def test_mistakes(tool, tmp_path):
    torch.save(classifier().state_dict(), tmp_path / 'w.pth')
    torch.save(
        CvT(dict(embed_dims=(8, 8, 8), depths=(1, 1, 1), num_heads=(1, 1, 1))).state_dict(), tmp_path / 'cvt.pth'
    )
    torch.save({'weight': torch.ones(1)}, tmp_path / 'other.pth')
    (tmp_path / 'old.pth').touch()
    for arguments, message in (
        (['absent.pth', 'o.pth', '--to', 'mm'], r"'.*absent.pth' does not exist"),
        (['w.pth', 'old.pth', '--to', 'mm'], r"'.*old.pth' exists; .* --force"),
        (['w.pth', 'o.bin', '--to', 'mm'], r"'.*o.bin': the name .* must end with .safetensors, .pth, .pt"),
        (['w.pth', 'o.pth', '--to', 'tim'], r"to='tim' is unknown; did you mean 'timm'\?; for PVT v2, valid are "),
        (['cvt.pth', 'o.pth', '--to', 'mm'], 'there are no mm names of CvT, as neither mmsegmentation nor mmdetection'),
        (['other.pth', 'o.pth', '--to', 'official'], r'these 1 tensors \(weight, ...\) have no names of a model'),
        (['w.pth', 'o.pth', '--to', 'mm', '--from', 'PVT v2, tim'], "origin 'PVT v2, tim' is unknown; did you mean"),
    ):
        paths = [tmp_path / name for name in arguments[:2]]
        done = tool('convert_checkpoint', *paths, *arguments[2:])
        assert done.status == 2, arguments
        assert re.fullmatch(rf'error: .*{message}.*\n', done.err), done.err
        assert done.out == ''
    assert not (tmp_path / 'o.pth').exists()
    assert (tmp_path / 'old.pth').stat().st_size == 0
    assert tool('convert_checkpoint', tmp_path / 'w.pth', tmp_path / 'old.pth', '--to', 'mm', '--force').status == 0
    assert 'layers.3.2.weight' in contents(tmp_path / 'old.pth')


def test_origin_by_name(tool, tmp_path):
    """Said, it is believed; and what does not have its names is then nobody's."""
    names = export_weights(classifier(), 'timm')
    torch.save(names, tmp_path / 'w.pth')
    arguments = (tmp_path / 'w.pth', tmp_path / 'o.pth', '--to', 'official', '--from')
    done = tool('convert_checkpoint', *arguments, 'PVT v2, timm')
    assert done.status == 0 and done.out.startswith('from PVT v2, timm: 102 tensors\n')
    assert tool('convert_checkpoint', *arguments, 'densevit', '--force').status == 2


def test_a_file_that_wants_to_run_code(tool, tmp_path):
    mark = hostile(tmp_path / 'w.pth', {'state_dict': classifier().state_dict()})
    arguments = (tmp_path / 'w.pth', tmp_path / 'o.pth', '--to', 'official')
    done = tool('convert_checkpoint', *arguments)
    assert done.status == 2 and '--trust-checkpoint' in done.err
    assert not mark.exists() and not (tmp_path / 'o.pth').exists()
    assert tool('convert_checkpoint', *arguments, '--trust-checkpoint').status == 0
    assert mark.exists()
