"""Polarization maps of ferroelectrics from STEM images, with a differentiable microscope beside them.

Public names load on first use (the list is in the stub), so that importing the package stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
