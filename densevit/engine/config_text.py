"""The text of a config, which a run writes into its folder, its log and every checkpoint."""

from __future__ import annotations

from mmengine.config import Config

__all__ = ['ConfigOfRun']


class ConfigOfRun(Config):
    """mmengine's config, whose text is laid out anew only where something in it has changed.

    mmengine asks for the text three times at the start of a run and once for every checkpoint, and yapf takes up
    to a second for it.
    """

    # what the text was made of, and the text
    _laid_out = ('', '')

    @classmethod
    def of(cls, cfg: Config) -> ConfigOfRun:
        """The same config, of this class."""
        made = cls.__new__(cls)
        made.__setstate__(cfg.__getstate__())
        return made

    @property
    def pretty_text(self) -> str:
        """mmengine's."""
        content = repr(self.to_dict())
        if self._laid_out[0] != content:
            # what is set as an attribute would become a part of the config
            self.__dict__['_laid_out'] = content, super().pretty_text
        return self._laid_out[1]
