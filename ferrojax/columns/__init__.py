"""Find, fit and index atomic columns.

Names load on first use (the list is in the stub): fitting alone needs little of what finding does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
