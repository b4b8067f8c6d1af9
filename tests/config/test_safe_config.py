"""Configs of others: as data they are what they are as programs, and those that would do something are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.registry import registry as mmengine_registry

from densevit.config.reading import configs_dir, load_config
from densevit.config.safe_config import read_as_data
from densevit.config.safe_parts import guard
from densevit.errors import UserError

mmseg = pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

# reading all of them in both ways takes half a minute
STEP = 1 if os.environ.get('DENSEVIT_TEST_SCALE') else 8
SHIPPED = sorted(configs_dir().glob('*.py'))


def same(file: Path) -> Config:
    program, data = Config.fromfile(file), read_as_data(file, configs_dir())
    assert repr(data.to_dict()) == repr(program.to_dict())  # tuples are tuples, whole numbers whole
    assert data.text == program.text
    assert data.env_variables == program.env_variables
    return data


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A config of this text, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine').mkdir()

    def write(text: str, name: str = 'mine/config.py') -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# ------------------------------------------------------------------------------------------------------- what is plain
def test_shipped_configs_are_the_same(monkeypatch):
    monkeypatch.setenv('DENSEVIT_DATA', '/data')
    kinds = {file.stem.rpartition('_')[2]: file for file in SHIPPED}
    for file in {*SHIPPED[::STEP], *kinds.values()}:
        same(file)


def test_what_plain_configs_are_made_of(written, monkeypatch):
    monkeypatch.setenv('SIZE', '4')
    written('x = dict(y=[1, dict(z=2)], w=dict(v=1))\npipeline = [1, 2, 3]\nlist_of = [dict(a=1)]', 'mine/base.py')
    same(
        written(
            """
'''Docstring.'''
_base_ = ['./base.py']
number: int = {{'$SIZE:3'}} * 2 + 1 - -3 // 2
root = '{{$NOWHERE:data}}/{{ fileBasenameNoExtension }}'
a = b = f'{root}/{number}.json'
names = {f'stage{i}.{j}': dict(lr=0.1 ** i, pair=(i, j)) for i, depth in enumerate([1, 2]) for j in range(depth)}
names.update({'more': None})
scales = [(1333, side) for side in range(480, 801, 32)]
many = [*scales[:2], *[dict(**x, y=True) for x in [dict(q=1)]]] + ['-'] * 3
length = len(many) + sum([1, 2]) + int(2.7)
x = dict(y=_base_.x.y[1]['z'], w=dict(_delete_=True, u={'s', 's'}))
copied = {{_base_.pipeline}}
_base_.list_of[0].a = 5
flag = not True
"""
        )
    )


@pytest.mark.parametrize('suffix', ['.json', '.yaml'])
def test_data_formats(written, suffix):
    written('model = dict(a=1, b=dict(c=2))', 'mine/base.py')
    text = json.dumps(
        dict(_base_='base.py', model=dict(b=dict(_delete_=True, d='{{ fileBasename }}')), n=[1, 2.5, None])
    )
    cfg = same(written(text, f'mine/config{suffix}'))
    assert cfg.model.b == dict(d=f'config{suffix}')


def test_configs_of_the_mm_packages(written):
    base = Path(mmseg.__file__).parent / '.mim/configs/_base_/models/upernet_r50.py'
    same(written(f'_base_ = {str(base)!r}\nmodel = dict(decode_head=dict(num_classes=2))'))


# ---------------------------------------------------------------------------------------------------- what does things
HARM = "__import__('os').mkdir('harm')"
CODE = [
    f'x = {HARM}',
    HARM,
    "import os\nx = os.mkdir('harm')",
    "from os import mkdir\nx = mkdir('harm')",
    'from mmengine.config import read_base\nwith read_base():\n    from .evil import *',
    "x = getattr(__builtins__, 'open')('harm', 'w')",
    "x = ().__class__.__base__.__subclasses__()",
    "x = ''.join.__self__",
    f'x = [{HARM} for _ in (1,)]',
    f'x = [i for i in (1,) if {HARM}]',
    f'x = (lambda: {HARM})()',
    'x = dict(a=lambda: 1)',
    f'(x := {HARM})',
    'x = (y := 1)',
    f'def f():\n    {HARM}\nf()',
    f'@{HARM}\ndef f(): pass',
    f'class A(metaclass={HARM}): pass',
    f'for i in (1,):\n    {HARM}',
    f'if 1:\n    {HARM}',
    f'assert {HARM}',
    f'try:\n    {HARM}\nexcept: pass',
    f"x = f'{{{HARM}}}'",
    "x = f'{1:1000000000}'",
    "x = f'{1!r}'",
    "x = '{0.__class__}'.format(1)",
    "x = '%1000000000d' % 1",
    f'x = 1 if {HARM} else 2',
    f'x: {HARM} = open(1)',
    f'x = dict(*[{HARM}])',
    "x = '{{$NOT_SET:__import__('os').mkdir('harm')}}'",
    "x = {{'$NOT_SET:__import__(chr(111)+chr(115)).mkdir(chr(104))'}}",
    f'_base_ = [{HARM}]',
    'dict = open\nx = dict(file="harm", mode="w")',
    'x = type("A", (), {})',
    'x = exec("1")',
    'x = print(1)',
    'x = await y',
    'x = b"bytes"',
    'x = ...',
    'x = 1j',
    'x = {}\nx.update([(1, 2)])',
    'x = []\nx.append(1)',
    'x, y = 1, 2',
    'x = [1]\nx[0] = 2',
    'x = dict(a=1)\nx.a = 2',
    'x = dict(a=1).a',
    'del x',
    'x += 1',
    'x = 1 +',
    '\x00',
    'x = 1 / 0',
    'x = [1][2]',
    'x = y',
    'filename = 1',
    'class',
]  # fmt: skip
# too much of something; all of them would take minutes or gigabytes if they ran
BOMBS = [
    'x = 9 ** 9 ** 9',
    'x = 9 ** 9 ** 9 ** 9',
    "x = 'a' * 10 ** 10",
    "x = 'a' * 999999 + 'a' * 999999",
    'x = [0] * 10 ** 9',
    'x = [[0] * 1000 for _ in range(10 ** 5)]',
    'x = list(range(10 ** 9))',
    'x = range(10 ** 30)',
    'x = sum(range(10 ** 10))',
    'x = [0 for _ in range(10 ** 9)]',
    'x = [0 for _ in range(10 ** 5) for _ in range(10 ** 5)]',
    'x0 = [0] * 9\n' + '\n'.join(f'x{i + 1} = [x{i}] * 9' for i in range(20)),
    'x0 = [0]\n' + '\n'.join(f'x{i + 1} = [x{i}, x{i}]' for i in range(40)),
    "x0 = 'a'\n" + '\n'.join(f'x{i + 1} = x{i} + x{i}' for i in range(40)),
    "x0 = 'a'\n" + '\n'.join(f"x{i + 1} = f'{{x{i}}}{{x{i}}}'" for i in range(40)),
    'x = 2 ** 1000\n' + 'x = x * x\n' * 40,
    '[' * 150 + ']' * 150,
    'x = ' + '[' * 90 + ']' * 90,
    'x = ' + '-' * 50_000 + '1',
    'x = ' + '1+' * 50_000 + '1',
    'x = a' + '.b' * 50_000,
    'x = dict()\nx.update(dict(a=x, b=x))',
    'x = 1 #' + ' ' * 1_000_001,
    'x = [' + '0,' * 400_000 + ']\ny = [x, x, x]',
    "_base_ = './config.py'",
    "_base_ = ['./config.py'] * 1000",
]


@pytest.mark.parametrize('text', [*CODE, *BOMBS], ids=lambda text: ascii(text[:40]))
def test_refused(written, text):
    file = written(text)
    with guard(), pytest.raises(UserError) as error:
        load_config(file)
    message = str(error.value)
    assert str(file) in message
    assert len(message) < 600 and '\n' not in message
    assert os.listdir() == ['mine'] and os.listdir('mine') == ['config.py']


def test_how_many():
    assert len(CODE) + len(BOMBS) + len(NAMED) >= 100


def test_bombs_of_other_formats(written):
    names = '\n'.join(f'x{i + 1}: &x{i + 1} [*x{i}, *x{i}]' for i in range(40))
    for name, text in {
        'alias.yaml': f'x0: &x0 [0]\n{names}',
        'merge.yaml': 'x0: &x0 {k: v}\n' + names.replace('[', '{<<: [').replace(']', ']}'),
        'itself.yaml': 'x: &x [*x]',
        'code.yaml': "x: !!python/object/apply:os.mkdir ['harm']",
        'list.yaml': '- 1',
        'keys.yaml': '1: 2',
        'date.yaml': 'x: 2020-01-01',
        'deep.json': '{"x": ' + '[' * 90_000 + ']' * 90_000 + '}',
        'broken.json': '{',
        'other.toml': 'x = 1',
    }.items():
        file = written(text, f'mine/{name}')
        with guard(), pytest.raises(UserError, match='mine'):
            load_config(file)
    assert os.listdir() == ['mine']


def test_bases_stay_where_they_may_be(written, tmp_path):
    written('x = 1', 'outside.py')
    Path('mine/link.py').symlink_to('../outside.py')
    for base in ('../outside.py', str(tmp_path / 'outside.py'), './link.py', '/dev/zero', 'os::path', '/etc/passwd'):
        with guard(), pytest.raises(UserError, match='neither shipped|in packages'):
            load_config(written(f'_base_ = {base!r}'))
    with guard(), pytest.raises(UserError, match='no base|does not exist'):
        load_config(written("_base_ = './absent.py'"))
    with guard(), pytest.raises(UserError, match=r"inner.py', line 2: .*does something"):
        written('x = 1\nimport os', 'mine/inner.py')
        load_config(written("_base_ = './inner.py'"))
    chain = [
        written(f"_base_ = ['./{i + 1}.py', './{i + 1}{i + 1}.py']", f'mine/{n}.py')
        for i in range(9)
        for n in (i, f'{i}{i}')
    ]
    with guard(), pytest.raises(UserError, match='more than 50|two of its bases|no base|not exist'):
        load_config(chain[0])


# what is a value, but names code, a place or a machine
NAMED = [
    ("model = dict(type='os.system')", 'no part of'),
    ("model = dict(type='builtins.eval')", 'no part of'),
    ("model = dict(type='subprocess.Popen', args=['touch', 'harm'])", 'no part of'),
    ("model = dict(type='evil.Model')", 'no part of'),
    ("model = dict(type='mmengine.utils.misc.import_modules_from_strings')", 'no part of'),
    ("model = dict(type='mmengine.load', file='evil.pkl')", "no model is called 'mmengine.load'"),
    ("model = dict(backbone=dict(type='mmengine.Config'))", "no model is called 'mmengine.Config'"),
    ("model = dict(type='torch.hub.load')", 'no part of'),
    ("model = dict(test_cfg=dict(nms=dict(type='__import__(\"os\").mkdir(\"harm\")')))", 'no part of'),
    ("model = dict(test_cfg=dict(nms=dict(type='exec')))", 'function of Python'),
    ("train_dataloader = dict(collate_fn=dict(type='os.system'))", 'no part of'),
    ("optim_wrapper = dict(constructor='evil.Builder')", 'no part of'),
    ("default_scope = 'evil'", 'none of the packages'),
    ("default_scope = 'evil.inner'", 'no part of'),
    ("model = dict(_scope_='evil', type='X')", 'none of the packages'),
    ("custom_imports = dict(imports=['evil'])", 'would run'),
    ("custom_imports = dict(imports='evil')", 'would run'),
    ("custom_hooks = [dict(type='RFSearchHook')]", 'evaluates text'),
    ("visualizer = dict(type='Visualizer', vis_backends=[dict(type='WandbVisBackend')])", 'other machines'),
    ("train_dataloader = dict(dataset=dict(ann_file='https://evil.example/x.pkl'))", 'an address'),
    ("load_from = 'http://evil.example/{{$HOME:x}}'", 'an address'),
    ("load_from = 'https://github.com.evil.example/x'", 'an address'),
    ("train_dataloader = dict(dataset=dict(backend_args=dict(backend='http')))", 'another machine'),
    ("work_dir = '/root/.ssh'", 'outside the work dir'),
    ("work_dir = '../elsewhere'", 'outside the work dir'),
    ("custom_hooks = [dict(type='densevit.PictureHook', folder='/srv')]", 'outside the work dir'),
    ("default_hooks = dict(checkpoint=dict(out_dir='~/x'))", 'outside the work dir'),
    ("val_evaluator = dict(type='DumpResults', out_file_path='x.pkl')", 'writes where it likes'),
    ("val_evaluator = dict(outfile_prefix='/tmp/x')", 'outside the work dir'),
    ("env_cfg = dict(mp_cfg=dict(mp_start_method='spawn'))", 'not forked'),
    ('model = {"a\': open(1), \'b": 1}', 'quotes'),
]  # fmt: skip


@pytest.mark.parametrize(('text', 'message'), NAMED, ids=lambda text: text[:50])
def test_names(written, text, message):
    file = written(text)
    Path('evil').mkdir()
    for module in ('evil.py', 'evil/__init__.py', 'evil/registry.py'):
        Path(module).write_text("import os\nos.mkdir('harm')")
    with guard(), pytest.raises(UserError, match=message):
        load_config(file)
    assert not Path('harm').exists()


def test_guard(tmp_path):
    """However a name gets there: nothing is imported, no pickle is read."""
    before = mmengine_registry.get_object_from_string, mmengine_registry.import_module, dict(fileio.io.file_handlers)
    file = tmp_path / 'x.pkl'
    fileio.dump([1], file)
    (tmp_path / 'x.yaml').write_text('!!python/object/apply:os.getcwd []')
    with guard():
        with pytest.raises(RuntimeError, match='Failed to get'):
            MODELS.get('os.system')
        with pytest.raises(UserError, match='pickle is refused'):
            fileio.load(file)
        with pytest.raises(Exception, match='could not determine a constructor'):
            fileio.load(tmp_path / 'x.yaml')
        assert MODELS.get('densevit.SwinTransformer') is not None
    after = mmengine_registry.get_object_from_string, mmengine_registry.import_module, dict(fileio.io.file_handlers)
    assert after == before
    assert fileio.load(file) == [1]
