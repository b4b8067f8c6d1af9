"""Checkpoint files: every container that trainers write, and every file that must be refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from densevit.checkpoints import CheckpointError, read_state_dict
from densevit.errors import UserError

TENSORS = {'a.weight': torch.arange(6.0).reshape(2, 3), 'b': torch.tensor(3)}


def assert_read(found: dict) -> None:
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize('nest', [
    lambda t: t,
    lambda t: {'model': t, 'epoch': 3},
    lambda t: {'state_dict': t, 'meta': {'epoch': 3}, 'optimizer': {'lr': 0.1}},
    lambda t: {'model': {'a.weight': torch.zeros(9)}, 'model_ema': t},
    lambda t: {'state_dict': {'a.weight': torch.zeros(9)}, 'state_dict_ema': t},
    lambda t: {f'module.{name}': tensor for name, tensor in t.items()},
    lambda t: {'state_dict': {f'module.{name}': tensor for name, tensor in t.items()}},
    lambda t: {**t, 'epoch': 7},
], ids=['flat', 'model', 'state_dict', 'model_ema', 'state_dict_ema', 'module', 'module in it', 'more'])  # fmt: skip
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_torch_files(tmp_path, nest, zipped):
    torch.save(nest(dict(TENSORS)), tmp_path / 'w.pth', _use_new_zipfile_serialization=zipped)
    assert_read(read_state_dict(tmp_path / 'w.pth'))
    assert_read(read_state_dict(str(tmp_path / 'w.pth')))


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / 'w.safetensors')
    assert_read(read_state_dict(tmp_path / 'w.safetensors'))


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(TENSORS, tmp_path / 'w.pth')
    assert_read(read_state_dict('~/w.pth'))


@pytest.mark.parametrize('suffix', ['pth', 'pt', 'safetensors'])
@pytest.mark.parametrize('content', ['empty', 'text', 'html', 'noise', 'half', 'one byte'])
def test_files_that_are_no_checkpoint(tmp_path, suffix, content):
    file = tmp_path / f'w.{suffix}'
    (save_file if suffix == 'safetensors' else torch.save)(TENSORS, file)
    whole = file.read_bytes()
    file.write_bytes({
        'empty': b'', 'text': b'hello world, this is not it\n' * 50, 'html': b'<!DOCTYPE html><html>404</html>',
        'noise': bytes(range(256)) * 20, 'half': whole[: len(whole) // 2], 'one byte': b'\x80',
    }[content])  # fmt: skip
    with pytest.raises(CheckpointError, match=rf'w\.{suffix}'):
        read_state_dict(file)


@pytest.mark.parametrize('content', [{}, {'epoch': 3}, [1, 2], torch.zeros(3), {'model': {}}, {'state_dict': {'a': 1}}])
def test_nothing_in_it(tmp_path, content):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match=r'w\.pth.*holds no tensors'):
        read_state_dict(tmp_path / 'w.pth')


def test_no_file(tmp_path):
    for path in (tmp_path / 'none.pth', tmp_path):
        with pytest.raises(CheckpointError, match='does not exist'):
            read_state_dict(path)
    assert issubclass(CheckpointError, UserError) and issubclass(CheckpointError, ValueError)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'<html>not found</html>', 'no checkpoint: it begins with'),
        (b'{"error": 404}', 'no checkpoint: it begins with'),
    ],
)
def test_what_is_no_pickle_is_not_said_to_run_code(tmp_path, content, message):
    path = tmp_path / 'w.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_state_dict(path)
    assert 'trust' not in str(refusal.value)


def test_safetensors_by_another_name(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / 'w.safetensors'
    save_file({'a': torch.zeros(2)}, path)
    path.rename(tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='rename it to .safetensors'):
        read_state_dict(tmp_path / 'w.pth')
