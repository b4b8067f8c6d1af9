"""The runner's checkpoints, log and visualizers."""

from __future__ import annotations

import builtins
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner as MMRunner
from torch import nn

from densevit.check.model import check_channels
from densevit.checkpoints import CheckpointError, read_checkpoint, read_state_dict
from densevit.checkpoints.atomic import digest_file
from densevit.checkpoints.safe import guard
from densevit.config.reading import load_config
from densevit.data.loading import name_unreadable_files
from densevit.engine.distributed import SameBuffersHook
from densevit.engine.runner import Runner, build_runner
from densevit.errors import UserError
from densevit.launched import is_main_process
from tests.scope import scope_restored


@MODELS.register_module(force=True)
class RunnerToy(BaseModel):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(2, width)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return [data_samples] if mode == 'predict' else {'loss': self.layer.weight.sum()}


@MODELS.register_module(force=True)
class RunnerToyTTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@MODELS.register_module(force=True)
class NewClasses(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone, self.decode_head = nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, *args, **kwargs):
        return {}


@MODELS.register_module(force=True)
class Refusing(BaseModel):
    def __init__(self, error, wrapped):
        super().__init__()
        kind = getattr(builtins, error)
        try:
            raise kind('width must be odd')
        except kind as inner:
            if not wrapped:
                raise
            raise kind(f'class `Toy` in toy.py: {inner}')  # noqa: B904  (as some builders do)

    def forward(self, *args, **kwargs):
        return {}


@DATASETS.register_module(force=True)
class NoSamples:
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise ValueError('a bug')


@DATASETS.register_module(force=True)
class Samples:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(2))


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def toy(work_dir, model=None, **more):
    return Config(dict(model=model or dict(type='RunnerToy'), work_dir=str(work_dir), **more))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'state_dict': {'layer.weight': torch.full((3, 2), 7.0), 'layer.bias': torch.full((3,), 8.0)}}, path)
    return path


@pytest.mark.parametrize(
    'model', [dict(type='RunnerToy'), dict(type='RunnerToyTTA', module=dict(type='RunnerToy'))], ids=['bare', 'tta']
)
def test_weights_reach_the_model(tmp_path, weights, model):
    runner = build_runner(toy(tmp_path, model))
    runner.load_checkpoint(str(weights))
    assert (runner.bare_model.layer.weight == 7).all() and (runner.bare_model.layer.bias == 8).all()


def test_all_or_nothing(tmp_path, weights):
    runner = build_runner(toy(tmp_path, dict(type='RunnerToy', width=4)))
    before = runner.bare_model.layer.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r'layer.weight \(3, 2\) instead of \(4, 2\)'):
        runner.load_checkpoint(str(weights))
    assert torch.equal(runner.bare_model.layer.weight, before)


def test_average_starts_from_what_was_loaded(tmp_path, weights):
    """The hook copies the model before the weights are loaded."""
    hook = dict(type='EMAHook', momentum=0.1)
    runner = build_runner(toy(tmp_path, custom_hooks=[hook]))
    runner.call_hook('before_run')
    runner.load_checkpoint(str(weights))
    (ema,) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert (ema.ema_model.module.layer.weight == 7).all()


def test_weights_alone_cannot_be_resumed(tmp_path, weights):
    runner = build_runner(toy(tmp_path, resume=True, load_from=str(weights)))
    with pytest.raises(CheckpointError, match='--load-from'):
        runner.load_checkpoint(str(weights))


def test_what_mmengine_saves_is_read_without_running_code(tmp_path):
    """Log buffers, numpy scalars and a one-cycle schedule; not what could reach further by the same means."""
    from mmengine.optim import OneCycleLR

    layer = nn.Linear(2, 3)
    schedule = OneCycleLR(torch.optim.SGD(layer.parameters(), lr=0.1), eta_max=0.1, total_steps=9, by_epoch=False)
    buffer = HistoryBuffer([1.5, 2.5], [1, 1])
    path = tmp_path / 'whole.pth'
    torch.save(
        dict(
            state_dict=layer.state_dict(),
            param_schedulers=[schedule.state_dict()],
            message_hub=dict(log_scalars=dict(loss=buffer), runtime_info=dict(eta=torch.tensor([1.0]).numpy()[0])),
        ),
        path,
    )
    assert set(read_state_dict(path)) == {'weight', 'bias'}
    content = read_checkpoint(path)
    assert content['message_hub']['log_scalars']['loss'].mean() == 2.0
    assert content['param_schedulers'][0]['anneal_func'](0.0, 2.0, 0.5) == pytest.approx(1.0)


@pytest.fixture
def resumable(tmp_path):
    """A checkpoint with all that a run can have: schedule, average, log and loss scaler; it, and how to go on."""
    settings = dict(
        train_cfg=dict(by_epoch=False, max_iters=4),
        train_dataloader=dict(dataset=dict(type='Samples'), sampler=dict(type='DefaultSampler'), batch_size=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[dict(type='OneCycleLR', eta_max=0.1, total_steps=4, by_epoch=False)],
        custom_hooks=[dict(type='EMAHook', momentum=0.3)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
    )

    def build(**more):
        return build_runner(toy(tmp_path / 'run', **settings, **more))

    build().train()
    path = tmp_path / 'run/iter_2.pth'
    content = torch.load(path, weights_only=False)
    # as AmpOptimWrapper adds it, which needs a GPU
    content['optimizer']['loss_scaler'] = torch.amp.GradScaler('cpu').state_dict()
    torch.save(content, path)
    digest_file(path).unlink()  # as the message says of a file that one has changed
    return path, content, build


def test_a_run_of_ours_resumes_without_trust(resumable):
    path, content, build = resumable
    parts = {'optimizer', 'param_schedulers', 'message_hub', 'ema_state_dict', 'state_dict', 'meta'}
    assert parts <= set(content) and content['optimizer']['loss_scaler']
    runner = build(resume=True, load_from=str(path))
    runner.call_hook('before_run')
    with guard():
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.load_or_resume()
    assert runner.iter == 2
    assert torch.equal(runner.model.layer.weight, content['ema_state_dict']['module.layer.weight'])
    assert runner.param_schedulers[0].state_dict()['last_step'] == content['param_schedulers'][0]['last_step'] == 2
    assert runner.message_hub.get_scalar('train/loss').data[0].size == 2
    assert runner.optim_wrapper.optimizer.state_dict()['state'][0]['step'] == 2
    runner = build(resume=True, load_from=str(path))
    with guard():
        runner.train()
    assert runner.iter == 4


@pytest.mark.parametrize('part', ['optimizer', 'param_schedulers'])
def test_a_best_checkpoint_is_no_state_to_resume(resumable, part):
    """best_*.pth have no optimizer and no schedule; mmengine would begin both anew without a word."""
    path, content, build = resumable
    torch.save({name: value for name, value in content.items() if name != part}, path)
    runner = build(resume=True, load_from=str(path))
    with pytest.raises(CheckpointError, match=r'as best_\*\.pth do.*--load-from'):
        runner.load_or_resume()


@pytest.mark.parametrize('how', ['load_or_resume', 'resume'])
def test_a_config_in_a_checkpoint_does_not_run(resumable, monkeypatch, tmp_path, how):
    """mmengine executes that text when it resumes."""
    path, content, build = resumable
    mark = tmp_path / 'ran'
    text = f'import os\nos.mkdir({str(mark)!r})\n'
    content['meta'].update(config=text, cfg=text)
    torch.save(content, path)

    def resume():
        asked = dict(resume=True, load_from=str(path)) if how == 'load_or_resume' else {}
        runner = build(**asked)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.call_hook('before_run')
        runner.load_or_resume() if asked else runner.resume(str(path))
        assert runner.iter == 2

    resume()
    assert not mark.exists()
    monkeypatch.setattr(Runner, 'load_checkpoint', MMRunner.load_checkpoint)
    resume()
    assert mark.exists()


def test_two_runs_of_a_process_have_visualizers_of_their_own(tmp_path):
    """mmengine would hand the second run the first one's, which writes into the first one's folder."""
    visualizer = dict(type='Visualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
    first, second = (build_runner(toy(tmp_path / name, visualizer=visualizer)) for name in ('first', 'second'))
    for runner, name in ((first, 'first'), (second, 'second')):
        assert str(tmp_path / name) in str(runner.visualizer.get_backend('LocalVisBackend')._save_dir)
    assert first.logger is not second.logger


def test_environment_is_kept_beside_the_log(tmp_path):
    runner = build_runner(toy(tmp_path))
    (file,) = tmp_path.glob('*/environment.txt')
    assert f'PyTorch: {torch.__version__}' in file.read_text()
    assert str(file.parent) == os.path.realpath(runner.log_dir)


@pytest.mark.parametrize(
    'launcher, variable', [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')]
)
def test_main_process(monkeypatch, launcher, variable):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.setenv(name, '1')  # what another launcher, or none, makes of them does not matter
    cfg = Config(dict(launcher=launcher))
    monkeypatch.setenv(variable, '0')
    assert is_main_process(cfg)
    monkeypatch.setenv(variable, '3')
    assert not is_main_process(cfg)
    assert is_main_process(Config(dict(launcher='none'))) and is_main_process(Config())


def test_buffers_are_sent_before_anything_else(tmp_path, monkeypatch):
    """Those of the model and those of its average."""
    assert SameBuffersHook.priority == 'VERY_HIGH'  # an average swaps its own buffers in at NORMAL
    runner = build_runner(toy(tmp_path, custom_hooks=[dict(type='EMAHook', momentum=0.1)]))
    runner.model.register_buffer('mean', torch.zeros(2))
    runner.call_hook('before_run')
    sent = []
    monkeypatch.setattr('densevit.engine.distributed.broadcast', sent.append)
    SameBuffersHook().before_val_epoch(runner)
    (ema,) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert any(buffer is runner.model.mean for buffer in sent)
    assert any(buffer is ema.ema_model.module.mean for buffer in sent)


@pytest.mark.parametrize('error', [TypeError, ValueError])
def test_a_model_that_refuses_its_arguments_is_the_users_mistake(tmp_path, error):
    for wrapped in (True, False):
        with pytest.raises(UserError, match=r'^model: it cannot be built as the config says: width must be odd$'):
            build_runner(toy(tmp_path, dict(type='Refusing', error=error.__name__, wrapped=wrapped)))


def test_without_workers_settings_of_workers_are_left_out():
    loader = dict(
        dataset=dict(type='NoSamples'), sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=0,
        persistent_workers=True, prefetch_factor=4,
    )  # fmt: skip
    built = Runner.build_dataloader(loader)
    assert built.num_workers == 0 and not built.persistent_workers
    assert loader['persistent_workers']


def test_errors_of_training_stay_as_they_are(tmp_path):
    loader = dict(dataset=dict(type='NoSamples'), sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=0)
    optimizer = dict(optimizer=dict(type='SGD', lr=0.1))
    train = dict(train_cfg=dict(by_epoch=False, max_iters=1), train_dataloader=loader, optim_wrapper=optimizer)
    runner = build_runner(toy(tmp_path, **train))
    with pytest.raises(ValueError, match='^a bug$') as caught:
        runner.train()
    assert not isinstance(caught.value, UserError)


def test_other_classes(tmp_path, weights):
    runner = build_runner(toy(tmp_path, dict(type='NewClasses'), new_classes=True))
    path = tmp_path / 'more.pth'
    torch.save({'backbone.weight': torch.full((2, 2), 7.0), 'decode_head.weight': torch.zeros(5, 2)}, path)
    runner.load_checkpoint(str(path))
    assert (runner.bare_model.backbone.weight == 7).all()
    runner.cfg.new_classes = False
    with pytest.raises(CheckpointError, match='--new-classes'):
        runner.load_checkpoint(str(path))


class _Dataset:
    def __init__(self, *transforms):
        self.pipeline = Compose(list(transforms))


class _Wrapped:
    def __init__(self, *datasets):
        self.datasets = datasets


def test_unreadable_files_are_named(tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'not an image')

    def decode(data):
        raise OSError('cannot identify image file <_io.BytesIO object>')

    inner = _Dataset(decode)
    name_unreadable_files(_Wrapped(inner))
    with pytest.raises(UserError, match='broken.png'):
        inner.pipeline(dict(img_path=str(broken)))
    with pytest.raises(UserError, match='there is no such file'):
        inner.pipeline(dict(img_path=str(tmp_path / 'absent.png')))


def test_other_errors_of_a_pipeline_stay_as_they_are():
    def crash(data):
        raise AssertionError('a bug')

    dataset = _Dataset(crash)
    name_unreadable_files(dataset)
    with pytest.raises(AssertionError, match='a bug'):
        dataset.pipeline({})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.decode_head.in_channels': [96, 192, 384, 1024]}, r'decode_head: in_channels=.*384, 768\] channels'),
        ({'model.auxiliary_head.in_channels': 512}, r'auxiliary_head: in_channels=512.*maps \[2\].*\[384\]'),
        ({'model.backbone.out_indices': (0, 1, 2)}, r'decode_head: in_index=.*returns 3 maps'),
    ],
)
def test_channels_of_heads_are_those_of_the_backbone(options, message):
    cfg = load_config('upernet_swin_ade20k')
    cfg.merge_from_dict({'model.backbone.arch': 'T', **options})
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'), pytest.raises(UserError, match=message):
        check_channels(MODELS.build(cfg.model))


def test_channels_of_a_neck_are_those_of_the_backbone():
    cfg = load_config('mask_rcnn_cvt_coco')
    cfg.merge_from_dict({'model.neck.in_channels': [64, 192, 256]})
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        with pytest.raises(UserError, match=r'neck: in_channels=\[64, 192, 256\].*\[64, 192, 384\]'):
            check_channels(MODELS.build(cfg.model))
