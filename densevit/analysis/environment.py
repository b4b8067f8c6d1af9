"""What this machine has, what of it works and what to do about the rest; ``tools/doctor.py`` prints it.

Only Python's standard library is imported at the top, and nothing of densevit: the doctor loads this file by its
path, so that it can speak where torch or mmengine is missing and ``import densevit`` itself fails.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

__all__ = ['Check', 'check_machine', 'mm_conflicts', 'require_one_mm_line', 'to_json', 'to_text']

# The versions that the tests ran with: the bounds of requirements/*.txt, lower inclusive, upper exclusive.
TESTED: dict[str, tuple[str, str | None]] = {
    'torch': ('2.11', '2.16'),
    'torchvision': ('0.26', None),
    'numpy': ('2', None),
    'timm': ('1.0', None),
    'opencv-python-headless': ('4.10', None),
    'pycocotools': ('2.0.8', None),
    'faster-coco-eval': ('1.7', None),
    'safetensors': ('0.4', None),
    'onedl-mmengine': ('0.10.12', '1'),
    'onedl-mmcv': ('2.3.6', '3'),
    'onedl-mmsegmentation': ('1.4.2', '2'),
    'onedl-mmdetection': ('3.5.1', '4'),
}
PYTHONS = ('3.10', '3.14')

# Import name: the maintained distribution, the original ones that put files in the same place, what must import.
MM_PACKAGES: dict[str, tuple[str, tuple[str, ...], str]] = {
    'mmengine': ('onedl-mmengine', ('mmengine', 'mmengine-lite'), 'mmengine.runner'),
    'mmcv': ('onedl-mmcv', ('mmcv', 'mmcv-full', 'mmcv-lite'), 'mmcv.transforms'),
    'mmseg': ('onedl-mmsegmentation', ('mmsegmentation',), 'mmseg.models'),
    'mmdet': ('onedl-mmdetection', ('mmdet',), 'mmdet.models'),
}
MM_TASKS = {'mmseg': 'segmentation', 'mmdet': 'detection'}

State = Literal['ok', 'warning', 'problem']


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report; a ``problem`` is what keeps a training from running."""

    name: str
    state: State
    found: str
    advice: str = ''


def check_machine() -> list[Check]:
    """Look at everything, in the order in which one thing needs another. Takes some seconds: it imports torch."""
    checks = [
        _guarded('python', check_python),
        _guarded('machine', check_computer),
        _guarded('densevit', check_densevit),
        _guarded('torch', check_torch),
        _guarded('torchvision', check_torchvision),
        _guarded('OpenCV', check_opencv),
    ]
    for distribution, module in (
        ('numpy', 'numpy'),
        ('timm', 'timm.layers'),
        ('pycocotools', 'pycocotools.mask'),
        ('faster-coco-eval', 'faster_coco_eval'),
        ('safetensors', 'safetensors.torch'),
    ):
        checks.append(_guarded(distribution, lambda d=distribution, m=module: check_package(d, m)))
    checks += [_guarded(name, lambda n=name: check_mm(n)) for name in MM_PACKAGES]
    checks.append(_guarded('mmcv ops', check_ops))
    checks += [check_optional(name, f'tools/train.py --{name}') for name in ('tensorboard', 'wandb')]
    checks.append(check_compiler())
    return checks


def check_python() -> Check:
    """The Python that runs this, and where it lies."""
    found = f'{platform.python_version()}, {sys.executable}'
    if _in_range(platform.python_version(), PYTHONS):
        return Check('python', 'ok', found)
    if _numbers(platform.python_version()) < _numbers(PYTHONS[0]):
        return Check('python', 'problem', found, 'densevit needs Python 3.10 or newer')
    return Check('python', 'warning', found, 'tested with 3.10 to 3.13')


def check_computer() -> Check:
    """Cores, and the shared memory through which data loader processes hand over their batches."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found = f'{platform.system()} {platform.machine()}, {cores} CPU cores'
    if os.path.isdir('/dev/shm') and (size := shutil.disk_usage('/dev/shm').total) < 1e9:
        advice = 'start the container with --shm-size=8g, or train with train_dataloader.num_workers=0'
        return Check('machine', 'warning', f'{found}, only {size / 1e6:.0f} MB of shared memory', advice)
    return Check('machine', 'ok', found)


def check_densevit() -> Check:
    """The package and its registry import."""
    with _quiet():
        package = import_module('densevit')
        import_module('densevit.registry')
    return Check('densevit', 'ok', f'{package.__version__}, {Path(package.__file__).parent}')


def check_torch() -> Check:
    """torch, and the GPUs that it can use."""
    check = check_package('torch', 'torch')
    if check.state == 'problem':
        return check
    torch = import_module('torch')
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        torch.zeros(1, device='cuda')  # a GPU that this build has no kernels for fails here
        gpus = ', '.join(f'{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)' for gpu in names)
        return Check('torch', check.state, f'{check.found}, CUDA {torch.version.cuda}: {gpus}', check.advice)
    if torch.version.cuda and (shutil.which('nvidia-smi') or os.path.exists('/proc/driver/nvidia')):
        advice = f'update the driver to one for CUDA {torch.version.cuda}, or install a torch for an older CUDA'
        return Check('torch', 'warning', f'{check.found}, has an NVIDIA driver and cannot use it', advice)
    return Check('torch', check.state, f'{check.found}, no GPU: trains on the CPU', check.advice)


def check_torchvision() -> Check:
    """torchvision, with a call of one of its compiled operators: those stand in for mmcv's."""
    check = check_package('torchvision', 'torchvision')
    if check.state == 'problem':
        return check
    torch, torchvision = import_module('torch'), import_module('torchvision')
    for device in ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]:
        boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 2.0]], device=device)
        try:
            kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9], device=device), 0.5)
        except Exception as error:
            advice = 'torch and torchvision must come from one source: pip install --force-reinstall torch torchvision'
            return Check('torchvision', 'problem', f'{check.found}, nms fails on {device}: {_line(error)}', advice)
        if kept.tolist() != [1]:
            return Check('torchvision', 'problem', f'{check.found}, nms is wrong on {device}', 'install it again')
    return Check('torchvision', check.state, f'{check.found}, nms works', check.advice)


def check_opencv() -> Check:
    """OpenCV's build: opencv-python and opencv-python-headless share a folder, and the last installed is in place."""
    installed = {name: _version(name) for name in ('opencv-python-headless', 'opencv-python')}
    wanted = installed['opencv-python-headless'] or installed['opencv-python']
    pin = f'=={wanted}' if wanted else ''
    advice = f'pip install --force-reinstall --no-deps opencv-python-headless{pin}'
    try:
        with _quiet():
            cv2 = import_module('cv2')
    except ImportError as error:
        return Check('OpenCV', 'problem', _line(error), advice)
    gui = opencv_gui(cv2.getBuildInformation())
    if gui != 'NONE':
        found = f'{cv2.__version__}, built for windows ({gui}): fails where libGL is missing'
        return Check('OpenCV', 'warning', found, advice)
    return Check('OpenCV', 'ok', f'{cv2.__version__}, headless')


def opencv_gui(build_information: str) -> str:
    """The window system of an OpenCV build: ``NONE`` for a headless one, else ``QT5``, ``GTK3``, ..."""
    match = re.search(r'^\s*GUI:\s*(\S+)', build_information, re.MULTILINE)
    return match.group(1) if match else 'unknown'


def check_package(distribution: str, module: str) -> Check:
    """A package that densevit itself needs: installed, tested in this version, importable."""
    found = _version(distribution)
    bounds = TESTED[distribution]
    if found is None:
        return Check(distribution, 'problem', 'not installed', f"pip install '{_requirement(distribution)}'")
    try:
        with _quiet():
            import_module(module)
    except Exception as error:
        advice = f"pip install --force-reinstall '{_requirement(distribution)}'"
        return Check(distribution, 'problem', f'{found}, does not import: {_line(error)}', advice)
    if not _in_range(found, bounds):
        return Check(distribution, 'warning', found, f'tested: {_requirement(distribution)}')
    return Check(distribution, 'ok', found)


def mm_conflicts() -> list[str]:
    """Import names that an original and a onedl distribution both provide, one sentence each.

    pip installs both without a word, and the files of the one overwrite those of the other. pip runs no code of a
    package that it installs and tells a build nothing of the extras asked for, so `pip install .[mm]` cannot stop
    there; the tools do instead. Reads metadata only, some milliseconds.
    """
    conflicts = []
    for module, (ours, originals, _) in MM_PACKAGES.items():
        both = [name for name in originals if _version(name)]
        if both and _version(ours):
            names = ' '.join([*both, ours])
            conflicts.append(
                f'{both[0]} and {ours} are both installed and overwrite each other in {module}/: use a new '
                f'environment, or keep one line of them: pip uninstall -y {names} && pip install {ours}'
            )
    return conflicts


def require_one_mm_line() -> None:
    """Stop where two mm stacks lie on top of each other.

    Raises:
        UserError: :func:`mm_conflicts` found one.
    """
    from densevit.errors import UserError  # not at the top: see the module's docstring

    for conflict in mm_conflicts():
        raise UserError(f'{conflict}.')


def check_mm(module: str) -> Check:
    """An mm package: which line, tested in this version, importable with all its models."""
    ours, originals, probe = MM_PACKAGES[module]
    original = next((name for name in originals if _version(name)), None)
    for conflict in mm_conflicts():
        if f' in {module}/: ' in conflict:
            found, _, advice = conflict.partition(': ')
            return Check(module, 'problem', found, advice)
    name = ours if _version(ours) else original
    if name is None:
        advice = f"pip install '{_requirement(ours)}'"
        needed = module not in MM_TASKS or not any(_mm_version(other) for other in MM_TASKS)
        if needed:
            return Check(module, 'problem', 'not installed', advice)
        return Check(module, 'warning', f'not installed: no {MM_TASKS[module]}', advice)
    found = f'{name} {_version(name)}'
    try:
        with _quiet():
            import_module(probe)
    except Exception as error:
        return Check(module, 'problem', f'{found}, {probe} does not import: {_line(error)}', _import_advice(name))
    if name != ours:
        return Check(module, 'warning', f'{found} (original)', f'tested: {_requirement(ours)}, in a new environment')
    if not _in_range(_version(ours), TESTED[ours]):
        return Check(module, 'warning', found, f'tested: {_requirement(ours)}')
    return Check(module, 'ok', found)


def check_ops() -> Check:
    """Where mmcv's nms and roi_align come from: compiled, or torchvision's."""
    with _quiet():
        state = import_module('densevit.compat').ops_state()
    if state.source == 'missing':
        return Check('mmcv ops', 'problem', f'none: {state.detail}', 'mend the other problems first')
    if state.source == 'compiled':
        return Check('mmcv ops', 'ok', f'compiled, all of them: {state.detail}')
    found = f'nms and roi_align of torchvision {state.detail}; Mask R-CNN and UperNet need no more'
    return Check('mmcv ops', 'ok', found)


def check_optional(distribution: str, use: str) -> Check:
    """A package that only one flag needs."""
    found = _version(distribution)
    return Check(distribution, 'ok', found or f'not installed: only {use} needs it')


def check_compiler() -> Check:
    """A C++ compiler, for torch.compile alone."""
    found = next((path for name in ('g++', 'clang++') if (path := shutil.which(name))), None)
    return Check('compiler', 'ok', found or 'none: only torch.compile on the CPU needs one')


def is_ready(checks: Iterable[Check]) -> bool:
    """Whether nothing keeps a training from running."""
    return all(check.state != 'problem' for check in checks)


def to_json(checks: Sequence[Check]) -> str:
    """The report for programs: ``{"ready": ..., "checks": [{"name", "state", "found", "advice"}, ...]}``."""
    return json.dumps({'ready': is_ready(checks), 'checks': [asdict(check) for check in checks]}, indent=1)


def to_text(checks: Sequence[Check]) -> str:
    """The report for people: a line per check, what to do in the line below it."""
    marks = {'ok': 'ok     ', 'warning': 'warning', 'problem': 'PROBLEM'}
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f'{marks[check.state]}  {check.name:{width}}  {check.found}')
        if check.advice:
            lines.append(f'{"":7}  {"":{width}}  -> {check.advice}')
    problems = [check.name for check in checks if check.state == 'problem']
    warned = [check.name for check in checks if check.state == 'warning']
    end = f'Not ready to train: {", ".join(problems)}.' if problems else 'Ready to train.'
    return '\n'.join([*lines, '', end + (f' Look at: {", ".join(warned)}.' if warned else '')])


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """The result of ``check``; whatever it raises is a problem, too, and the other checks go on."""
    try:
        return check()
    except Exception as error:  # a broken binary can raise anything
        return Check(name, 'problem', _line(error), 'mend the other problems first, then run this again')


@contextlib.contextmanager
def _quiet():
    """Imports without what the mm packages print and warn meanwhile."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter('ignore')
        yield


def _line(error: BaseException) -> str:
    """An exception in one line of readable length."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f'{text[:157]}...'


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _mm_version(module: str) -> str | None:
    ours, originals, _ = MM_PACKAGES[module]
    return next((found for name in (ours, *originals) if (found := _version(name))), None)


def _import_advice(name: str) -> str:
    return f'mend the other problems first; if it stays: pip install --force-reinstall --no-deps {name}'


def _requirement(distribution: str) -> str:
    low, high = TESTED[distribution]
    return f'{distribution}>={low}' + (f',<{high}' if high else '')


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, '2.15.0+cu130' is (2, 15, 0); packaging may be missing here."""
    match = re.match(r'\d+(\.\d+)*', text)
    return tuple(int(part) for part in match.group().split('.')) if match else ()


def _in_range(found: str, bounds: tuple[str, str | None]) -> bool:
    low, high = bounds
    return _numbers(low) <= _numbers(found) and (high is None or _numbers(found) < _numbers(high))
