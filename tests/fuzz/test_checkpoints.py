"""Checkpoints of strangers: damaged, cut short, of other kinds, none at all."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from densevit.checkpoints import load_weights, read_checkpoint, read_state_dict
from densevit.checkpoints.atomic import digest_file, write_file
from densevit.checkpoints.newest import check_whole, newest_checkpoint
from densevit.checkpoints.read import unwrap
from densevit.errors import UserError
from tests.fuzz.isolated import begin, fuzz, isolated, peak_memory, refused
from tests.fuzz.mutants import ODD, mutated_bytes, mutated_file, mutated_tree
from tests.fuzz.pictures import zeros

STATE = {'0.weight': torch.ones(3, 4), '0.bias': torch.ones(3), 'half': torch.ones(2).half()}


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


FILES = {
    'new.pth': saved({'state_dict': STATE, 'meta': {'iter': 3, 'epoch': 1}}),
    'old.pth': saved({'model': STATE}, _use_new_zipfile_serialization=False),
    'plain.safetensors': save(STATE),
}


@isolated
def test_damaged_files(tmp_path):
    @fuzz(90, mutated_file(FILES))
    def case(drawn: tuple[str, bytes]) -> None:
        path = tmp_path / drawn[0]
        path.write_bytes(drawn[1])
        refused(read_state_dict, path)
        refused(check_whole, path)


@isolated
def test_contents_that_are_no_weights():
    tree = {'state_dict': dict(STATE), 'meta': {'iter': 3, 'dataset_meta': {'classes': ['a']}}, 'optimizer': {}}
    odd = [*ODD, torch.ones(0), torch.ones(3, 4), torch.tensor(float('nan')), torch.ones(1, dtype=torch.int8)]

    @fuzz(40, mutated_tree(tree, 4, odd))
    def case(content: Any) -> None:
        model = nn.Sequential(nn.Linear(4, 3))
        refused(unwrap, content)
        if isinstance(content, dict):
            refused(load_weights, model, content)


@isolated
def test_folders_of_a_run(tmp_path):
    for name in ('iter_1.pth', 'iter_2.pth'):
        write_file(tmp_path / name, FILES['new.pth'])
    note = tmp_path / 'last_checkpoint'
    names = st.one_of(mutated_bytes(b'iter_2.pth'), st.sampled_from([b'\0', b'a' * 5000, b'/', b'..', b'.']))
    digests = mutated_bytes(digest_file(tmp_path / 'iter_2.pth').read_bytes())

    @fuzz(25, st.tuples(mutated_bytes(FILES['new.pth']), digests, names))
    def case(drawn: tuple[bytes, bytes, bytes]) -> None:
        content, digest, noted = drawn
        (tmp_path / 'iter_2.pth').write_bytes(content)
        digest_file(tmp_path / 'iter_2.pth').write_bytes(digest)
        note.write_bytes(noted)
        found = newest_checkpoint(tmp_path)
        assert found.path is not None  # the first is whole
        check_whole(Path(found.path))

    for number, make in enumerate((os.mkfifo, os.mkdir, lambda path: os.symlink(path, path), Path.touch), 3):
        make(tmp_path / f'iter_{number}.pth')
        begin(f'iter_{number}.pth')
        assert newest_checkpoint(tmp_path).path is not None
        refused(read_checkpoint, tmp_path / f'iter_{number}.pth')
    digest_file(tmp_path / 'iter_1.pth').unlink()
    os.mkfifo(digest_file(tmp_path / 'iter_1.pth'))
    begin('a pipe in place of a hash')
    refused(read_checkpoint, tmp_path / 'iter_1.pth')
    note.unlink()
    os.mkfifo(note)
    begin('a pipe in place of a note')
    refused(newest_checkpoint, tmp_path)


@isolated
def test_files_that_would_fill_the_memory(tmp_path):
    huge = struct.pack('<Q', 2**40) + b'{}'
    header = json.dumps({'a': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}}).encode()
    buffer = io.BytesIO()
    text = b'\x80\x02X' + struct.pack('<I', 2**31 - 1)  # of a pickle, and it does not follow
    with zipfile.ZipFile(io.BytesIO(FILES['new.pth'])) as old, zipfile.ZipFile(buffer, 'w') as new:
        for name in old.namelist():
            new.writestr(name, text if name.endswith('data.pkl') else old.read(name))
    cases = {
        'head.safetensors': huge,
        'shape.safetensors': struct.pack('<Q', len(header)) + header,
        'deep.safetensors': struct.pack('<Q', 50_000) + b'[' * 50_000,
        'text.pth': text,
        'zip.pth': buffer.getvalue(),
        'long.pth': b'\x80\x02\x8a\xff' + b'\xff' * 255 + b'.',
        'deep.pth': b'\x80\x02' + b'(' * 10**5 + b'l' * 10**5 + b'.',
        'zeros.pth': zeros(2**28),
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        begin(name)
        assert peak_memory(lambda path=path: refused(read_state_dict, path)) < 300 * 2**20, name


@pytest.mark.parametrize('given', [each for each in ODD if isinstance(each, str)], ids=lambda given: ascii(given[:9]))
def test_names_of_no_file(given):
    with pytest.raises(UserError):
        read_state_dict(given)
