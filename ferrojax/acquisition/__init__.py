"""From an ideal image to a recorded one."""

from ferrojax.acquisition.scan_image import ScanGeometry as ScanGeometry
from ferrojax.acquisition.scan_image import blurred as blurred
from ferrojax.acquisition.scan_image import expose as expose
from ferrojax.acquisition.scan_image import record as record
from ferrojax.acquisition.scan_image import scan_positions as scan_positions
