"""Vision backbones, one file per family; :mod:`densevit.backbones.base` is what all of them promise."""
