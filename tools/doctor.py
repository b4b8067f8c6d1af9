#!/usr/bin/env python
"""Say in one screen what this machine has, what works and what to do about the rest.

    python tools/doctor.py
    python tools/doctor.py --json

The exit status is 1 where something keeps a training from running.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def load_environment() -> ModuleType:
    """densevit.analysis.environment by its path, since `import densevit` may be what fails."""
    here = Path(__file__).resolve()
    clone, installed = here.parents[1] / 'densevit', here.parents[2]  # installed: densevit/.mim/tools/doctor.py
    package = clone if clone.is_dir() else installed
    spec = importlib.util.spec_from_file_location('densevit_environment', package / 'analysis' / 'environment.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', action='store_true', help='print the report as JSON')
    args = parser.parse_args()
    environment = load_environment()
    checks = environment.check_machine()
    print(environment.to_json(checks) if args.json else environment.to_text(checks))
    return 0 if environment.is_ready(checks) else 1


if __name__ == '__main__':
    sys.exit(main())
