"""Learned aggregation in place of average pooling on a model of timm."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from densevit import ImageClassifier, TimmBackbone
from densevit.analysis.complexity import complexity
from tests.backbones.contract import fill, images

ROOT = Path(__file__).resolve().parents[2]


def test_resnet_50_costs_what_the_article_says():
    """Touvron et al., https://arxiv.org/abs/2112.13692: 4.1 GMACs with average pooling, 4.6 with the aggregation."""
    with torch.device('meta'):
        average, learned = (
            ImageClassifier(dict(type='densevit.TimmBackbone', model_name='resnet50'), pool)
            for pool in ('average', 'learned')
        )
    cost = [complexity(model, (224, 224))['total'] for model in (average, learned)]
    assert [each.macs / 1e9 for each in cost] == pytest.approx([4.1, 4.6], abs=0.07)
    # timm's ResNet-50, and a norm
    assert cost[0].params == 25_557_032 + 2 * 2048
    # query, four projections, a feed-forward part three times as wide, and two norms and two factors per channel more
    width = 2048
    attention, mlp = 4 * (width**2 + width), 6 * width**2 + 4 * width
    assert cost[1].params - cost[0].params == width + attention + mlp + 4 * width + 2 * width


def _explain_tool():
    spec = importlib.util.spec_from_file_location('tool_explain', ROOT / 'tools' / 'explain.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_explain_tool_draws_its_attention(tmp_path, capsys):
    model = fill(ImageClassifier(TimmBackbone('test_resnet', out_indices=(-1,)), 'learned', 5)).eval()
    logits, aggregate = model.explain(images(1, 3, 67, 96))
    assert logits.shape == (1, 5)
    assert aggregate.weights.shape == (1, 1, 1, 1 + 3 * 3)
    torch.testing.assert_close(aggregate.weights.sum(-1), torch.ones(1, 1, 1))
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / 'a.png')
    tool = _explain_tool()
    files = [str(tmp_path / name) for name in ('model.pth', 'a.png')]
    argv = ['densevit.TimmBackbone:test_resnet', *files, '--out', str(tmp_path / 'out'), '--size', '96']
    assert tool.run_tool(tool.parser(), tool.main, argv) == 0, capsys.readouterr()
    assert (tmp_path / 'out' / 'a_attention.png').is_file()
    assert (tmp_path / 'out' / 'a.json').is_file()


@pytest.mark.parametrize('more', [[], ['--layers', 'all']], ids=['map', 'layers'])
def test_the_explain_tool_says_that_timm_records_no_attention(more, tmp_path, capsys):
    """timm's own file is of the right model, and yet there is nothing in it to draw."""
    torch.save(timm.create_model('test_vit').state_dict(), tmp_path / 'timm.pth')
    Image.new('RGB', (60, 40)).save(tmp_path / 'a.png')
    files = [str(tmp_path / name) for name in ('timm.pth', 'a.png')]
    tool = _explain_tool()
    argv = ['densevit.TimmBackbone:test_vit', *files, '--out', str(tmp_path / 'out'), *more]
    assert tool.run_tool(tool.parser(), tool.main, argv) == 2
    message = capsys.readouterr().err
    assert "timm's models" in message
    assert "pool='learned'" in message


def test_a_timm_model_has_no_class_token_of_ours():
    with pytest.raises(ValueError, match='TimmBackbone has no class token'):
        ImageClassifier(TimmBackbone('test_resnet', out_indices=(-1,)), 'cls_token')
