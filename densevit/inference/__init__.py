"""What makes a trained model answer faster, and changes neither its answers nor its checkpoint."""

from .folding import FoldedConvModule, fold, unfold

__all__ = ['FoldedConvModule', 'fold', 'unfold']
